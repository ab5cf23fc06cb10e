// The three matrix products of attention on 2-byte tiles in shared memory, one warp's share of each.
//
// A warp holds 16 rows of the result in registers: lane l has rows l / 4 and l / 4 + 8, and of every 8 columns
// 2 (l % 4) and the one after, at [column tile][2 * (row >= 8) + column % 2]. Those are also the registers of the left
// operand of the next product, so weights never leave the registers on their way to the values.
#pragma once

#include "element.cuh"
#include "tile_size.h"

namespace swin_fast {

template <Mode kMode, int kHeadDim>
struct Product {
  using Numbers = Element<kMode>;
  using Storage = uint16_t;
  static constexpr int kStride = row_stride(kMode, kHeadDim);

  // scores (16 x 64) = a (16 x kHeadDim) * b (64 x kHeadDim)^T; `columns` are wanted, the others become zero.
  static __device__ __forceinline__ void rows_by_rows(float (&scores)[kKeyTiles][4], const Storage* a, const Storage* b,
                                                      int columns) {
    const int lane = threadIdx.x % 32;
    a += lane % 16 * kStride + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0.f;
#pragma unroll
    for (int k = 0; k < kHeadDim; k += 16) {
      uint32_t left[4];
      ptx::load_matrix_x4(left, a + k);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        if (n * 8 >= columns) break;
        uint32_t right[4];
        ptx::load_matrix_x4(right, b + n * 8 * kStride + k);
        Numbers::mma(scores[n], left, right[0], right[1]);
        if (n * 8 + 8 < columns) Numbers::mma(scores[n + 1], left, right[2], right[3]);
      }
    }
  }

  // sum (16 x kHeadDim) += weights (16 x 64) * b (64 x kHeadDim); `rows` of b count.
  static __device__ __forceinline__ void weights_by_rows(float (&sum)[kHeadDim / 8][4],
                                                         const float (&weights)[kKeyTiles][4], const Storage* b,
                                                         int rows) {
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += 2) {
      if (k * 8 >= rows) break;
      const uint32_t left[4] = {
          Numbers::pack(weights[k][0], weights[k][1]), Numbers::pack(weights[k][2], weights[k][3]),
          Numbers::pack(weights[k + 1][0], weights[k + 1][1]), Numbers::pack(weights[k + 1][2], weights[k + 1][3])};
      add_rows(sum, left, b + k * 8 * kStride);
    }
  }

  // sum (16 x kHeadDim) += weights^T (16 x 64) * b (64 x kHeadDim), weights from a tile in shared memory (64 rows,
  // `weights` points to the 16 columns); `rows` of both count.
  static __device__ __forceinline__ void columns_by_rows(float (&sum)[kHeadDim / 8][4], const Storage* weights,
                                                         const Storage* b, int rows) {
    const int lane = threadIdx.x % 32;
    weights += (lane / 16 * 8 + lane % 8) * kWeightStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kChunk; k += 16) {
      if (k >= rows) break;
      uint32_t left[4];
      ptx::load_matrix_x4_trans(left, weights + k * kWeightStride);
      add_rows(sum, left, b + k * kStride);
    }
  }

 private:
  // sum += left (16 x 16) * b (16 x kHeadDim)
  static __device__ __forceinline__ void add_rows(float (&sum)[kHeadDim / 8][4], const uint32_t (&left)[4],
                                                  const Storage* b) {
    const int lane = threadIdx.x % 32;
    b += lane % 16 * kStride + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; n += 2) {
      uint32_t right[4];
      ptx::load_matrix_x4_trans(right, b + n * 8);
      Numbers::mma(sum[n], left, right[0], right[1]);
      Numbers::mma(sum[n + 1], left, right[2], right[3]);
    }
  }
};

}  // namespace swin_fast
