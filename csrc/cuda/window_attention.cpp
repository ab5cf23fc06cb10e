// Boundary of the CUDA kernels: reads tensors, allocates outputs and workspace, launches on torch's current stream. No
// value of a tensor is read and nothing waits, so a call can be captured in a CUDA graph.
//
// A call that the kernels do not take goes to the same op in Python, which finds another backend for it.
#include "window_attention.h"

#include <array>
#include <atomic>

#include "device.h"
#include "support.h"

namespace swin_fast {
namespace {

std::atomic<int64_t> cuda_mode{0};

template <class T>
T take(StableIValue value) {
  return torch::stable::detail::to<T>(value);
}

// Calls an op that was defined in Python; the arguments go in and the results come out on the stack.
template <class... Args>
std::array<StableIValue, (sizeof...(Args) > 4 ? sizeof...(Args) : 4)> call(const char* name, const Args&... args) {
  std::array<StableIValue, (sizeof...(Args) > 4 ? sizeof...(Args) : 4)> stack = {torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return stack;
}

DType small_dtype(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      return DType::kFloat32;
  }
}

// How the products of a map are computed; nothing for a dtype that has no kernel.
std::optional<Mode> mode_of(const Tensor& qkv) {
  switch (qkv.scalar_type()) {
    case ScalarType::BFloat16:
      return Mode::kBFloat16;
    case ScalarType::Half:
      return Mode::kFloat16;
    case ScalarType::Float:  // torch's setting is known to Python alone
      return take<bool>(call("swin_fast::tf32")[0]) ? Mode::kTf32 : Mode::kFloat32;
    default:
      return std::nullopt;
  }
}

// The mode in which the kernels take this call, if they do.
std::optional<Mode> mode_here(const Tensor& qkv, int64_t num_heads, const Geometry& geometry,
                              const DeviceFacts& device) {
  if (cuda_mode.load(std::memory_order_relaxed) == 1) return std::nullopt;
  const std::optional<Mode> mode = mode_of(qkv);
  if (!mode) return std::nullopt;
  const CallShape shape = {*mode, qkv.size(0), num_heads, qkv.size(-1) / (3 * num_heads), geometry};
  return why_not(shape, device).empty() ? mode : std::nullopt;
}

// The op's arguments as the kernels see them, and the copies that must live as long.
struct Call {
  CudaParams p = {};
  const Tensor& qkv;
  std::vector<Tensor> keep;

  Call(const Tensor& qkv, const OptionalTensor& bias_table, const OptionalTensor& bias_index,
       const OptionalTensor& pad_qkv, const OptionalTensor& mask, const OptionalTensor& logit_scale,
       const OptionalTensor& dropout_seed, int64_t num_heads, const Geometry& geometry, double scale, double mask_value,
       double dropout_p)
      : qkv(qkv) {
    p.geometry = geometry;
    p.batch = qkv.size(0), p.windows = product(geometry.count);
    p.tokens = int32_t(product(geometry.window)), p.heads = int32_t(num_heads);
    p.head_dim = int32_t(qkv.size(-1) / (3 * num_heads));
    p.scale = float(scale), p.mask_value = float(mask_value), p.dropout_p = dropout_p;
    p.qkv = map(qkv, p.qkv_stride);
    if (bias_table) {
      check_bias(*bias_table, bias_index, geometry, num_heads);
      p.bias = small(*bias_table, p.bias_dtype);
      p.bias_rows = int32_t(bias_table->size(0));
      if (bias_index)
        p.bias_index = static_cast<const int32_t*>(contiguous(*bias_index, ScalarType::Int).const_data_ptr());
    }
    if (pad_qkv) {
      check_pad(*pad_qkv, qkv);
      p.pad_qkv = contiguous(*pad_qkv, qkv.scalar_type()).const_data_ptr();
    }
    if (mask) {
      check_mask(*mask, p.tokens);
      p.mask = static_cast<const float*>(contiguous(*mask, ScalarType::Float).const_data_ptr());
      p.mask_windows = mask->size(0);
    }
    if (logit_scale) {
      check_logit_scale(*logit_scale, num_heads);
      p.logit_scale = small(*logit_scale, p.logit_scale_dtype);
    }
    if (dropout_p > 0) {
      check_seed(dropout_seed);
      p.dropout_seed = static_cast<const int64_t*>(contiguous(*dropout_seed, ScalarType::Long).const_data_ptr());
    }
  }

  void check_device(const Tensor& t) const {
    STD_TORCH_CHECK(t.device() == qkv.device(), "every tensor must be on qkv's device");
  }

  // The tensor itself, or a copy that lives as long as the call.
  const Tensor& contiguous(const Tensor& t, ScalarType dtype) {
    check_device(t);
    if (t.scalar_type() == dtype && t.is_contiguous()) return t;
    keep.push_back(torch::stable::contiguous(t.scalar_type() == dtype ? t : torch::stable::to(t, dtype)));
    return keep.back();
  }

  // A tensor that the kernels read in any dtype but float64.
  const void* small(const Tensor& t, DType& dtype) {
    dtype = small_dtype(t);
    return contiguous(t, dtype == DType::kFloat32 ? ScalarType::Float : t.scalar_type()).const_data_ptr();
  }

  // A map, read where it lies unless its channels are apart.
  const void* map(const Tensor& t, int64_t (&stride)[4]) {
    check_device(t);
    const Tensor& source = t.stride(-1) == 1 ? t : contiguous(t, t.scalar_type());
    grid_strides(stride, source);
    return source.const_data_ptr();
  }
};

// The gradient of a small tensor: the kernels write all of it, in the dtype in which they read the tensor.
struct SmallGradient {
  Tensor result;
  bool wanted;

  SmallGradient(const OptionalTensor& of, const Tensor& like, bool needed) : wanted(of && needed) {
    if (!wanted) {
      result = torch::stable::new_empty(like, Ints{0});
      return;
    }
    const Ints size(of->sizes().begin(), of->sizes().end());
    const bool as_float = of->scalar_type() == ScalarType::Double;
    result = torch::stable::new_empty(*of, size, as_float ? ScalarType::Float : of->scalar_type());
  }

  void* data() { return wanted ? result.mutable_data_ptr() : nullptr; }
  Tensor finish(const OptionalTensor& of) {
    const bool convert = wanted && of->scalar_type() != result.scalar_type();
    return convert ? torch::stable::to(result, of->scalar_type()) : result;
  }
};

}  // namespace

std::tuple<Tensor, Tensor> window_attention_cuda(const Tensor& qkv, const OptionalTensor& bias_table,
                                                 const OptionalTensor& bias_index, const OptionalTensor& pad_qkv,
                                                 const OptionalTensor& mask, const OptionalTensor& logit_scale,
                                                 const OptionalTensor& dropout_seed, int64_t num_heads,
                                                 const Ints& window_size, const Ints& shift_size, double scale,
                                                 bool roll_then_pad, double mask_value, double dropout_p,
                                                 bool save_lse) {
  check_heads(qkv, num_heads);
  const Geometry geometry = geometry_of(grid_of(qkv), window_size, shift_size, roll_then_pad);
  const OnDeviceOf device(qkv);
  const std::optional<Mode> mode = mode_here(qkv, num_heads, geometry, device.facts());
  if (!mode) {
    const auto results =
        call("swin_fast::window_attention_python", qkv, bias_table, bias_index, pad_qkv, mask, logit_scale,
             dropout_seed, num_heads, window_size, shift_size, scale, roll_then_pad, mask_value, dropout_p, save_lse);
    return {take<Tensor>(results[0]), take<Tensor>(results[1])};
  }
  Call c(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, dropout_seed, num_heads, geometry, scale, mask_value,
         dropout_p);
  Tensor out = torch::stable::new_empty(qkv, out_size(qkv));
  Tensor lse = torch::stable::new_empty(qkv, lse_size(qkv, num_heads, save_lse), ScalarType::Float);
  if (c.p.batch == 0) return {out, lse};
  c.p.out = out.mutable_data_ptr();
  c.p.lse = save_lse ? static_cast<float*>(lse.mutable_data_ptr()) : nullptr;
  check_launch(launch_forward(*mode, c.p, device.facts().limits, device.stream()));
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> window_attention_backward_cuda(
    const Tensor& grad, const Tensor& lse, const Tensor& qkv, const OptionalTensor& bias_table,
    const OptionalTensor& bias_index, const OptionalTensor& pad_qkv, const OptionalTensor& mask,
    const OptionalTensor& logit_scale, const OptionalTensor& dropout_seed, int64_t num_heads, const Ints& window_size,
    const Ints& shift_size, double scale, bool roll_then_pad, double mask_value, double dropout_p, int64_t needs) {
  check_heads(qkv, num_heads);
  const Geometry geometry = geometry_of(grid_of(qkv), window_size, shift_size, roll_then_pad);
  const OnDeviceOf device(qkv);
  const std::optional<Mode> mode = mode_here(qkv, num_heads, geometry, device.facts());
  if (!mode) {
    const auto results = call("swin_fast::window_attention_backward_python", grad, lse, qkv, bias_table, bias_index,
                              pad_qkv, mask, logit_scale, dropout_seed, num_heads, window_size, shift_size, scale,
                              roll_then_pad, mask_value, dropout_p, needs);
    return {take<Tensor>(results[0]), take<Tensor>(results[1]), take<Tensor>(results[2]), take<Tensor>(results[3])};
  }
  check_grad(grad, qkv);
  Call c(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, dropout_seed, num_heads, geometry, scale, mask_value,
         dropout_p);
  CudaParams& p = c.p;
  p.grad_out = c.map(grad, p.grad_out_stride);
  const bool want_qkv = needs & 1;
  Tensor grad_qkv = torch::stable::new_empty(qkv, want_qkv ? Ints(qkv.sizes().begin(), qkv.sizes().end()) : Ints{0});
  SmallGradient bias(bias_table, qkv, needs & 2), pad(pad_qkv, qkv, needs & 4), scales(logit_scale, qkv, needs & 8);
  p.grad_qkv = want_qkv ? grad_qkv.mutable_data_ptr() : nullptr;
  p.grad_bias = bias.data(), p.grad_pad = pad.data(), p.grad_logit_scale = scales.data();
  if (p.batch == 0) {
    for (SmallGradient* g : {&bias, &pad, &scales}) torch::stable::zero_(g->result);
  } else {
    const DeviceLimits& limits = device.facts().limits;
    const int64_t bytes = int64_t(backward_plan(*mode, p, limits).workspace_bytes);
    Tensor workspace = torch::stable::new_empty(qkv, Ints{ceil_div(bytes, 4)}, ScalarType::Float);
    p.workspace = static_cast<float*>(workspace.mutable_data_ptr());
    check_launch(launch_backward(*mode, p, limits, device.stream()));
  }
  return {grad_qkv, bias.finish(bias_table), pad.finish(pad_qkv), scales.finish(logit_scale)};
}

int64_t set_cuda_mode(int64_t mode) {
  STD_TORCH_CHECK(mode == 0 || mode == 1, "cuda_mode must be 0 or 1, got ", mode);
  return cuda_mode.exchange(mode);
}

}  // namespace swin_fast
