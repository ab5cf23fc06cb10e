// How numbers are stored: conversions between float32 and the element type of a mode, and of a run-time dtype.
#pragma once

#include "ptx.cuh"
#include "window_attention_params.h"

namespace swin_fast {

template <Mode>
struct Element {  // kFloat32 and kTf32
  using Storage = float;
  static __device__ __forceinline__ float to_float(float x) { return x; }
  static __device__ __forceinline__ void store_pair(float* at, float a, float b) {
    *reinterpret_cast<float2*>(at) = make_float2(a, b);
  }
};

template <>
struct Element<Mode::kBFloat16> {
  using Storage = uint16_t;
  static __device__ __forceinline__ float to_float(uint16_t x) { return ptx::bf16_to_float(x); }
  static __device__ __forceinline__ uint32_t pack(float a, float b) { return ptx::pack_bf16(a, b); }
  static __device__ __forceinline__ void store_pair(uint16_t* at, float a, float b) {
    *reinterpret_cast<uint32_t*>(at) = pack(a, b);
  }
  static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_bf16(c, a, b0, b1);
  }
};

template <>
struct Element<Mode::kFloat16> {
  using Storage = uint16_t;
  static __device__ __forceinline__ float to_float(uint16_t x) { return ptx::f16_to_float(x); }
  static __device__ __forceinline__ uint32_t pack(float a, float b) { return ptx::pack_f16(a, b); }
  static __device__ __forceinline__ void store_pair(uint16_t* at, float a, float b) {
    *reinterpret_cast<uint32_t*>(at) = pack(a, b);
  }
  static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_f16(c, a, b0, b1);
  }
};

__device__ __forceinline__ float load_as_float(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBFloat16 ? ptx::bf16_to_float(bits) : ptx::f16_to_float(bits);
}

__device__ __forceinline__ void store_as(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<uint16_t*>(data)[i] =
        uint16_t(dtype == DType::kBFloat16 ? ptx::pack_bf16(value, 0.f) : ptx::pack_f16(value, 0.f));
}

}  // namespace swin_fast
