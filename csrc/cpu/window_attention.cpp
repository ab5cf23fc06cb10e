// Boundary of the CPU kernels: reads tensors, allocates outputs, splits the work over torch's threads. Messages for
// people are raised in Python (functional.py); the checks here only keep a direct call of the op from reading out of
// bounds.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "../common/arguments.h"
#include "capability.h"

namespace swin_fast {
namespace {

constexpr size_t kDenseBiasBytes = 8 << 20;  // expanded once per call up to this, per window above
// A block as large as this glibc takes from the system when it is asked for and gives back when it is freed, so the
// first write to each page of a result is a fault, which would cost more than the attention.
constexpr uintptr_t kFreshBytes = 32 << 20, kLargePage = 2 << 20;

// Pages of 2 MiB for a large result nobody has written to: 512 times fewer faults. A kernel without them says no, and
// pages stay small.
void* in_large_pages(const Tensor& result) {
  void* data = result.mutable_data_ptr();
#if defined(MADV_HUGEPAGE)
  const uintptr_t from = uintptr_t(data), bytes = uintptr_t(result.numel()) * result.element_size();
  if (bytes < kFreshBytes) return data;
  const uintptr_t first = (from + kLargePage - 1) / kLargePage * kLargePage;
  madvise(reinterpret_cast<void*>(first), (from + bytes) / kLargePage * kLargePage - first, MADV_HUGEPAGE);
#endif
  return data;
}

ScalarType acc_type(const Tensor& qkv) {
  return qkv.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

DType kernel_dtype(const Tensor& qkv) {
  switch (qkv.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "qkv must be float32, bfloat16, float16 or float64");
  }
}

// Memory of one thread, kept between calls: fresh blocks of these sizes would be page-faulted in every time.
struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
  void* at_least(size_t bytes) {
    if (size < bytes) {
      std::free(data);
      size = (bytes + 4095) / 4096 * 4096;
      data = std::aligned_alloc(4096, size);
      if (!data) size = 0;
      STD_TORCH_CHECK(data, "out of memory for ", bytes, " bytes of scratch");
    }
    return data;
  }
};

void* thread_scratch(size_t bytes) {
  static thread_local Buffer buffer;
  return buffer.at_least(bytes);
}

// The op's arguments as the kernels see them, and the temporaries that must live as long.
struct Call {
  WindowAttentionParams p = {};
  DType dtype;
  ScalarType acc;
  WindowAttentionKernels kernels;
  std::vector<Tensor> keep;

  Call(const Tensor& qkv, const OptionalTensor& bias_table, const OptionalTensor& bias_index,
       const OptionalTensor& pad_qkv, const OptionalTensor& mask, const OptionalTensor& logit_scale,
       const OptionalTensor& dropout_seed, int64_t num_heads, const Ints& window_size, const Ints& shift_size,
       double scale, bool roll_then_pad, double mask_value, double dropout_p)
      : dtype(kernel_dtype(qkv)), acc(acc_type(qkv)), kernels(cpu_capability().kernels) {
    check_heads(qkv, num_heads);
    p.geometry = geometry_of(grid_of(qkv), window_size, shift_size, roll_then_pad);
    p.tokens = product(p.geometry.window), p.windows = product(p.geometry.count);
    p.batch = qkv.size(0), p.heads = num_heads, p.head_dim = qkv.size(-1) / (3 * num_heads);
    p.scale = scale, p.mask_value = mask_value, p.dropout_p = dropout_p;
    STD_TORCH_CHECK(p.tokens <= 1024 && p.head_dim <= 256, "a window holds at most 1024 tokens, a head 256 channels");
    const Tensor source = qkv.stride(-1) == 1 ? qkv : keep_alive(torch::stable::contiguous(qkv));
    p.qkv = source.const_data_ptr();
    grid_strides(p.qkv_stride, source);
    if (logit_scale) {
      check_logit_scale(*logit_scale, num_heads);
      p.logit_scale = in_acc(*logit_scale).const_data_ptr();
    }
    p.score_unit = kernels.score_unit(p, dtype);
    if (bias_table) set_bias(*bias_table, bias_index);
    if (pad_qkv) {
      check_pad(*pad_qkv, qkv);
      p.pad_qkv = keep_alive(torch::stable::contiguous(*pad_qkv)).const_data_ptr();
    }
    if (mask) {
      check_mask(*mask, p.tokens);
      p.mask = in_acc(*mask).const_data_ptr();
      p.mask_windows = mask->size(0);
    }
    if (dropout_p > 0) {
      check_seed(dropout_seed);
      p.dropout_seed = static_cast<uint64_t>(*dropout_seed->const_data_ptr<int64_t>());
    }
  }

  int64_t items() const { return p.batch * p.windows * p.heads; }

  const Tensor& keep_alive(Tensor t) {
    keep.push_back(std::move(t));
    return keep.back();
  }

  const Tensor& in_acc(const Tensor& t) {
    return keep_alive(torch::stable::contiguous(t.scalar_type() == acc ? t : torch::stable::to(t, acc)));
  }

  void set_bias(const Tensor& table, const OptionalTensor& index) {
    check_bias(table, index, p.geometry, p.heads);
    p.bias_rows = table.size(0);
    const Tensor by_head = torch::stable::new_empty(table, Ints{p.heads, p.bias_rows}, acc);
    const Tensor rows = in_acc(table);
    if (acc == ScalarType::Double)
      transpose_scaled(by_head, rows.const_data_ptr<double>());
    else
      transpose_scaled(by_head, rows.const_data_ptr<float>());
    p.bias = keep_alive(by_head).const_data_ptr();
    if (!index) return;
    p.bias_index =
        keep_alive(torch::stable::contiguous(
                       index->scalar_type() == ScalarType::Long ? *index : torch::stable::to(*index, ScalarType::Long)))
            .const_data_ptr<int64_t>();
    bool inside = true;
    for (int64_t i = 0; i < p.tokens * p.tokens; ++i)
      inside &= p.bias_index[i] >= -p.bias_rows && p.bias_index[i] < p.bias_rows;
    STD_TORCH_CHECK(inside, "bias_index must be in [-", p.bias_rows, ", ", p.bias_rows, ")");
  }

  template <class A>
  void transpose_scaled(const Tensor& by_head, const A* rows) const {
    A* dst = static_cast<A*>(by_head.mutable_data_ptr());
    for (int64_t r = 0; r < p.bias_rows; ++r)
      for (int64_t h = 0; h < p.heads; ++h) dst[h * p.bias_rows + r] = rows[r * p.heads + h] * A(p.score_unit);
  }

  // Work per thread is at least about 20 microseconds, where a thread is worth waking.
  int64_t grain(int64_t items, double products) const {
    const double flops =
        products * 2 * double(p.tokens) * double(p.tokens) * double(p.head_dim) * double(this->items());
    const double per_item = flops / double(items > 0 ? items : 1);
    return int64_t(1e6 / (per_item + 1)) + 1;
  }

  // The caller's buffer is read by every thread until parallel_for returns.
  void prepare_bias() {
    static thread_local Buffer buffer;
    const size_t bytes = p.bias ? kernels.bias_bytes(p, dtype) : 0;
    if (!p.bias || p.batch * p.windows < 2 || bytes > kDenseBiasBytes) return;
    void* data = buffer.at_least(bytes);
    torch::stable::parallel_for(0, p.heads, 8,
                                [&](int64_t begin, int64_t end) { kernels.prepare_bias(p, dtype, begin, end, data); });
    p.bias_dense = data;
  }
};

std::tuple<Tensor, Tensor> window_attention(const Tensor& qkv, const OptionalTensor& bias_table,
                                            const OptionalTensor& bias_index, const OptionalTensor& pad_qkv,
                                            const OptionalTensor& mask, const OptionalTensor& logit_scale,
                                            const OptionalTensor& dropout_seed, int64_t num_heads,
                                            const Ints& window_size, const Ints& shift_size, double scale,
                                            bool roll_then_pad, double mask_value, double dropout_p, bool save_lse) {
  Call call(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, dropout_seed, num_heads, window_size, shift_size,
            scale, roll_then_pad, mask_value, dropout_p);
  Tensor out = torch::stable::new_empty(qkv, out_size(qkv));
  Tensor lse = torch::stable::new_empty(qkv, lse_size(qkv, num_heads, save_lse), call.acc);
  WindowAttentionParams& p = call.p;
  if (call.items() == 0) return {out, lse};
  call.prepare_bias();
  p.out = in_large_pages(out);
  p.lse = save_lse ? lse.mutable_data_ptr() : nullptr;
  const size_t scratch = call.kernels.forward_scratch(p, call.dtype);
  torch::stable::parallel_for(0, call.items(), call.grain(call.items(), 2), [&](int64_t begin, int64_t end) {
    call.kernels.forward(p, call.dtype, begin, end, thread_scratch(scratch));
  });
  return {out, lse};
}

struct SharedGradient {  // one that many windows add to: partial sums while the kernel runs, then the total
  bool wanted = false;
  Tensor partial;
  Ints shape;

  double* start(const Tensor& like, int64_t chunks, bool want, Ints entries) {
    wanted = want;
    if (!wanted) return nullptr;
    shape = std::move(entries);
    Ints size = {chunks};
    size.insert(size.end(), shape.begin(), shape.end());
    partial = torch::stable::new_empty(like, size, ScalarType::Double);
    return static_cast<double*>(partial.mutable_data_ptr());
  }

  // The sum in chunk order, in the dtype of what it is the gradient of.
  Tensor finish(const Tensor& like, int64_t chunks, const OptionalTensor& of, bool transpose) const {
    if (!wanted) return torch::stable::new_empty(like, Ints{0});
    Tensor total = torch::stable::new_empty(like, shape, ScalarType::Double);
    const int64_t count = total.numel();
    const double* at = static_cast<const double*>(partial.const_data_ptr());
    double* sum = static_cast<double*>(total.mutable_data_ptr());
    std::copy(at, at + count, sum);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = 0; i < count; ++i) sum[i] += at[c * count + i];
    const Tensor result = torch::stable::to(total, of->scalar_type());
    return transpose ? torch::stable::contiguous(torch::stable::transpose(result, 0, 1)) : result;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> window_attention_backward(
    const Tensor& grad, const Tensor& /*lse*/, const Tensor& qkv, const OptionalTensor& bias_table,
    const OptionalTensor& bias_index, const OptionalTensor& pad_qkv, const OptionalTensor& mask,
    const OptionalTensor& logit_scale, const OptionalTensor& dropout_seed, int64_t num_heads, const Ints& window_size,
    const Ints& shift_size, double scale, bool roll_then_pad, double mask_value, double dropout_p, int64_t needs) {
  Call call(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, dropout_seed, num_heads, window_size, shift_size,
            scale, roll_then_pad, mask_value, dropout_p);
  WindowAttentionParams& p = call.p;
  check_grad(grad, qkv);
  const Tensor grad_out = grad.stride(-1) == 1 ? grad : torch::stable::contiguous(grad);
  p.grad_out = grad_out.const_data_ptr();
  grid_strides(p.grad_out_stride, grad_out);
  // The split depends on the shape alone, never on the number of threads: sums come out the same on any machine size.
  // A chunk of a few windows pays for clearing and folding its dense bias gradient; about 64 items keep threads busy; a
  // group's dense gradients stay in the second-level cache.
  const int64_t total = p.batch * p.windows, head_bytes = ceil_div(p.tokens, kBlock) * p.tokens * kBlock * 4;
  p.chunks = std::clamp<int64_t>(ceil_div(total, 4), 1, 64);
  const int64_t heads_in_group = std::min(ceil_div(p.heads * p.chunks, 64), (256 << 10) / head_bytes);
  p.head_groups = ceil_div(p.heads, std::max<int64_t>(1, heads_in_group));

  const bool want_qkv = needs & 1;
  Tensor grad_qkv = torch::stable::new_empty(qkv, want_qkv ? Ints(qkv.sizes().begin(), qkv.sizes().end()) : Ints{0});
  p.grad_qkv = want_qkv ? in_large_pages(grad_qkv) : nullptr;
  SharedGradient bias, pad, scales;
  p.grad_bias = bias.start(qkv, p.chunks, bias_table && (needs & 2), {p.heads, p.bias_rows});
  p.grad_pad = pad.start(qkv, p.chunks, pad_qkv && (needs & 4), {qkv.size(-1)});
  p.grad_scale = scales.start(qkv, p.chunks, logit_scale && (needs & 8), {p.heads});
  if (total > 0) {
    call.prepare_bias();
    const size_t scratch = call.kernels.backward_scratch(p, call.dtype);
    const int64_t items = p.chunks * p.head_groups;
    torch::stable::parallel_for(0, items, call.grain(items, 5), [&](int64_t begin, int64_t end) {
      call.kernels.backward(p, call.dtype, begin, end, thread_scratch(scratch));
    });
  } else {
    for (SharedGradient* g : {&bias, &pad, &scales})
      if (g->wanted) torch::stable::zero_(g->partial);
  }
  return {grad_qkv, bias.finish(qkv, p.chunks, bias_table, true), pad.finish(qkv, p.chunks, pad_qkv, false),
          scales.finish(qkv, p.chunks, logit_scale, false)};
}

std::string cpu_capability_name() { return cpu_capability().name; }

}  // namespace
}  // namespace swin_fast

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CPU, m) {
  m.impl("window_attention", TORCH_BOX(&swin_fast::window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&swin_fast::window_attention_backward));
}

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&swin_fast::cpu_capability_name));
}
