// The primitives of csrc/cuda/ptx.cuh, executed by the stand-in. The same names and signatures; each also takes the
// line of its caller, for reports.
#pragma once

#include <cuda_runtime.h>

#include "matrix.h"

namespace swin_fast::ptx {

using emulation::Half;
using emulation::Where;

inline unsigned char* shared_memory() { return emulation::shared_memory(); }

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Where where = emulation::here()) {
  const uint32_t b[2] = {b0, b1};
  emulation::multiply_k16(Half::kBFloat16, c, a, b, c, where);
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Where where = emulation::here()) {
  const uint32_t b[2] = {b0, b1};
  emulation::multiply_k16(Half::kFloat16, c, a, b, c, where);
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Where where = emulation::here()) {
  const uint32_t b[2] = {b0, b1};
  emulation::multiply_k8_tf32(c, a, b, c, where);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row, Where where = emulation::here()) {
  emulation::load_matrices(r, 4, false, row, where);
}
inline void load_matrix_x4_trans(uint32_t (&r)[4], const void* row, Where where = emulation::here()) {
  emulation::load_matrices(r, 4, true, row, where);
}

inline void copy_async_16(void* shared, const void* global, bool valid, Where where = emulation::here()) {
  emulation::copy_async(shared, global, 16, valid ? 16 : 0, where);
}
inline void copy_async_4(void* shared, const void* global, bool valid, Where where = emulation::here()) {
  emulation::copy_async(shared, global, 4, valid ? 4 : 0, where);
}
inline void copy_async_commit() { emulation::copy_async_commit(); }
template <int kPending>
inline void copy_async_wait() {
  emulation::copy_async_wait(kPending);
}

inline uint32_t pack_bf16(float low, float high) {
  return emulation::from_float(Half::kBFloat16, low) | uint32_t{emulation::from_float(Half::kBFloat16, high)} << 16;
}
inline uint32_t pack_f16(float low, float high) {
  return emulation::from_float(Half::kFloat16, low) | uint32_t{emulation::from_float(Half::kFloat16, high)} << 16;
}
inline float bf16_to_float(uint16_t x) { return emulation::to_float(Half::kBFloat16, x); }
inline float f16_to_float(uint16_t x) { return emulation::to_float(Half::kFloat16, x); }
inline uint32_t to_tf32(float x) { return emulation::to_tf32(x); }
inline float exp2_approx(float x) {
  const float power = exp2f(x);
  return power < 0x1p-126f ? 0 : power;  // .ftz
}

}  // namespace swin_fast::ptx
