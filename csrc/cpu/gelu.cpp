// Boundary of the GELU kernels: reads the tensor, allocates the result, splits the work over torch's threads.
#include "../common/stable.h"
#include "capability.h"

namespace swin_fast {
namespace {

constexpr int64_t kPiece = 1024;  // elements: pieces begin at whole vectors and cache lines
constexpr int64_t kGrain = 32;    // pieces, about 10 microseconds, where a thread is worth waking

DType gelu_dtype(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "x must be float32, bfloat16 or float16");
  }
}

void run(const Tensor& x, void* out) {
  const DType dtype = gelu_dtype(x);
  const GeluKernel kernel = cpu_capability().gelu;
  const int64_t n = x.numel();
  const void* in = x.const_data_ptr();
  torch::stable::parallel_for(0, ceil_div(n, kPiece), kGrain, [&](int64_t begin, int64_t end) {
    kernel(in, out, dtype, begin * kPiece, end * kPiece < n ? end * kPiece : n);
  });
}

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.stride(d) != b.stride(d)) return false;
  return true;
}

Tensor gelu(const Tensor& x) {
  Tensor out = torch::stable::empty_like(x);  // the same strides where x is dense in any order of its axes
  const bool dense = same_strides(x, out);
  const Tensor source = dense ? x : torch::stable::contiguous(x);
  if (!dense) out = torch::stable::empty_like(source);
  run(source, out.mutable_data_ptr());
  return out;
}

void gelu_in_place(const Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  run(x, x.mutable_data_ptr());
}

}  // namespace
}  // namespace swin_fast

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CPU, m) {
  m.impl("gelu", TORCH_BOX(&swin_fast::gelu));
  m.impl("gelu_", TORCH_BOX(&swin_fast::gelu_in_place));
}
