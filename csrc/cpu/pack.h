// Rows of the map into a thread's scratch and back: widened to the type of the arithmetic, padded, transposed.
#pragma once

#include "../common/params.h"
#include "../common/philox.h"
#include "microkernel.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

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

// One butterfly step of a transposition: rows r and r + S exchange the lanes in which they differ in bit S.
template <class E, int W, int S>
SF_INLINE void exchange(Vec<E, W>* rows) {
  using Index = Vec<int32_t, W>;
  Index low, high;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    low[i] = i & S ? W + i - S : i;
    high[i] = i & S ? W + i : i + S;
  }
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r)
    if (!(r & S)) {
      const Vec<E, W> a = rows[r], b = rows[r + S];
#if defined(__clang__)
      for (int i = 0; i < W; ++i) {
        rows[r][i] = i & S ? b[i - S] : a[i];
        rows[r + S][i] = i & S ? b[i] : a[i + S];
      }
#else
      rows[r] = __builtin_shuffle(a, b, low);
      rows[r + S] = __builtin_shuffle(a, b, high);
#endif
    }
}

// dst[c][r] = src[r][c] * factor for `rows` x `columns`, 4-byte elements; dst rows are kBlock long, and their lanes
// from `rows` on become zero.
template <class E>
SF_INLINE void transpose(E* dst, const E* src, int64_t src_stride, int64_t rows, int64_t columns, E factor) {
  constexpr int W = SWIN_FAST_VECTOR_BYTES / 4;
  int64_t r = 0;
  if constexpr (sizeof(E) == 4) {
    for (; r + W <= rows; r += W)
      for (int64_t c = 0; c < columns; c += W) {
        Vec<E, W> block[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) block[i] = load<Vec<E, W>>(src + (r + i) * src_stride + c) * factor;
        exchange<E, W, 1>(block);
        exchange<E, W, 2>(block);
        if constexpr (W >= 8) exchange<E, W, 4>(block);
        if constexpr (W >= 16) exchange<E, W, 8>(block);
        if (c + W <= columns) {
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) store(dst + (c + i) * kBlock + r, block[i]);
        } else {
          for (int i = 0; c + i < columns; ++i) store(dst + (c + i) * kBlock + r, block[i]);
        }
      }
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t i = r; i < rows; ++i) dst[c * kBlock + i] = src[i * src_stride + c] * factor;
    for (int64_t i = rows; i < kBlock; ++i) dst[c * kBlock + i] = 0;
  }
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
