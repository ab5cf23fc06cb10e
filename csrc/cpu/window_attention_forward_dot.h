// Forward in bfloat16 on a processor that multiplies pairs of bfloat16 (AVX512_BF16): as window_attention_forward.h,
// but q, k, v and the weights stay bfloat16, two to an element, and only scores, sums and outputs are float32.
#pragma once

#include "pair_scores.h"
#include "window_attention_forward.h"

#if defined(__AVX512BF16__)
namespace swin_fast {
namespace SWIN_FAST_ISA {

struct ForwardDot {
  const WindowAttentionParams& p;
  Window<BFloat16, float> window;
  int64_t padded, key_pairs;
  bool stream;
  PairScores attention;
  Pair *value, *weights;
  float *scores, *lone, *bias, *out;

  ForwardDot(const WindowAttentionParams& params, Arena& arena)
      : p(params), window(params, arena), attention(params, arena) {
    padded = padded_head_dim(p.head_dim);
    key_pairs = ceil_div(p.tokens, 2);
    stream = can_stream<BFloat16, float>(p, p.out, 1);
    value = arena.take<Pair>(key_pairs * padded);
    weights = arena.take<Pair>(key_pairs * kBlock);
    scores = arena.take<float>(p.tokens * kBlock);
    lone = arena.take<float>(lone_size(p.tokens));
    bias = arena.take<float>(p.bias && !p.bias_dense ? p.tokens * kBlock : 0);
    out = arena.take<float>(kBlock * padded);
  }

  void run(int64_t item) {
    const int64_t head = item % p.heads;
    window.move_to(item / p.heads);
    const int64_t at_head = head * p.head_dim;
    const Rows<Pair> q = channel_pairs(window.now.row, at_head);
    const Rows<Pair> k = channel_pairs(window.now.row, window.channels + at_head);
    attention.start(head, q, k);
    token_pairs(value, window.now.row, 2 * window.channels + at_head, p.tokens, window.zeros, p.head_dim, padded);
    RowPrefetch<BFloat16, float> prefetch(window, (item + 1) / p.heads, (item + 1) % p.heads, kPrefetchSteps);
    for (int64_t block = 0; block < window.blocks.count; ++block) {
      const int64_t first = block * window.blocks.size, n = window.blocks.length(block, p.tokens);
      if (!stream) prefetch_outputs(window, p, head, first, n);
      const int64_t apart = lone_query<float>(n, p.head_dim, 2), across = n - apart;
      const Added<float> added = window.added_to_scores(head, block, bias);
      float max[kBlock], sum[kBlock] = {};
      attention.block(scores, q, k, first, across, added, prefetch);
      for_column_groups<float>(
          across, [&](int64_t at, auto group) { softmax<decltype(group)::W, decltype(group)::NV>(at, max, sum); });
      if (apart) {
        attention.lone(lone, q, k, first + across, added.from(across));
        softmax_lone(lone, p.tokens, attention.softmax_scale(), max + across, sum + across);
        for (int64_t j = 0; j < key_pairs; ++j) weights[j * kBlock + across] = rounded(lone[2 * j], lone[2 * j + 1]);
      }
      weighted_rows(out, padded, n, {weights, 1, kBlock}, value, key_pairs, p.head_dim, false, prefetch);
      write_outputs(window, p, head, first, n, out, padded, max, sum, stream);
    }
  }

  // Scores -> weights as pairs of neighbouring keys, with each column's max (log2 domain) and sum.
  template <int W, int NV>
  SF_INLINE void softmax(int64_t at, float* max_out, float* sum_out) {
    using V = Vec<float, W>;
    const V scale = splat<V>(attention.softmax_scale());
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
