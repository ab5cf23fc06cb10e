// A window of 49 tokens is three vectors of queries and one more. That one is kept as a row of scores beside the
// columns of the others: a vector with one lane in use would cost as much as a full one in all that is done to a
// column.
#pragma once

#include "pack.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

// Starting from a finite lowest score makes a column whose every key is at -inf come out as zeros instead of NaN.
constexpr double kLowestScore = -1e30;

// 1 where the last of n queries is kept apart, else 0. `pairs`: elements of a vector that one lane of A holds.
template <class A>
SF_INLINE int64_t lone_query(int64_t n, int64_t head_dim, int64_t pairs = 1) {
  return kLanes<A> >= 8 && n > 1 && n % kLanes<A> == 1 && head_dim % (pairs * kLanes<A>) == 0;
}

inline int64_t lone_size(int64_t keys) { return ceil_div(keys, 16) * 16; }

// lone[j] = what is added + sum over k of rows(j, k) * query[k] for each key j, then -inf up to a whole vector.
// `depth` is a multiple of M's vector.
template <class M>
SF_INLINE void lone_scores(int64_t keys, int64_t depth, Rows<typename M::Element> rows,
                           const typename M::Element* query, typename M::A* lone, Added<typename M::A> added) {
  using A = typename M::A;
  using V = typename M::V;
  constexpr int W = M::W;
  const auto product = [&](int64_t j) {
    V sum = {};
    for (int64_t k = 0; k < depth; k += W) sum = M::madd(sum, M::row(rows.row[j] + rows.skip + k), M::row(query + k));
    return sum;
  };
  for (int64_t first = 0; first < keys; first += W) {
    const int64_t n = keys - first < W ? keys - first : W;
    V start = splat<V>(-A(__builtin_inf()));
    for (int64_t i = 0; i < n; ++i) start[i] = added.bias ? added.bias[(first + i) * kBlock] : A(0);
    if (added.mask)
      for (int64_t i = 0; i < n; ++i) start[i] += added.mask[(first + i) * kBlock];
    if (n <= 2) {  // 49 keys again
      for (int64_t i = 0; i < n; ++i) start[i] += sum_lanes<A, W>(product(first + i));
    } else {
      V v[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) v[i] = product(first + i < keys ? first + i : keys - 1);
      start += lane_sums<A, W>(v);
    }
    store(lone + first, start);
  }
}

// Scores (log2 domain once multiplied by `scale`) -> exp2(score - max) in place; the max and the sum.
template <class A>
SF_INLINE void softmax_lone(A* lone, int64_t keys, A scale, A* max, A* sum) {
  constexpr int W = kLanes<A>;
  using V = Vec<A, W>;
  V top = splat<V>(A(kLowestScore)), total = {};
  for (int64_t j = 0; j < keys; j += W) top = maximum(load<V>(lone + j), top);
  A highest = top[0];
  for (int i = 1; i < W; ++i) highest = top[i] > highest ? top[i] : highest;
  highest *= scale;
  for (int64_t j = 0; j < keys; j += W) {
    const V e = exp2_of<A, W>(load<V>(lone + j) * scale - highest);
    total += e;
    store(lone + j, e);
  }
  *max = highest, *sum = sum_lanes<A, W>(total);
}

// What softmax_gradient is for columns.
template <class A>
SF_INLINE void softmax_gradient_lone(A* lone, A* grads, int64_t keys, A scale) {
  constexpr int W = kLanes<A>;
  using V = Vec<A, W>;
  A max, sum;
  softmax_lone(lone, keys, scale, &max, &sum);
  const A inverse = sum == 0 ? A(0) : 1 / sum;
  for (int64_t j = keys; j % W; ++j) grads[j] = 0;
  V inner = {};
  for (int64_t j = 0; j < keys; j += W) {
    const V weight = load<V>(lone + j) * inverse;
    inner += weight * load<V>(grads + j);
    store(lone + j, weight);
  }
  const A all = sum_lanes<A, W>(inner);
  for (int64_t j = 0; j < keys; j += W) store(grads + j, load<V>(lone + j) * (load<V>(grads + j) - all));
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
