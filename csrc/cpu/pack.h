// Rows of the map into a thread's scratch and back: widened to the type of the arithmetic, padded, transposed.
#pragma once

#include "../common/params.h"
#include "../common/philox.h"
#include "microkernel.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

template <int Bytes>
struct IndexOf {  // what a shuffle of elements of this size takes
  using type = int32_t;
};
template <>
struct IndexOf<8> {
  using type = int64_t;
};

// A bump allocator over one thread's scratch; with a null base it only counts.
struct Arena {
  char* base;
  size_t used = 0;
  template <class E>
  E* take(int64_t count) {
    E* p = reinterpret_cast<E*>(base + used);
    used += (size_t(count) * sizeof(E) + 63) / 64 * 64;
    return p;
  }
};

// Bias and mask of a block of scores, each (keys, kBlock) or null.
template <class A>
struct Added {
  const A *bias, *mask;
  Added from(int64_t query) const { return {bias ? bias + query : nullptr, mask ? mask + query : nullptr}; }
};

// n elements widened into dst, then zeros up to `padded`.
template <class T, class A>
SF_INLINE void widen_row(A* dst, const T* src, int64_t n, int64_t padded) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + W <= n; i += W) store(dst + i, widen_n<W>(src + i));
  for (; i < n; ++i) dst[i] = widen(src[i]);
  for (; i < padded; ++i) dst[i] = 0;
}

template <class T, class A>
SF_INLINE void narrow_row(T* dst, const A* src, int64_t n, A factor) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + W <= n; i += W) narrow_n(dst + i, load<Vec<A, W>>(src + i) * factor);
  for (; i < n; ++i) dst[i] = Narrow<T, A>::from(src[i] * factor);
}

template <class A>
SF_INLINE A dot_rows(const A* a, const A* b, int64_t padded) {
  constexpr int W = kLanes<A>;
  Vec<A, W> sum = {};
  for (int64_t i = 0; i < padded; i += W) sum += load<Vec<A, W>>(a + i) * load<Vec<A, W>>(b + i);
  return sum_lanes<A, W>(sum);
}

// One butterfly step of a transposition: the vectors exchange lanes, a keeping those whose bit S is clear in both.
template <class E, int W, int S>
SF_INLINE void exchange_pair(Vec<E, W>& a, Vec<E, W>& b) {
  const Vec<E, W> x = a, y = b;
#if defined(__clang__)
  for (int i = 0; i < W; ++i) {
    a[i] = i & S ? y[i - S] : x[i];
    b[i] = i & S ? y[i] : x[i + S];
  }
#else
  using Index = Vec<typename IndexOf<sizeof(E)>::type, W>;
  Index low, high;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    low[i] = i & S ? W + i - S : i;
    high[i] = i & S ? W + i : i + S;
  }
  a = __builtin_shuffle(x, y, low);
  b = __builtin_shuffle(x, y, high);
#endif
}
template <class E, int W, int S>
SF_INLINE void exchange(Vec<E, W>* rows) {  // rows r and r + S
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r)
    if (!(r & S)) exchange_pair<E, W, S>(rows[r], rows[r + S]);
}

// Lane r of the result is the sum of the lanes of v[r]: pairs of vectors are folded into one, log2(W) times.
template <class A, int W, int S>
SF_INLINE void fold_pairs(Vec<A, W>* v) {
#pragma GCC unroll 16
  for (int r = 0; r + S < W; r += 2 * S) {
    Vec<A, W> pair[2] = {v[r], v[r + S]};
    exchange_pair<A, W, S>(pair[0], pair[1]);
    v[r] = pair[0] + pair[1];
  }
}
template <class A, int W>
SF_INLINE Vec<A, W> lane_sums(Vec<A, W>* v) {
  fold_pairs<A, W, 1>(v);
  if constexpr (W >= 4) fold_pairs<A, W, 2>(v);
  if constexpr (W >= 8) fold_pairs<A, W, 4>(v);
  if constexpr (W >= 16) fold_pairs<A, W, 8>(v);
  return v[0];
}

// dst[c][r] = src(r, c) * factor for `rows` x `columns`; dst rows are kBlock long, and their lanes from `rows` on
// become zero as far as a column group of A reaches.
template <class A, class E>
SF_INLINE void transpose(E* dst, Rows<E> src, int64_t rows, int64_t columns, E factor) {
  constexpr int W = SWIN_FAST_VECTOR_BYTES / 4;
  int64_t r = 0;
  if constexpr (sizeof(E) == 4) {
    for (; r + W <= rows; r += W)
      for (int64_t c = 0; c + W <= columns; c += W) {
        Vec<E, W> block[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) block[i] = load<Vec<E, W>>(src.row[r + i] + src.skip + c) * factor;
        exchange<E, W, 1>(block);
        exchange<E, W, 2>(block);
        if constexpr (W >= 8) exchange<E, W, 4>(block);
        if constexpr (W >= 16) exchange<E, W, 8>(block);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(dst + (c + i) * kBlock + r, block[i]);
      }
    const int64_t done = columns / W * W;
    for (int64_t i = 0; i < r; ++i)
      for (int64_t c = done; c < columns; ++c) dst[c * kBlock + i] = bits_as<E>(src.row[i] + src.skip + c) * factor;
  }
  const int64_t reach = covered_lanes<A>(rows);
  for (; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) dst[c * kBlock + r] = bits_as<E>(src.row[r] + src.skip + c) * factor;
  for (; r < reach; ++r)
    for (int64_t c = 0; c < columns; ++c) dst[c * kBlock + r] = 0;
}

// Multiplies column i of weights (keys, kBlock) by 1 / (1 - p) where its word is kept and by 0 elsewhere.
template <class A>
__attribute__((noinline)) void apply_dropout(A* weights, int64_t tokens, int64_t first_query, uint64_t item,
                                             uint64_t seed, double p) {
  const uint32_t threshold = dropout_threshold(p);
  const A keep = A(1 / (1 - p));
  const int64_t quarter = ceil_div(tokens, 4);
  for (int64_t c = 0; c < quarter; ++c) {
    uint32_t x[4][kBlock];
    for (int i = 0; i < kBlock; ++i) {
      x[0][i] = uint32_t(c);
      x[1][i] = uint32_t(first_query + i);
      x[2][i] = uint32_t(item);
      x[3][i] = uint32_t(item >> 32);
    }
    uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round, key0 += kPhiloxW0, key1 += kPhiloxW1)
      for (int i = 0; i < kBlock; ++i) {
        const uint64_t a = uint64_t(x[0][i]) * kPhiloxM0, b = uint64_t(x[2][i]) * kPhiloxM1;
        x[0][i] = uint32_t(b >> 32) ^ x[1][i] ^ key0;
        x[1][i] = uint32_t(b);
        x[2][i] = uint32_t(a >> 32) ^ x[3][i] ^ key1;
        x[3][i] = uint32_t(a);
      }
    for (int k = 0; k < 4 && k * quarter + c < tokens; ++k) {
      A* row = weights + (k * quarter + c) * kBlock;
      for (int i = 0; i < kBlock; ++i) row[i] = x[k][i] >= threshold ? row[i] * keep : A(0);
    }
  }
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
