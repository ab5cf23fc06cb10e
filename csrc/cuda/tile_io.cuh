// Rows of a window between global and shared memory, 16 bytes at a time where every row starts at a multiple of that.
#pragma once

#include "../common/philox.h"
#include "element.cuh"
#include "tile_size.h"

namespace swin_fast {

// Bytes that can be copied at once: every row of a head begins, and ends, at a multiple of them.
template <class Storage>
SWIN_FAST_HOST_DEVICE inline int copy_bytes(const void* base, const int64_t* stride, const CudaParams& p) {
  const int64_t size = int64_t(sizeof(Storage));
  uint64_t bits = reinterpret_cast<uintptr_t>(base) | uint64_t(p.head_dim * size);
  for (int a = 0; stride && a < 4; ++a)
    if (a == 0 ? p.batch > 1 : p.geometry.grid[a - 1] > 1) bits |= uint64_t(stride[a] * size);
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : int(size);
}

// What the kernels are told beside the arguments of the op.
struct Schedule {
  int64_t windows_per_block;
  int stages;                            // see LaunchPlan
  int qkv_bytes, grad_bytes, out_bytes;  // see copy_bytes
  float keep_scale;                      // of the weights that dropout keeps
  uint32_t drop_below;
};

template <class Storage>
Schedule make_schedule(const CudaParams& p, const LaunchPlan& plan, bool backward) {
  int qkv = copy_bytes<Storage>(p.qkv, p.qkv_stride, p), grad = 0;
  if (p.pad_qkv) {
    const int pad = copy_bytes<Storage>(p.pad_qkv, nullptr, p);
    qkv = pad < qkv ? pad : qkv;
  }
  if (backward) grad = copy_bytes<Storage>(p.grad_out, p.grad_out_stride, p);
  return {plan.windows_per_block,
          plan.stages,
          qkv,
          grad,
          copy_bytes<Storage>(backward ? p.grad_qkv : p.out, nullptr, p),
          float(1 / (1 - p.dropout_p)),
          dropout_threshold(p.dropout_p)};
}

// Starts copying one head's rows into kParts tiles, `part_size` elements apart in memory: q, k and v of one token.
// Zeros where `from` has no row and right of head_dim. `column` is the head's first column.
template <class Storage, int kHeadDim, int kStride, int kParts>
__device__ __forceinline__ void copy_rows(Storage* const (&tiles)[kParts], const void* const* from, int64_t column,
                                          int64_t part_size, int rows, int head_dim, int bytes) {
  const int tid = int(threadIdx.x), threads = int(blockDim.x);
  if (bytes == 16) {
    constexpr int kPer = 16 / int(sizeof(Storage)),
                  kChunks = kHeadDim / kPer;  // at most 16, so a warp has whole rows
    const int c = tid % kChunks * kPer;
    for (int row = tid / kChunks; row < rows; row += threads / kChunks) {
      const Storage* at = static_cast<const Storage*>(from[row]);
      const bool valid = at && c < head_dim;
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        ptx::copy_async_16(tiles[part] + row * kStride + c, at + (column + c + part * part_size), valid);
    }
  } else {
    constexpr int kPer = 4 / int(sizeof(Storage));
#pragma unroll 1
    for (int i = tid; i < rows * kHeadDim / kPer; i += threads) {
      const int row = i * kPer / kHeadDim, c = i * kPer % kHeadDim;
      const Storage* at = static_cast<const Storage*>(from[row]);
      const bool valid = at && c < head_dim;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        Storage* to = tiles[part] + row * kStride + c;
        const Storage* x = at + (column + c + part * part_size);
        if (bytes == 4) {
          ptx::copy_async_4(to, x, valid);
        } else {
#pragma unroll
          for (int e = 0; e < kPer; ++e) to[e] = valid ? x[e] : Storage(0);
        }
      }
    }
  }
}

// The 16 rows of a warp from registers to a tile in shared memory, times a factor for the lane's two rows.
template <Mode kMode, int kTiles, int kStride>
__device__ __forceinline__ void put_rows(typename Element<kMode>::Storage* tile, const float (&rows)[kTiles][4],
                                         float low, float high) {
  const int lane = threadIdx.x % 32;
  tile += lane / 4 * kStride + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    Element<kMode>::store_pair(tile + n * 8, rows[n][0] * low, rows[n][1] * low);
    Element<kMode>::store_pair(tile + 8 * kStride + n * 8, rows[n][2] * high, rows[n][3] * high);
  }
}

// The warp's 16 rows from a tile to a contiguous map of `row_size` elements a token; those outside the map are dropped.
template <class Storage, int kHeadDim, int kStride>
__device__ __forceinline__ void store_rows(void* map, const Storage* tile, const int32_t* position, int64_t first_token,
                                           int64_t row_size, int64_t column, int head_dim, int bytes) {
  Storage* base = static_cast<Storage*>(map) + first_token * row_size + column;
  const int lane = threadIdx.x % 32;
  if (bytes == 16) {
    constexpr int kPer = 16 / int(sizeof(Storage)), kChunks = kHeadDim / kPer;
#pragma unroll
    for (int i = 0; i < kWarpRows * kChunks / 32; ++i) {
      const int row = (i * 32 + lane) / kChunks, c = (i * 32 + lane) % kChunks * kPer;
      const int32_t at = position[row];
      if (at >= 0 && c < head_dim)
        *reinterpret_cast<uint4*>(base + at * row_size + c) = *reinterpret_cast<const uint4*>(tile + row * kStride + c);
    }
  } else {
    constexpr int kPer = 4 / int(sizeof(Storage)), kChunks = kHeadDim / kPer;
    for (int i = lane; i < kWarpRows * kChunks; i += 32) {
      const int row = i / kChunks, c = i % kChunks * kPer;
      const int32_t at = position[row];
      if (at >= 0 && c < head_dim)
        *reinterpret_cast<uint32_t*>(base + at * row_size + c) =
            *reinterpret_cast<const uint32_t*>(tile + row * kStride + c);
    }
  }
}

}  // namespace swin_fast
