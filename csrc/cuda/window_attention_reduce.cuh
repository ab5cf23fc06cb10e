// The blocks' partial sums of the backward -> gradients of bias_table, pad_qkv and logit_scale, always in one order.
#pragma once

#include "element.cuh"
#include "tokens.cuh"

namespace swin_fast {

constexpr int kReduceThreads = 128;

struct Slices {  // of the workspace: one a block, then the bias gradient summed over blocks, (heads, tokens, tokens)
  int64_t runs;  // blocks of a head
  PartialSums at;
};

// Where a block keeps dS of a query and a key; see Backward::dense_sums.
__device__ __forceinline__ int64_t dense_at(int tokens, int query, int key) {
  const int pair = query / kChunk * chunks_of(tokens) + key / kChunk, row = query % kChunk;
  const int thread = row / kWarpRows * 32 + row % 8 * 4 + key % 8 / 2;
  return ((pair * kKeyTiles + key % kChunk / 8) * int64_t(kBackwardThreads) + thread) * 4 + row / 8 % 2 * 2 + key % 2;
}

__device__ __forceinline__ double sum_over_runs(const CudaParams& p, const Slices& slices, int head, int64_t at) {
  double sum = 0;
#pragma unroll 4
  for (int64_t run = 0; run < slices.runs; ++run) sum += p.workspace[(run * p.heads + head) * slices.at.size + at];
  return sum;
}

// dS of every head, query and key, summed over the blocks; a thread for each.
static __global__ void __launch_bounds__(kReduceThreads)
    sum_bias_blocks(const __grid_constant__ CudaParams p, const __grid_constant__ Slices slices) {
  const int64_t i = int64_t(blockIdx.x) * kReduceThreads + threadIdx.x, pairs = int64_t(p.tokens) * p.tokens;
  if (i >= pairs * p.heads) return;
  const int head = int(i / pairs), query = int(i % pairs) / p.tokens, key = int(i % pairs) % p.tokens;
  const int64_t at = dense_at(p.tokens, query, key);
  p.workspace[slices.runs * p.heads * slices.at.size + i] = float(sum_over_runs(p, slices, head, slices.at.bias + at));
}

// A warp for each row of the table and head: the sum over the pairs that read it.
static __global__ void __launch_bounds__(kReduceThreads)
    gather_bias(const __grid_constant__ CudaParams p, const __grid_constant__ Slices slices) {
  const int64_t item = (int64_t(blockIdx.x) * kReduceThreads + threadIdx.x) / 32;
  if (item >= int64_t(p.bias_rows) * p.heads) return;
  const int row = int(item / p.heads), head = int(item % p.heads), lane = threadIdx.x % 32;
  const int64_t pairs = int64_t(p.tokens) * p.tokens;
  const float* dense = p.workspace + slices.runs * p.heads * slices.at.size + head * pairs;
  double sum = 0;
  if (p.bias_index) {
    for (int64_t i = lane; i < pairs; i += 32) {
      const int at = p.bias_index[i];
      if ((at < 0 ? at + p.bias_rows : at) == row) sum += dense[i];
    }
  } else {
    const int y_size = int(p.geometry.window[1]), x_size = int(p.geometry.window[2]),
              z_size = int(p.geometry.window[0]);
    const int dx = row % (2 * x_size - 1) - (x_size - 1), rest = row / (2 * x_size - 1);
    const int dy = rest % (2 * y_size - 1) - (y_size - 1), dz = rest / (2 * y_size - 1) - (z_size - 1);
    for (int query = lane; query < p.tokens; query += 32) {
      const int x = query % x_size - dx, y = query / x_size % y_size - dy, z = query / (x_size * y_size) - dz;
      if (x >= 0 && x < x_size && y >= 0 && y < y_size && z >= 0 && z < z_size)
        sum += dense[query * p.tokens + (z * y_size + y) * x_size + x];
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (lane == 0) store_as(p.grad_bias, p.bias_dtype, item, float(sum));
}

// A thread for each entry of the bias table where blocks folded it, each column of pad_qkv, each head's logit scale.
static __global__ void __launch_bounds__(kReduceThreads)
    sum_blocks(const __grid_constant__ CudaParams p, const __grid_constant__ Slices slices, DType dtype) {
  int64_t i = int64_t(blockIdx.x) * kReduceThreads + threadIdx.x;
  const int64_t channels = int64_t(p.heads) * p.head_dim;
  if (p.grad_bias && folds_bias(p)) {
    const int64_t entries = int64_t(p.bias_rows) * p.heads;
    if (i < entries) {
      const double sum = sum_over_runs(p, slices, int(i % p.heads), slices.at.bias + i / p.heads);
      store_as(p.grad_bias, p.bias_dtype, i, float(sum));
      return;
    }
    i -= entries;
  }
  if (p.grad_pad) {
    if (i < 3 * channels) {
      const int part = int(i / channels), head = int(i % channels / p.head_dim), c = int(i % p.head_dim);
      // a query outside the map has no output, so no gradient
      const double sum = part == 0 ? 0 : sum_over_runs(p, slices, head, slices.at.pad + (part - 1) * kMaxHeadDim + c);
      store_as(p.grad_pad, dtype, i, float(sum));
      return;
    }
    i -= 3 * channels;
  }
  if (p.grad_logit_scale && i < p.heads)
    store_as(p.grad_logit_scale, p.logit_scale_dtype, i, float(sum_over_runs(p, slices, int(i), slices.at.scale)));
}

}  // namespace swin_fast
