// The products of product_half.cuh on float32 tiles: on the tensor cores with rounded operands (TF32), and exact.
#pragma once

#include "product_half.cuh"

namespace swin_fast {

template <int kHeadDim>
struct Product<Mode::kTf32, kHeadDim> {
  using Storage = float;
  static constexpr int kStride = row_stride(Mode::kTf32, kHeadDim);

  static __device__ __forceinline__ void rows_by_rows(float (&scores)[kKeyTiles][4], const float* a, const float* b,
                                                      int columns) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    a += group * kStride + member;
    b += group * kStride + member;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0.f;
#pragma unroll
    for (int k = 0; k < kHeadDim; k += 8) {
      const uint32_t left[4] = {ptx::to_tf32(a[k]), ptx::to_tf32(a[8 * kStride + k]), ptx::to_tf32(a[k + 4]),
                                ptx::to_tf32(a[8 * kStride + k + 4])};
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        if (n * 8 >= columns) break;
        const float* row = b + n * 8 * kStride + k;
        ptx::mma_tf32(scores[n], left, ptx::to_tf32(row[0]), ptx::to_tf32(row[4]));
      }
    }
  }

  // The order of the keys in a step of eight is free: a lane's own columns 2m and 2m + 1 stand for steps m and m + 4.
  static __device__ __forceinline__ void weights_by_rows(float (&sum)[kHeadDim / 8][4],
                                                         const float (&weights)[kKeyTiles][4], const float* b,
                                                         int rows) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    b += 2 * member * kStride + group;
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
      if (k * 8 >= rows) break;
      const uint32_t left[4] = {ptx::to_tf32(weights[k][0]), ptx::to_tf32(weights[k][2]), ptx::to_tf32(weights[k][1]),
                                ptx::to_tf32(weights[k][3])};
      add_rows(sum, left, b + k * 8 * kStride, b + (k * 8 + 1) * kStride);
    }
  }

  static __device__ __forceinline__ void columns_by_rows(float (&sum)[kHeadDim / 8][4], const float* weights,
                                                         const float* b, int rows) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    weights += member * kWeightStride + group;
    b += member * kStride + group;
#pragma unroll
    for (int k = 0; k < kChunk; k += 8) {
      if (k >= rows) break;
      const float *near = weights + k * kWeightStride, *far = near + 4 * kWeightStride;
      const uint32_t left[4] = {ptx::to_tf32(near[0]), ptx::to_tf32(near[8]), ptx::to_tf32(far[0]),
                                ptx::to_tf32(far[8])};
      add_rows(sum, left, b + k * kStride, b + (k + 4) * kStride);
    }
  }

 private:
  static __device__ __forceinline__ void add_rows(float (&sum)[kHeadDim / 8][4], const uint32_t (&left)[4],
                                                  const float* near, const float* far) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n)
      ptx::mma_tf32(sum[n], left, ptx::to_tf32(near[n * 8]), ptx::to_tf32(far[n * 8]));
  }
};

// Multiply-adds in float32 with the results where the matrix instructions would leave them.
template <int kHeadDim>
struct Product<Mode::kFloat32, kHeadDim> {
  using Storage = float;
  static constexpr int kStride = row_stride(Mode::kFloat32, kHeadDim);

  static __device__ __forceinline__ void rows_by_rows(float (&scores)[kKeyTiles][4], const float* a, const float* b,
                                                      int columns) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    a += group * kStride;
    b += 2 * member * kStride;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0.f;
#pragma unroll 1
    for (int k = 0; k < kHeadDim; k += 4) {
      const float4 low = load4(a + k), high = load4(a + 8 * kStride + k);
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        if (n * 8 >= columns) break;
        const float4 left = load4(b + n * 8 * kStride + k), right = load4(b + (n * 8 + 1) * kStride + k);
        add_dot(scores[n][0], low, left);
        add_dot(scores[n][1], low, right);
        add_dot(scores[n][2], high, left);
        add_dot(scores[n][3], high, right);
      }
    }
  }

  static __device__ __forceinline__ void weights_by_rows(float (&sum)[kHeadDim / 8][4],
                                                         const float (&weights)[kKeyTiles][4], const float* b,
                                                         int rows) {
    const int lane = threadIdx.x % 32;
    b += 2 * (lane % 4);
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
      if (k * 8 >= rows) break;
#pragma unroll 1
      for (int from = 0; from < 4; ++from)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const int source = lane / 4 * 4 + from;
          const float low = __shfl_sync(0xffffffffu, weights[k][odd], source);
          const float high = __shfl_sync(0xffffffffu, weights[k][2 + odd], source);
          add_rows(sum, low, high, b + (k * 8 + 2 * from + odd) * kStride);
        }
    }
  }

  static __device__ __forceinline__ void columns_by_rows(float (&sum)[kHeadDim / 8][4], const float* weights,
                                                         const float* b, int rows) {
    const int lane = threadIdx.x % 32;
    weights += lane / 4;
    b += 2 * (lane % 4);
    const int count = rows < kChunk ? rows : kChunk;
#pragma unroll 4
    for (int k = 0; k < count; ++k)
      add_rows(sum, weights[k * kWeightStride], weights[k * kWeightStride + 8], b + k * kStride);
  }

 private:
  static __device__ __forceinline__ float4 load4(const float* at) { return *reinterpret_cast<const float4*>(at); }

  static __device__ __forceinline__ void add_dot(float& sum, float4 a, float4 b) {
    sum = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
  }

  static __device__ __forceinline__ void add_rows(float (&sum)[kHeadDim / 8][4], float low, float high,
                                                  const float* b) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      const float2 pair = *reinterpret_cast<const float2*>(b + n * 8);
      sum[n][0] = fmaf(low, pair.x, sum[n][0]);
      sum[n][1] = fmaf(low, pair.y, sum[n][1]);
      sum[n][2] = fmaf(high, pair.x, sum[n][2]);
      sum[n][3] = fmaf(high, pair.y, sum[n][3]);
    }
  }
};

}  // namespace swin_fast
