// Forward: one window and head at a time, scores kept as (keys, queries) so that the softmax is vertical and one lane
// is one query. Nothing larger than a block of scores leaves the cache.
#pragma once

#include "window_attention_shared.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

template <class T, class A>
SF_INLINE T* out_row(const Window<T, A>& window, const WindowAttentionParams& p, int64_t head, int64_t t) {
  return static_cast<T*>(p.out) + (window.now.image * window.map_size + window.now.position[t]) * window.channels +
         head * p.head_dim;
}

// Asks to own the lines that write_outputs will fill: a store that misses holds up every store behind it.
template <class T, class A>
SF_INLINE void prefetch_outputs(const Window<T, A>& window, const WindowAttentionParams& p, int64_t head, int64_t first,
                                int64_t n) {
  for (int64_t i = first; i < first + n; ++i) {
    if (window.now.position[i] < 0) continue;
    const char* row = reinterpret_cast<const char*>(out_row(window, p, head, i));
    for (int64_t at = 0; at < int64_t(p.head_dim * sizeof(T)); at += 64) __builtin_prefetch(row + at, 1, 2);
  }
}

// Rows of the block to their places on the map, each divided by its softmax's sum; padding is dropped.
template <class T, class A>
SF_INLINE void write_outputs(const Window<T, A>& window, const WindowAttentionParams& p, int64_t head, int64_t first,
                             int64_t n, const A* out, int64_t padded, const A* max, const A* sum, bool stream) {
  A inverse[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) inverse[i] = 1 / sum[i];
  for (int64_t i = 0; i < n; ++i) {
    if (window.now.position[first + i] < 0) continue;
    const A factor = sum[i] == 0 ? A(0) : inverse[i];
    write_row(out_row(window, p, head, first + i), out + i * padded, p.head_dim, factor, stream);
  }
  if (!p.lse) return;
  A* lse = static_cast<A*>(p.lse) + (window.now.image * p.heads + head) * window.map_size;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = window.now.position[first + i];
    // +inf for a column without a key, so that exp(score - lse) is 0
    if (at >= 0) lse[at] = sum[i] == 0 ? A(__builtin_inf()) : (max[i] + A(__builtin_log2(sum[i]))) * A(kLn2);
  }
}

constexpr int64_t kPrefetchSteps = 12;  // about the tiles of one (window, head) at 49 tokens and head_dim 32

template <class T, class A>
struct Forward {
  const WindowAttentionParams& p;
  Window<T, A> window;
  int64_t padded;
  bool stream;
  Packed<A> query, key, value;
  A *query_columns, *scores, *lone, *bias, *out;

  Forward(const WindowAttentionParams& params, Arena& arena)
      : p(params),
        window(params, arena),
        padded(padded_head_dim(p.head_dim)),
        stream(can_stream<T, A>(p, p.out, 1)),
        query(arena, p.tokens, padded, window.in_place(), p.logit_scale),
        key(arena, p.tokens, padded, window.in_place(), p.logit_scale),
        value(arena, p.tokens, padded, window.in_place(), false) {
    query_columns = arena.take<A>(padded * kBlock);
    scores = arena.take<A>(p.tokens * kBlock);
    lone = arena.take<A>(lone_size(p.tokens));
    bias = arena.take<A>(p.bias && !p.bias_dense ? p.tokens * kBlock : 0);
    out = arena.take<A>(kBlock * padded);
  }

  void run(int64_t item) {
    const int64_t head = item % p.heads;
    window.move_to(item / p.heads);
    const Rows<A> q = window.unit_part(query, 0, head), k = window.unit_part(key, 1, head);
    const Rows<A> v = window.part(value, 2, head);
    RowPrefetch<T, A> prefetch(window, (item + 1) / p.heads, (item + 1) % p.heads, kPrefetchSteps);
    for (int64_t block = 0; block < window.blocks.count; ++block) {
      const int64_t first = block * window.blocks.size, n = window.blocks.length(block, p.tokens);
      if (!stream) prefetch_outputs(window, p, head, first, n);
      const int64_t apart = lone_query<A>(n, p.head_dim), across = n - apart;
      const A scale = window.score_scale(head) * A(kLog2E);
      const Added<A> added = window.added_to_scores(head, block, bias);
      transpose<A>(query_columns, q.from(first, 0), across, p.head_dim, scale);
      key_query_product(scores, k, query_columns, p.tokens, p.head_dim, across, added, prefetch);
      A max[kBlock], sum[kBlock] = {};
      for_column_groups<A>(across, [&](int64_t at, auto group) {
        constexpr int W = decltype(group)::W, NV = decltype(group)::NV;
        Vec<A, W> column_max[NV], column_sum[NV];
        softmax_columns<A, W, NV>(scores + at, p.tokens, column_max, column_sum);
        for (int v = 0; v < NV; ++v) store(max + at + v * W, column_max[v]), store(sum + at + v * W, column_sum[v]);
      });
      if (apart) {
        lone_product(lone, k, q.from(first + across, 0), scale, p.tokens, p.head_dim, added.from(across));
        softmax_lone(lone, p.tokens, A(1), max + across, sum + across);
        for (int64_t j = 0; j < p.tokens; ++j) scores[j * kBlock + across] = lone[j];
      }
      if (p.dropout_p > 0) apply_dropout(scores, p.tokens, first, uint64_t(item), p.dropout_seed, p.dropout_p);
      weighted_rows<A>(out, padded, n, {scores, 1, kBlock}, v, p.tokens, p.head_dim, false, prefetch);
      write_outputs(window, p, head, first, n, out, padded, max, sum, stream);
    }
  }
};

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
