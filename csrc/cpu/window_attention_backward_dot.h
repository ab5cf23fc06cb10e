// Backward in bfloat16 on a processor that multiplies pairs of bfloat16 (AVX512_BF16): as window_attention_backward.h,
// but q, k, v, the gradient of the output, the weights and the gradients of the scores enter products as bfloat16, two
// to an element; sums, scores and what is added to the bias gradient are float32.
#pragma once

#include "pair_scores.h"
#include "window_attention_backward.h"

#if defined(__AVX512BF16__)
namespace swin_fast {
namespace SWIN_FAST_ISA {

// Scores -> exp2(score * scale - max) in place, for some columns; with w = exp2(..) * inverse, `inner` is the sum over
// keys of w * gradient of w. One pass less than the float32 kernel, whose weights are rounded before they are summed.
template <int W, int NV>
SF_INLINE void softmax_and_inner(float* scores, const float* grads, int64_t keys, Vec<float, W> scale,
                                 Vec<float, W>* inverse, Vec<float, W>* inner) {
  using V = Vec<float, W>;
  V top[NV], sum[NV];
  for (int v = 0; v < NV; ++v) top[v] = splat<V>(float(kLowestScore)), sum[v] = inner[v] = V{};
  for (int64_t j = 0; j < keys; ++j)
    for (int v = 0; v < NV; ++v) top[v] = maximum(load<V>(scores + j * kBlock + v * W), top[v]);
  for (int v = 0; v < NV; ++v) top[v] *= scale;
  for (int64_t j = 0; j < keys;) {
    V part_sum[NV] = {}, part_inner[NV] = {};
    for (const int64_t stop = j + kRun < keys ? j + kRun : keys; j < stop; ++j)
      for (int v = 0; v < NV; ++v) {
        const int64_t at = j * kBlock + v * W;
        const V e = exp2_of<float, W, RoundedToBFloat16>(load<V>(scores + at) * scale - top[v]);
        part_sum[v] += e, part_inner[v] += e * load<V>(grads + at);
        store(scores + at, e);
      }
    for (int v = 0; v < NV; ++v) sum[v] += part_sum[v], inner[v] += part_inner[v];
  }
  for (int v = 0; v < NV; ++v) inverse[v] = sum[v] == V{} ? V{} : 1 / sum[v], inner[v] *= inverse[v];
}

struct BackwardDot : Gradients<BFloat16, float> {
  int64_t key_pairs, channel_pairs_of_head;
  PairScores attention;
  Pair* grad_columns;                             // (pairs of channels, kBlock)
  Pair *query_tokens, *key_tokens, *grad_tokens;  // (pairs of tokens, padded)
  Pair* score_gradients;                          // (pairs of keys, kBlock)
  float *scores, *grad_scores, *lone, *grad_lone, *unit;

  BackwardDot(const WindowAttentionParams& params, Arena& arena) : Gradients(params, arena), attention(params, arena) {
    key_pairs = ceil_div(p.tokens, 2);
    channel_pairs_of_head = p.head_dim / 2;
    grad_columns = arena.take<Pair>(channel_pairs_of_head * kBlock);
    query_tokens = arena.take<Pair>(kBlock / 2 * padded);
    key_tokens = arena.take<Pair>(key_pairs * padded);
    grad_tokens = arena.take<Pair>(kBlock / 2 * padded);
    score_gradients = arena.take<Pair>(key_pairs * kBlock);
    scores = arena.take<float>(p.tokens * kBlock);
    grad_scores = arena.take<float>(p.tokens * kBlock);
    lone = arena.take<float>(lone_size(p.tokens));
    grad_lone = arena.take<float>(lone_size(p.tokens));
    unit = arena.take<float>(attention.cosine ? padded : 0);
  }

  void run(int64_t item) {
    walk(item, [&](const Place& place) { window_head(place); });
  }

  void window_head(const Place& place) {
    const int64_t at_head = place.head * p.head_dim, pairs = channel_pairs_of_head;
    const BFloat16* const* rows = window.now.row;
    const Rows<Pair> q = channel_pairs(rows, at_head), k = channel_pairs(rows, window.channels + at_head);
    const Rows<Pair> v = channel_pairs(rows, 2 * window.channels + at_head);
    const Rows<Pair> g = channel_pairs(window.now.grad, at_head);
    attention.start(place.head, q, k);
    token_pairs(key_tokens, rows, window.channels + at_head, p.tokens, window.zeros, p.head_dim, padded);
    auto prefetch = prefetch_after(place);
    for (int64_t block = 0; block < window.blocks.count; ++block) {
      const int64_t first = block * window.blocks.size, n = window.blocks.length(block, p.tokens);
      const int64_t apart = lone_query<float>(n, p.head_dim, 2), across = n - apart;
      const Added<float> added = window.added_to_scores(place.head, block, bias), nothing = {nullptr, nullptr};
      attention.block(scores, q, k, first, across, added, prefetch);
      transpose<float, Pair>(grad_columns, g.from(first, 0), across, pairs, 1);
      key_query_product(grad_scores, v, grad_columns, p.tokens, pairs, across, nothing, prefetch);
      float* sum = bias_sum_of(place, block);
      for_column_groups<float>(across, [&](int64_t at, auto group) {
        constexpr int W = decltype(group)::W, NV = decltype(group)::NV;
        if (attention.cosine)
          softmax_gradient<W, NV, true>(at, first, sum ? sum + at : nullptr);
        else
          softmax_gradient<W, NV, false>(at, first, sum ? sum + at : nullptr);
      });
      if (apart) {
        attention.lone(lone, q, k, first + across, added.from(across));
        lone_scores<BFloat16Dot<16>>(p.tokens, pairs, v, g.row[first + across] + g.skip, grad_lone, nothing);
        softmax_gradient_lone(lone, grad_lone, p.tokens, attention.softmax_scale());
        add_lone(across, first + across, sum);
      } else if (n % 2) {
        for (int64_t j = 0; j < p.tokens; ++j)
          pairs_in(scores, j)[n / 2] &= 0xffff, pairs_in(grad_scores, j)[n / 2] &= 0xffff;
      }
      token_pairs(query_tokens, rows + first, at_head, n, window.zeros, p.head_dim, padded);
      token_pairs(grad_tokens, window.now.grad + first, at_head, n, window.zeros, p.head_dim, padded);
      const bool more = block > 0;
      const int64_t query_pairs = ceil_div(n, 2);
      weighted_rows(grad_value, padded, p.tokens, {pairs_in(scores, 0), kBlock, 1}, grad_tokens, query_pairs,
                    p.head_dim, more, prefetch);
      weighted_rows(grad_key, padded, p.tokens, {pairs_in(grad_scores, 0), kBlock, 1}, query_tokens, query_pairs,
                    p.head_dim, more, prefetch);
      weighted_rows(grad_query, padded, n, {score_gradients, 1, kBlock}, key_tokens, key_pairs, p.head_dim, false,
                    prefetch);
      for (int64_t i = 0; i < n; ++i) write_unit(place, 0, first + i, grad_query + i * padded, attention.query_norm);
    }
    for (int64_t j = 0; j < p.tokens; ++j) {
      write_unit(place, 1, j, grad_key + j * padded, attention.key_norm);
      write(place, 2, j, grad_value + j * padded, 1.0f);
    }
  }

  // Of q (part 0) or k (1), of which cosine attention has the norms alone.
  void write_unit(const Place& place, int64_t part, int64_t t, float* row, const float* inverse_norm) {
    const float factor = attention.gradient_scale();
    if (!attention.cosine) return write(place, part, t, row, factor);
    widen_row(unit, window.row(t, part, place.head), p.head_dim, padded);
    for (int64_t c = 0; c < padded; ++c) unit[c] *= __builtin_fabsf(inverse_norm[t]);
    write(place, part, t, row, factor, unit, inverse_norm[t]);
  }

  // A row of scores, once it holds bfloat16 in its first half.
  static SF_INLINE Pair* pairs_in(float* scores, int64_t key) { return reinterpret_cast<Pair*>(scores + key * kBlock); }

  // Scores -> weights and gradients of weights -> gradients of scores, dS = P * (dP - sum over keys of P * dP), both as
  // bfloat16 in the first half of their rows (a column is read before its place is written); dS as pairs of keys, too.
  // In cosine attention the first dS is to be multiplied by q and the second by k, so each takes the norms with it.
  template <int W, int NV, bool Cosine>
  SF_INLINE void softmax_gradient(int64_t at, int64_t first, float* bias_sum) {
    using V = Vec<float, W>;
    V inverse[NV], inner[NV];
    softmax_and_inner<W, NV>(scores + at, grad_scores + at, p.tokens, splat<V>(attention.softmax_scale()), inverse,
                             inner);
    V query[NV];
    if constexpr (Cosine)
      for (int v = 0; v < NV; ++v) query[v] = absolute<W>(load<V>(attention.query_norm + first + at + v * W));
    for (int64_t j = 0; j < p.tokens; j += 2)
      for (int v = 0; v < NV; ++v) {
        const int64_t column = at + v * W;
        V weight[2] = {}, ds[2] = {};
        const int keys = j + 1 < p.tokens ? 2 : 1;
        for (int i = 0; i < keys; ++i) {
          const int64_t from = (j + i) * kBlock + column;
          weight[i] = load<V>(scores + from) * inverse[v];
          ds[i] = weight[i] * (load<V>(grad_scores + from) - inner[v]);
          if (bias_sum) {
            float* sum = bias_sum + (j + i) * kBlock + v * W;
            store(sum, load<V>(sum) + ds[i]);
          }
        }
        for (int i = 0; i < keys; ++i) {
          narrow_n(reinterpret_cast<BFloat16*>(pairs_in(scores, j + i)) + column, weight[i]);
          narrow_n(reinterpret_cast<BFloat16*>(pairs_in(grad_scores, j + i)) + column,
                   Cosine ? ds[i] * query[v] : ds[i]);
          if constexpr (Cosine) ds[i] *= attention.key_factor(j + i);
        }
        store(score_gradients + j / 2 * kBlock + column, pair_up<W>(ds[0], ds[1]));
      }
  }

  // The lone query's weights and score gradients to the column behind the others, whose other half has no query.
  void add_lone(int64_t across, int64_t token, float* bias_sum) {
    const float query = attention.cosine ? attention.query_factor(token) : 1;
    for (int64_t j = 0; j < p.tokens; ++j) {
      pairs_in(scores, j)[across / 2] = rounded(lone[j]);
      pairs_in(grad_scores, j)[across / 2] = rounded(grad_lone[j] * query);
      if (bias_sum) bias_sum[j * kBlock + across] += grad_lone[j];
      if (attention.cosine) grad_lone[j] *= attention.key_factor(j);
    }
    for (int64_t j = 0; j < key_pairs; ++j)
      score_gradients[j * kBlock + across] = rounded(grad_lone[2 * j], grad_lone[2 * j + 1]);
  }
};

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
#endif
