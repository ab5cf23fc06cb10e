// Backward: a work item is a run of windows (a chunk) and a group of heads. Each token lies in one window, so gradients
// of q, k and v are written once; those shared by windows (bias, padding, logit scale) are summed per chunk in window
// order and reduced over chunks by the caller, so no result depends on the number of threads.
#pragma once

#include "window_attention_shared.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

// Scores -> weights in place, and the gradient of the weights -> gradient of the scores in place, for some columns:
// dS = P * (dP - sum over keys of P * dP). With `bias_sum`, dS is added to it. The softmax is computed again from the
// scores: a saved log-sum-exp would be one rounded number of the size of the scores, off by the same factor in a row.
template <class A, int W, int NV>
SF_INLINE void softmax_gradient(A* scores, A* grads, int64_t keys, A* bias_sum) {
  using V = Vec<A, W>;
  V max[NV], sum[NV], inner[NV];
  softmax_columns<A, W, NV>(scores, keys, max, sum);
  for (int v = 0; v < NV; ++v) sum[v] = sum[v] == V{} ? V{} : 1 / sum[v], inner[v] = V{};
  for (int64_t j = 0; j < keys;) {
    V part[NV] = {};
    for (const int64_t stop = j + kRun < keys ? j + kRun : keys; j < stop; ++j)
      for (int v = 0; v < NV; ++v) {
        const int64_t at = j * kBlock + v * W;
        const V weight = load<V>(scores + at) * sum[v];
        part[v] += weight * load<V>(grads + at);
        store(scores + at, weight);
      }
    for (int v = 0; v < NV; ++v) inner[v] += part[v];
  }
  for (int64_t j = 0; j < keys; ++j)
    for (int v = 0; v < NV; ++v) {
      const int64_t at = j * kBlock + v * W;
      const V ds = load<V>(scores + at) * (load<V>(grads + at) - inner[v]);
      store(grads + at, ds);
      if (bias_sum) store(bias_sum + at, load<V>(bias_sum + at) + ds);
    }
}

constexpr int64_t kBackwardPrefetchSteps = 28;  // about the tiles of one (window, head) at 49 tokens and head_dim 32

// What every backward does around the gradients of one window and head: the walk over an item, and the sums.
template <class T, class A>
struct Gradients {
  const WindowAttentionParams& p;
  Window<T, A> window;
  int64_t padded, group_size;
  bool stream;
  A *bias, *grad_query, *grad_key, *grad_value, *bias_sum;

  Gradients(const WindowAttentionParams& params, Arena& arena)
      : p(params),
        window(params, arena),
        padded(padded_head_dim(p.head_dim)),
        group_size(ceil_div(p.heads, p.head_groups)),
        stream(can_stream<T, A>(p, p.grad_qkv, 3)) {
    bias = arena.take<A>(p.bias && !p.bias_dense ? p.tokens * kBlock : 0);
    grad_query = arena.take<A>(kBlock * padded);
    grad_key = arena.take<A>(p.tokens * padded);
    grad_value = arena.take<A>(p.tokens * padded);
    bias_sum = arena.take<A>(p.grad_bias ? group_size * dense_size() : 0);
  }

  int64_t dense_size() const { return window.blocks.count * p.tokens * kBlock; }

  struct Place {  // a window and a head of the group [head_begin, head_end) of a chunk
    int64_t chunk, window, head, head_begin, head_end;
  };

  // Calls f(place) for each window and head of the item.
  template <class F>
  void walk(int64_t item, F&& f) {
    const int64_t chunk = item / p.head_groups, group = item % p.head_groups, total = p.batch * p.windows;
    const int64_t head_begin = group * group_size, head_left = p.heads - head_begin;
    const int64_t head_end = head_begin + (head_left < group_size ? head_left : group_size);
    if (p.grad_bias) memset(bias_sum, 0, sizeof(A) * group_size * dense_size());
    for (int64_t head = head_begin; head < head_end; ++head) {
      if (p.grad_pad)
        for (int64_t part = 0; part < 3; ++part) memset(pad_sum(chunk, part, head), 0, sizeof(double) * p.head_dim);
      if (p.grad_scale) *scale_sum(chunk, head) = 0;
    }
    for (int64_t w = chunk * total / p.chunks; w < (chunk + 1) * total / p.chunks; ++w) {
      window.move_to(w);
      for (int64_t head = head_begin; head < head_end; ++head) f(Place{chunk, w, head, head_begin, head_end});
    }
    if (p.grad_bias)
      for (int64_t head = head_begin; head < head_end; ++head)
        fold_bias(bias_sum + (head - head_begin) * dense_size(), p.grad_bias + (chunk * p.heads + head) * p.bias_rows);
  }

  double* pad_sum(int64_t chunk, int64_t part, int64_t head) const {
    return p.grad_pad + (chunk * 3 + part) * window.channels + head * p.head_dim;
  }
  double* scale_sum(int64_t chunk, int64_t head) const { return p.grad_scale + chunk * p.heads + head; }

  // Where the bias gradient of a block is summed, (keys, kBlock); null where nobody asked for it.
  A* bias_sum_of(const Place& at, int64_t block) const {
    return p.grad_bias ? bias_sum + (at.head - at.head_begin) * dense_size() + block * p.tokens * kBlock : nullptr;
  }

  // Heads of the group are the inner loop; the first head of the next window comes after the last.
  RowPrefetch<T, A> prefetch_after(const Place& at) {
    const bool same = at.head + 1 < at.head_end;
    return {window, same ? at.window : at.window + 1, same ? at.head + 1 : at.head_begin, kBackwardPrefetchSteps};
  }

  // Of a unit vector, whose tail is zeros, and a row that a product left, whose tail nobody wrote.
  SF_INLINE A dot(const A* unit, A* row) const {
    for (int64_t c = p.head_dim; c < padded; ++c) row[c] = 0;
    return dot_rows(unit, row, padded);
  }

  // One token's gradient of one part, from that of the row the product used. In cosine attention that row was a unit
  // vector u = x / |x|, so dx = (du - u (u . du)) / |x|, and u . du of all queries is the gradient of logit_scale;
  // where the norm was clamped (`inverse_norm` is negative) it is a constant, and dx = du / eps.
  void write(const Place& place, int64_t part, int64_t t, A* row, A factor, const A* unit = nullptr,
             A inverse_norm = 1) {
    if (unit) {
      const A along = dot(unit, row);
      if (p.grad_scale && part == 0) *scale_sum(place.chunk, place.head) += double(along);
      if (inverse_norm > 0)
        for (int64_t c = 0; c < p.head_dim; ++c) row[c] -= unit[c] * along;
      factor *= inverse_norm > 0 ? inverse_norm : -inverse_norm;
    }
    const int64_t at = window.now.position[t];
    if (at >= 0) {
      if (!p.grad_qkv) return;
      T* dst = static_cast<T*>(p.grad_qkv) + ((window.now.image * window.map_size + at) * 3 + part) * window.channels +
               place.head * p.head_dim;
      write_row(dst, row, p.head_dim, factor, stream);
    } else if (p.grad_pad) {
      double* sum = pad_sum(place.chunk, part, place.head);
      for (int64_t c = 0; c < p.head_dim; ++c) sum[c] += double(row[c] * factor);
    }
  }

  // (blocks, keys, kBlock) summed into the rows of the table.
  void fold_bias(const A* dense, double* table) {
    memset(table, 0, sizeof(double) * p.bias_rows);
    const BiasRows rows(p);
    for (int64_t block = 0; block < window.blocks.count; ++block)
      for (int64_t j = 0; j < p.tokens; ++j) {
        const A* row = dense + (block * p.tokens + j) * kBlock;
        rows.for_queries(j, block * window.blocks.size, window.blocks.length(block, p.tokens), window.codes,
                         [&](int64_t i, int64_t r) { table[r] += double(row[i]); });
      }
  }
};

template <class T, class A>
struct Backward : Gradients<T, A> {
  using Base = Gradients<T, A>;
  using Base::p, Base::window, Base::padded, Base::bias, Base::grad_query, Base::grad_key, Base::grad_value;
  using typename Base::Place;
  Packed<A> query, key, value, grad;
  A *query_columns, *grad_columns, *scores, *grad_scores, *lone, *grad_lone;

  Backward(const WindowAttentionParams& params, Arena& arena)
      : Base(params, arena),
        query(arena, p.tokens, padded, window.in_place(), p.logit_scale),
        key(arena, p.tokens, padded, window.in_place(), p.logit_scale),
        value(arena, p.tokens, padded, window.in_place(), false),
        grad(arena, p.tokens, padded, window.in_place(), false) {
    query_columns = arena.take<A>(padded * kBlock);
    grad_columns = arena.take<A>(padded * kBlock);
    scores = arena.take<A>(p.tokens * kBlock);
    grad_scores = arena.take<A>(p.tokens * kBlock);
    lone = arena.take<A>(lone_size(p.tokens));
    grad_lone = arena.take<A>(lone_size(p.tokens));
  }

  void run(int64_t item) {
    this->walk(item, [&](const Place& place) { window_head(place); });
  }

  void window_head(const Place& place) {
    const int64_t head = place.head;
    const uint64_t item = uint64_t(place.window * p.heads + head);
    const Rows<A> q = window.unit_part(query, 0, head), k = window.unit_part(key, 1, head);
    const Rows<A> v = window.part(value, 2, head), g = window.rows_of(grad, window.now.grad, head * p.head_dim);
    const A scale = window.score_scale(head);
    auto prefetch = this->prefetch_after(place);
    for (int64_t block = 0; block < window.blocks.count; ++block) {
      const int64_t first = block * window.blocks.size, n = window.blocks.length(block, p.tokens);
      // dropout takes its words by column
      const int64_t apart = p.dropout_p > 0 ? 0 : lone_query<A>(n, p.head_dim), across = n - apart;
      const Added<A> added = window.added_to_scores(head, block, bias), nothing = {nullptr, nullptr};
      transpose<A>(query_columns, q.from(first, 0), across, p.head_dim, scale * A(kLog2E));
      transpose<A>(grad_columns, g.from(first, 0), across, p.head_dim, A(1));
      key_query_product(scores, k, query_columns, p.tokens, p.head_dim, across, added, prefetch);
      key_query_product(grad_scores, v, grad_columns, p.tokens, p.head_dim, across, nothing, prefetch);
      if (p.dropout_p > 0) apply_dropout(grad_scores, p.tokens, first, item, p.dropout_seed, p.dropout_p);
      A* sum = this->bias_sum_of(place, block);
      for_column_groups<A>(across, [&](int64_t at, auto group) {
        constexpr int W = decltype(group)::W, NV = decltype(group)::NV;
        softmax_gradient<A, W, NV>(scores + at, grad_scores + at, p.tokens, sum ? sum + at : nullptr);
      });
      if (apart) {
        lone_product(lone, k, q.from(first + across, 0), scale * A(kLog2E), p.tokens, p.head_dim, added.from(across));
        lone_product(grad_lone, v, g.from(first + across, 0), A(1), p.tokens, p.head_dim, nothing);
        softmax_gradient_lone(lone, grad_lone, p.tokens, A(1));
        for (int64_t j = 0; j < p.tokens; ++j) {
          const int64_t at = j * kBlock + across;
          scores[at] = lone[j], grad_scores[at] = grad_lone[j];
          if (sum) sum[at] += grad_lone[j];
        }
      }
      if (p.dropout_p > 0) apply_dropout(scores, p.tokens, first, item, p.dropout_seed, p.dropout_p);
      const bool more = block > 0;
      weighted_rows<A>(grad_value, padded, p.tokens, {scores, kBlock, 1}, g.from(first, 0), n, p.head_dim, more,
                       prefetch);
      weighted_rows<A>(grad_key, padded, p.tokens, {grad_scores, kBlock, 1}, q.from(first, 0), n, p.head_dim, more,
                       prefetch);
      weighted_rows<A>(grad_query, padded, n, {grad_scores, 1, kBlock}, k, p.tokens, p.head_dim, false, prefetch);
      for (int64_t i = 0; i < n; ++i) write_unit(place, 0, first + i, grad_query + i * padded, scale, query);
    }
    for (int64_t j = 0; j < p.tokens; ++j) {
      write_unit(place, 1, j, grad_key + j * padded, scale, key);
      this->write(place, 2, j, grad_value + j * padded, A(1));
    }
  }

  // Of q or k, which `packed` holds as unit vectors in cosine attention.
  void write_unit(const Place& place, int64_t part, int64_t t, A* row, A factor, const Packed<A>& packed) {
    if (p.logit_scale)
      this->write(place, part, t, row, factor, packed.row[t], packed.inverse_norm[t]);
    else
      this->write(place, part, t, row, factor);
  }
};

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
