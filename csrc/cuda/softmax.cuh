// Scores of one warp (16 queries x 64 keys, registers) -> logits in units of log2, their softmax, dropout.
#pragma once

#include "../common/philox.h"
#include "element.cuh"
#include "tokens.cuh"

namespace swin_fast {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kNormEps = 1e-12f;

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// This head's column of a standard bias table, in units of log2.
__device__ __forceinline__ void load_table(const CudaParams& p, int head, float* table) {
  if (!p.bias || p.bias_index) return;
  for (int r = int(threadIdx.x); r < p.bias_rows; r += int(blockDim.x))
    table[r] = load_as_float(p.bias, p.bias_dtype, int64_t(r) * p.heads + head) * kLog2E;
}

__device__ __forceinline__ float score_scale(const CudaParams& p, int head) {
  return p.logit_scale ? load_as_float(p.logit_scale, p.logit_scale_dtype, head) : p.scale;
}

// Rows [0, rows) of a tile to unit length, in place; `norm` gets 1 / length of each, at most 1 / eps.
template <Mode kMode, int kHeadDim, int kStride>
__device__ __forceinline__ void normalize_rows(typename Element<kMode>::Storage* tile, float* norm, int rows) {
  using Numbers = Element<kMode>;
  for (int r = int(threadIdx.x); r < rows; r += int(blockDim.x)) {
    auto* row = tile + r * kStride;
    float sum = 0.f;
#pragma unroll 4
    for (int c = 0; c < kHeadDim; ++c) sum = fmaf(Numbers::to_float(row[c]), Numbers::to_float(row[c]), sum);
    const float factor = 1.f / fmaxf(sqrtf(sum), kNormEps);
#pragma unroll 4
    for (int c = 0; c < kHeadDim; c += 2)
      Numbers::store_pair(row + c, Numbers::to_float(row[c]) * factor, Numbers::to_float(row[c + 1]) * factor);
    if (norm) norm[r] = factor;
  }
}

// A lane's part of a warp's logits: queries `query` and `query` + 8 of the window, and of every 8 keys two.
struct Logits {
  const CudaParams& p;
  TokenArrays tokens;  // by value: a reference into the struct that holds this one keeps both out of registers
  const float* table;
  const float* mask;        // of this window
  float scale, mask_value;  // in units of log2
  int center;               // bias_center
  int head, query;

  __device__ __forceinline__ Logits(const CudaParams& params, const TokenArrays& arrays, const float* bias_table, int h)
      : p(params), tokens(arrays), table(bias_table), mask(nullptr), head(h), query(0) {
    scale = score_scale(p, head) * kLog2E;
    mask_value = p.mask_value * kLog2E;
    center = bias_center(p.geometry);
  }

  __device__ __forceinline__ void move_to(const Window& window, const TokenArrays& arrays) {
    tokens = arrays;
    if (p.mask) mask = p.mask + unsigned(window.index) % unsigned(p.mask_windows) * int64_t(p.tokens * p.tokens);
  }

  static __device__ __forceinline__ int key_of(int first_key, int n) { return first_key + n * 8 + threadIdx.x % 4 * 2; }

  // Scores -> logits; -inf where there is no key.
  __device__ __forceinline__ void from_scores(float (&s)[kKeyTiles][4], int first_key, bool irregular) const {
    const int left = p.tokens - first_key;
    if (p.bias && !p.bias_index)
      add_table(s, first_key, left);
    else
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] *= scale;
    if (p.bias_index) add_indexed(s, first_key, left);
    if (mask) add_mask(s, first_key, left);
    if (irregular && (p.geometry.shifted || !p.pad_qkv)) separate_regions(s, first_key, left);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (n * 8 + 8 <= left) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (key_of(first_key, n) + i % 2 >= p.tokens) s[n][i] = minus_infinity();
    }
  }

  // Which of the lane's 32 weights dropout keeps: bit 4 n + i.
  __device__ __forceinline__ uint32_t kept(int first_key, int64_t window, uint32_t threshold) const {
    const uint64_t item = uint64_t(window * p.heads + head), seed = uint64_t(*p.dropout_seed);
    const uint32_t quarter = uint32_t(p.tokens + 3) / 4;
    uint32_t bits = 0;
#pragma unroll 1
    for (uint32_t e = 0; e < 4 * kKeyTiles; ++e) {
      const uint32_t key = uint32_t(key_of(first_key, int(e / 4))) + e % 2, word = key / quarter;
      uint32_t c0 = key - word * quarter, c1 = uint32_t(query) + e / 2 % 2 * 8, c2 = uint32_t(item),
               c3 = uint32_t(item >> 32), k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
      for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(c0, kPhiloxM0), high1 = __umulhi(c2, kPhiloxM1);
        const uint32_t low0 = c0 * kPhiloxM0, low1 = c2 * kPhiloxM1;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += kPhiloxW0, k1 += kPhiloxW1;
      }
      const uint32_t drawn = word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
      bits |= uint32_t(drawn >= threshold) << e;
    }
    return bits;
  }

 private:
  __device__ __forceinline__ void add_table(float (&s)[kKeyTiles][4], int first_key, int left) const {
    const float* low = table + tokens.bias_at[query] + center;
    const float* high = table + tokens.bias_at[query + 8] + center;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (n * 8 >= left) break;
      const int2 at = *reinterpret_cast<const int2*>(tokens.bias_at + key_of(first_key, n));
      s[n][0] = fmaf(s[n][0], scale, low[-at.x]);
      s[n][1] = fmaf(s[n][1], scale, low[-at.y]);
      s[n][2] = fmaf(s[n][2], scale, high[-at.x]);
      s[n][3] = fmaf(s[n][3], scale, high[-at.y]);
    }
  }

  // Calls `add` for every logit of a key, with its place in a (tokens, tokens) matrix. Rows past the last query, which
  // nobody reads, take the last one's.
  template <class Add>
  __device__ __forceinline__ void for_pairs(float (&s)[kKeyTiles][4], int first_key, int left, Add add) const {
    const int last = p.tokens - 1, key = key_of(first_key, 0);
    const int low = (query < last ? query : last) * p.tokens + key;
    const int high = (query + 8 < last ? query + 8 : last) * p.tokens + key;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (n * 8 >= left) break;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (key + n * 8 + i % 2 < p.tokens) add(s[n][i], (i < 2 ? low : high) + n * 8 + i % 2);
    }
  }

  __device__ __forceinline__ void add_indexed(float (&s)[kKeyTiles][4], int first_key, int left) const {
    for_pairs(s, first_key, left, [&](float& logit, int at) {
      const int row = p.bias_index[at];
      const int64_t entry = int64_t(row < 0 ? row + p.bias_rows : row) * p.heads + head;
      logit += load_as_float(p.bias, p.bias_dtype, entry) * kLog2E;
    });
  }

  __device__ __forceinline__ void add_mask(float (&s)[kKeyTiles][4], int first_key, int left) const {
    for_pairs(s, first_key, left, [&](float& logit, int at) { logit += mask[at] * kLog2E; });
  }

  __device__ __forceinline__ void separate_regions(float (&s)[kKeyTiles][4], int first_key, int left) const {
    const int low = tokens.region[query], high = tokens.region[query + 8];
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (n * 8 >= left) break;
      const int2 key = *reinterpret_cast<const int2*>(tokens.region + key_of(first_key, n));
      separate(s[n][0], low, key.x);
      separate(s[n][1], low, key.y);
      separate(s[n][2], high, key.x);
      separate(s[n][3], high, key.y);
    }
  }

  __device__ __forceinline__ void separate(float& logit, int query_region, int key_region) const {
    if (key_region == kMaskedKey)
      logit = minus_infinity();
    else if (key_region != query_region && p.geometry.shifted)
      logit += mask_value;
  }
};

// Over the 64 columns of the lane's two rows; the four lanes of a row get the same.
__device__ __forceinline__ void max_of_rows(const float (&s)[kKeyTiles][4], float& low, float& high) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    low = fmaxf(low, fmaxf(s[n][0], s[n][1]));
    high = fmaxf(high, fmaxf(s[n][2], s[n][3]));
  }
#pragma unroll
  for (int apart = 1; apart < 4; apart *= 2) {
    low = fmaxf(low, __shfl_xor_sync(0xffffffffu, low, apart));
    high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, apart));
  }
}

__device__ __forceinline__ float sum_over_row(float part) {
  part += __shfl_xor_sync(0xffffffffu, part, 1);
  return part + __shfl_xor_sync(0xffffffffu, part, 2);
}

// Logits -> 2^(logit - max). A row with every key at -inf has -inf for its maximum: it becomes zeros.
__device__ __forceinline__ void powers(float (&s)[kKeyTiles][4], float max_low, float max_high) {
  const float low = max_low == minus_infinity() ? 0.f : max_low;
  const float high = max_high == minus_infinity() ? 0.f : max_high;
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    s[n][0] = ptx::exp2_approx(s[n][0] - low);
    s[n][1] = ptx::exp2_approx(s[n][1] - low);
    s[n][2] = ptx::exp2_approx(s[n][2] - high);
    s[n][3] = ptx::exp2_approx(s[n][3] - high);
  }
}

// This lane's part of the sums of its two rows.
__device__ __forceinline__ void add_columns(const float (&s)[kKeyTiles][4], float& low, float& high) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    low += s[n][0] + s[n][1];
    high += s[n][2] + s[n][3];
  }
}

__device__ __forceinline__ void keep_only(float (&s)[kKeyTiles][4], uint32_t bits) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(bits >> (4 * n + i) & 1)) s[n][i] = 0.f;
}

}  // namespace swin_fast
