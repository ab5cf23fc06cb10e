// Forward in bfloat16 on a processor that multiplies pairs of bfloat16 (AVX512_BF16): as window_attention_forward.h,
// but q, k, v and the weights stay bfloat16, two to an element, and only scores, sums and outputs are float32.
#pragma once

#include "window_attention_forward.h"

#if defined(__AVX512BF16__)
namespace swin_fast {
namespace SWIN_FAST_ISA {

using Pair = uint32_t;  // two bfloat16, the first in the low half

template <int W>
SF_INLINE Vec<Pair, W> pair_up(Vec<float, W> low, Vec<float, W> high) {
  if constexpr (W == 16) {
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (Vec<Pair, W>)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), both);
  }
  // weights are never negative, and NaN comes as the one quiet NaN, so rounding cannot overflow into the sign
  const auto l = reinterpret<Vec<Pair, W>>(low), h = reinterpret<Vec<Pair, W>>(high);
  return (l + 0x7fff + ((l >> 16) & 1)) >> 16 | ((h + 0x7fff + ((h >> 16) & 1)) & 0xffff0000);
}

struct ForwardDot {
  const WindowAttentionParams& p;
  Window<BFloat16, float> window;
  int64_t padded, key_pairs;
  bool stream;
  Pair *value, *query_columns, *weights;
  float *scores, *lone, *bias, *out;

  static bool fits(const WindowAttentionParams& p) { return !p.logit_scale && p.dropout_p == 0 && p.scale > 1e-3; }
  // Scores are q . k + (bias + mask) / scale, so that the products start from bias and mask; the softmax multiplies by
  // scale * log2(e), which costs nothing there.
  static double score_unit(const WindowAttentionParams& p) { return 1 / p.scale; }

  ForwardDot(const WindowAttentionParams& params, Arena& arena) : p(params), window(params, arena) {
    padded = padded_head_dim(p.head_dim);
    key_pairs = ceil_div(p.tokens, 2);
    stream = can_stream<BFloat16, float>(p, p.out, 1);
    value = arena.take<Pair>(key_pairs * padded);
    query_columns = arena.take<Pair>(p.head_dim / 2 * kBlock);
    weights = arena.take<Pair>(key_pairs * kBlock);
    scores = arena.take<float>(p.tokens * kBlock);
    lone = arena.take<float>(lone_size(p.tokens));
    bias = arena.take<float>(p.bias && !p.bias_dense ? p.tokens * kBlock : 0);
    out = arena.take<float>(kBlock * padded);
  }

  void run(int64_t item) {
    const int64_t head = item % p.heads;
    window.move_to(item / p.heads);
    const Rows<Pair> q = pairs_of(0, head), k = pairs_of(1, head);
    pair_values(head);
    RowPrefetch<BFloat16, float> prefetch(window, (item + 1) / p.heads, (item + 1) % p.heads, kPrefetchSteps);
    for (int64_t block = 0; block < window.blocks.count; ++block) {
      const int64_t first = block * window.blocks.size, n = window.blocks.length(block, p.tokens);
      if (!stream) prefetch_outputs(window, p, head, first, n);
      const int64_t apart = lone_query<float>(n, p.head_dim, 2), across = n - apart;
      transpose<float, Pair>(query_columns, q.from(first, 0), across, p.head_dim / 2, 1);
      const Added<float> added = window.added_to_scores(head, block, bias);
      float max[kBlock], sum[kBlock] = {};
      for_column_groups<float>(across, [&](int64_t at, auto group) {
        constexpr int W = decltype(group)::W, NV = decltype(group)::NV;
        const Target<float> t = {scores + at, kBlock, {added.from(at).bias, added.from(at).mask}};
        multiply<BFloat16Dot<W>, NV>(p.tokens, p.head_dim / 2, k, Strided<Pair>{query_columns + at, kBlock, 1}, t,
                                     prefetch);
      });
      for_column_groups<float>(
          across, [&](int64_t at, auto group) { softmax<decltype(group)::W, decltype(group)::NV>(at, max, sum); });
      if (apart) {
        lone_scores<BFloat16Dot<16>>(p.tokens, p.head_dim / 2, k, q.row[first + across] + q.skip, lone,
                                     added.from(across));
        softmax_lone(lone, p.tokens, float(p.scale * kLog2E), max + across, sum + across);
        for (int64_t j = 0; j < key_pairs; ++j)
          weights[j * kBlock + across] = rounded(lone[2 * j]) | rounded(lone[2 * j + 1]) << 16;
      }
      for_column_groups<float>(p.head_dim, [&](int64_t at, auto group) {
        const Target<float> t = {out + at, padded, {nullptr, nullptr}};
        multiply<BFloat16Dot<decltype(group)::W>, decltype(group)::NV>(
            n, key_pairs, Strided<Pair>{weights, 1, kBlock}, Strided<Pair>{value + at, padded, 1}, t, prefetch);
      });
      write_outputs(window, p, head, first, n, out, padded, max, sum, stream);
    }
  }

  static SF_INLINE Pair rounded(float v) { return Narrow<BFloat16, float>::from(v).bits; }

  // q or k of a head where it lies on the map: channels are even in number, so its pairs do not straddle heads.
  Rows<Pair> pairs_of(int64_t part, int64_t head) const {
    return {reinterpret_cast<const Pair* const*>(window.now.row),
            ptrdiff_t(part * window.channels + head * p.head_dim) / 2};
  }

  // Value rows 2 j and 2 j + 1 as pairs; a missing last row is zero.
  void pair_values(int64_t head) const {
    for (int64_t j = 0; j < key_pairs; ++j) {
      const BFloat16* low = window.row(2 * j, 2, head);
      const BFloat16* high = 2 * j + 1 < p.tokens ? window.row(2 * j + 1, 2, head) : window.zeros;
      Pair* to = value + j * padded;
      int64_t c = 0;
      for (; c + 16 <= p.head_dim; c += 16) {
        const auto l = __builtin_convertvector(load<Vec<uint16_t, 16>>(&low[c].bits), Vec<Pair, 16>);
        const auto h = __builtin_convertvector(load<Vec<uint16_t, 16>>(&high[c].bits), Vec<Pair, 16>);
        store(to + c, l | h << 16);
      }
      for (; c < p.head_dim; ++c) to[c] = low[c].bits | Pair(high[c].bits) << 16;
      for (; c < padded; ++c) to[c] = 0;
    }
  }

  // Scores -> weights as pairs of neighbouring keys, with each column's max (log2 domain) and sum.
  template <int W, int NV>
  SF_INLINE void softmax(int64_t at, float* max_out, float* sum_out) {
    using V = Vec<float, W>;
    const V scale = splat<V>(float(p.scale * kLog2E));
    V max[NV], sum[NV];
    for (int v = 0; v < NV; ++v) max[v] = splat<V>(float(kLowestScore)), sum[v] = V{};
    for (int64_t j = 0; j < p.tokens; ++j)
      for (int v = 0; v < NV; ++v) max[v] = maximum(load<V>(scores + j * kBlock + at + v * W), max[v]);
    for (int v = 0; v < NV; ++v) max[v] *= scale;
    for (int64_t j = 0; j < key_pairs; ++j)
      for (int v = 0; v < NV; ++v) {
        const int64_t i = 2 * j * kBlock + at + v * W;
        const V low = exp2_of<float, W, RoundedToBFloat16>(load<V>(scores + i) * scale - max[v]);
        const V high = 2 * j + 1 < p.tokens
                           ? exp2_of<float, W, RoundedToBFloat16>(load<V>(scores + i + kBlock) * scale - max[v])
                           : V{};
        sum[v] += low + high;
        store(weights + j * kBlock + at + v * W, pair_up<W>(low, high));
      }
    for (int v = 0; v < NV; ++v) store(max_out + at + v * W, max[v]), store(sum_out + at + v * W, sum[v]);
  }
};

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
#endif
