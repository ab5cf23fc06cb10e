// The tokens of a window: where each one lies in memory, on which side of the seam, and where in the bias table.
#pragma once

#include "../common/geometry.h"
#include "tile_size.h"

namespace swin_fast {

struct Window {
  int64_t index;   // over the batch
  int32_t batch;   // its image
  int32_t at[3];   // window coordinates in the image
  bool irregular;  // it has a seam or tokens outside the map

  __device__ __forceinline__ Window(const CudaParams& p, int64_t i) : index(i), irregular(false) {
    const unsigned y = unsigned(p.geometry.count[1]), x = unsigned(p.geometry.count[2]);
    const unsigned image = unsigned(i) / unsigned(p.windows), w = unsigned(i) - image * unsigned(p.windows);
    batch = int32_t(image);
    at[2] = int32_t(w % x), at[1] = int32_t(w / x % y), at[0] = int32_t(w / x / y);
  }

  __device__ __forceinline__ void advance(const CudaParams& p) {
    ++index;
    if (++at[2] < int32_t(p.geometry.count[2])) return;
    at[2] = 0;
    if (++at[1] < int32_t(p.geometry.count[1])) return;
    at[1] = 0;
    if (++at[0] < int32_t(p.geometry.count[0])) return;
    at[0] = 0, ++batch;
  }
};

// By a shuffle, so that the compiler knows it for the same in all lanes.
__device__ __forceinline__ int warp_index() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / 32, 0); }

// Row of the bias table where query and key are the same token.
__device__ __forceinline__ int bias_center(const Geometry& g) {
  const int z = int(g.window[0]), y = int(g.window[1]), x = int(g.window[2]);
  return ((z - 1) * (2 * y - 1) + y - 1) * (2 * x - 1) + x - 1;
}

// What is the same in every window: coordinates inside it. Entries past the last token are masked keys that read zeros.
__device__ __forceinline__ void prepare_tokens(const CudaParams& p, const TokenArrays& tokens, bool backward) {
  const unsigned y_size = unsigned(p.geometry.window[1]), x_size = unsigned(p.geometry.window[2]);
  for (unsigned t = threadIdx.x; t < unsigned(round_up(p.tokens, kChunk)); t += blockDim.x) {
    const unsigned x = t % x_size, y = t / x_size % y_size, z = t / (x_size * y_size);
    const bool inside = t < unsigned(p.tokens);
    tokens.local[t] = int32_t(z << 20 | y << 10 | x);
    tokens.bias_at[t] = inside ? int32_t((z * (2 * y_size - 1) + y) * (2 * x_size - 1) + x) : 0;
    tokens.source[t] = nullptr;
    tokens.position[t] = -1;
    tokens.region[t] = kMaskedKey;
    if (backward) tokens.grad[t] = nullptr;
  }
}

// Every thread calls it; nobody may still be reading the arrays, and they are complete when it returns.
template <class Storage>
__device__ __forceinline__ void place_tokens(const CudaParams& p, const TokenArrays& tokens, Window& window,
                                             bool backward) {
  const Geometry& g = p.geometry;
  int irregular = 0;
  for (int t = int(threadIdx.x); t < p.tokens; t += int(blockDim.x)) {
    const int32_t local = tokens.local[t];
    const AxisToken z = axis_token(g, 0, window.at[0], local >> 20);
    const AxisToken y = axis_token(g, 1, window.at[1], local >> 10 & 1023);
    const AxisToken x = axis_token(g, 2, window.at[2], local & 1023);
    const bool outside = z.position < 0 || y.position < 0 || x.position < 0;
    const int region = z.seam * 4 + y.seam * 2 + x.seam;
    tokens.position[t] = outside ? -1 : int32_t((z.position * g.grid[1] + y.position) * g.grid[2] + x.position);
    tokens.region[t] = outside && !p.pad_qkv ? kMaskedKey : region;
    const int64_t* s = p.qkv_stride;
    const Storage* row = static_cast<const Storage*>(p.qkv) + window.batch * s[0];
    tokens.source[t] = outside ? p.pad_qkv : row + (z.position * s[1] + y.position * s[2] + x.position * s[3]);
    if (backward) {
      s = p.grad_out_stride;
      row = static_cast<const Storage*>(p.grad_out) + window.batch * s[0];
      tokens.grad[t] = outside ? nullptr : row + (z.position * s[1] + y.position * s[2] + x.position * s[3]);
    }
    irregular |= outside || region;
  }
  window.irregular = __syncthreads_or(irregular);
}

__device__ __forceinline__ int64_t map_size(const Geometry& g) { return g.grid[0] * g.grid[1] * g.grid[2]; }

}  // namespace swin_fast
