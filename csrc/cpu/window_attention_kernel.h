// The kernels of one instruction set, as a table. Included by one translation unit per instruction set, which defines
// SWIN_FAST_ISA (its namespace) and SWIN_FAST_VECTOR_BYTES first. No torch header, no std template: see simd.h.
#pragma once

#include "window_attention_backward_dot.h"
#include "window_attention_forward_dot.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

template <class Kernel>
size_t scratch_of(const WindowAttentionParams& p) {
  Arena count{nullptr};
  Kernel kernel(p, count);
  return count.used;
}

template <class Kernel>
void run_items(const WindowAttentionParams& p, int64_t begin, int64_t end, void* scratch) {
  Arena arena{static_cast<char*>(scratch)};
  Kernel kernel(p, arena);
  for (int64_t item = begin; item < end; ++item) kernel.run(item);
#if defined(__AVX512F__)
  _mm_sfence();  // streamed stores become visible before whoever waits for this thread goes on
#endif
}

// Storage type -> (storage type, type of the arithmetic)
#define SWIN_FAST_BY_DTYPE(dtype, CALL) \
  switch (dtype) {                      \
    case DType::kFloat32:               \
      return CALL(float, float);        \
    case DType::kBFloat16:              \
      return CALL(BFloat16, float);     \
    case DType::kFloat16:               \
      return CALL(Float16, float);      \
    default:                            \
      return CALL(double, double);      \
  }

inline size_t forward_scratch(const WindowAttentionParams& p, DType dtype) {
#if defined(__AVX512BF16__)
  if (dtype == DType::kBFloat16 && pairs_serve(p)) return scratch_of<ForwardDot>(p);
#endif
#define CALL(T, A) scratch_of<Forward<T, A>>(p)
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}
inline double score_unit(const WindowAttentionParams& p, DType dtype) {
#if defined(__AVX512BF16__)
  if (dtype == DType::kBFloat16 && pairs_serve(p)) return PairScores::unit(p);
#endif
  (void)p, (void)dtype;
  return kLog2E;
}
inline size_t backward_scratch(const WindowAttentionParams& p, DType dtype) {
#if defined(__AVX512BF16__)
  if (dtype == DType::kBFloat16 && pairs_serve(p)) return scratch_of<BackwardDot>(p);
#endif
#define CALL(T, A) scratch_of<Backward<T, A>>(p)
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}
inline void forward(const WindowAttentionParams& p, DType dtype, int64_t begin, int64_t end, void* scratch) {
#if defined(__AVX512BF16__)
  if (dtype == DType::kBFloat16 && pairs_serve(p)) return run_items<ForwardDot>(p, begin, end, scratch);
#endif
#define CALL(T, A) run_items<Forward<T, A>>(p, begin, end, scratch)
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}
inline void backward(const WindowAttentionParams& p, DType dtype, int64_t begin, int64_t end, void* scratch) {
#if defined(__AVX512BF16__)
  if (dtype == DType::kBFloat16 && pairs_serve(p)) return run_items<BackwardDot>(p, begin, end, scratch);
#endif
#define CALL(T, A) run_items<Backward<T, A>>(p, begin, end, scratch)
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}
inline size_t bias_bytes(const WindowAttentionParams& p, DType dtype) {
#define CALL(T, A) sizeof(A) * size_t(p.heads* Blocks<A>(p.tokens).count* p.tokens* kBlock)
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}
inline void prepare_bias(const WindowAttentionParams& p, DType dtype, int64_t begin, int64_t end, void* dense) {
#define CALL(T, A) prepare_bias_heads<A>(p, begin, end, static_cast<A*>(dense))
  SWIN_FAST_BY_DTYPE(dtype, CALL)
#undef CALL
}

inline WindowAttentionKernels kernels() {
  return {score_unit, forward_scratch, backward_scratch, bias_bytes, prepare_bias, forward, backward};
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
