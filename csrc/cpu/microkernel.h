// The one matrix product: C (rows x columns) = [init] + A * B with C in registers, A broadcast element by element and B
// read a vector at a time. All six products of attention, forward and backward, are this one with other strides.
#pragma once

#include "simd.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

// Multiply-add in A's own type.
template <class A_, int W_>
struct FusedMultiplyAdd {
  using A = A_;
  using Element = A;
  static constexpr int W = W_;
  using V = Vec<A, W>;
  using Operand = V;
  static SF_INLINE Operand broadcast(const Element* p) { return splat<V>(*p); }
  static SF_INLINE Operand row(const Element* p) { return load<V>(p); }
  static SF_INLINE V madd(V c, Operand a, Operand b) { return c + a * b; }
};

#if defined(__AVX512BF16__)
// Two bfloat16 per element, a pair of neighbours along the summed axis: c += a0 * b0 + a1 * b1 in float32.
template <int W_>
struct BFloat16Dot {
  using A = float;
  using Element = uint32_t;
  static constexpr int W = W_;
  using V = Vec<float, W>;
  using Operand = Vec<uint32_t, W>;
  // a row of the map is only as aligned as a bfloat16
  static SF_INLINE Operand broadcast(const Element* p) { return splat<Operand>(bits_as<Element>(p)); }
  static SF_INLINE Operand row(const Element* p) { return load<Operand>(p); }
  static SF_INLINE V madd(V c, Operand a, Operand b) {
    if constexpr (W == 16) return (V)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
    if constexpr (W == 8) return (V)_mm256_dpbf16_ps((__m256)c, (__m256bh)a, (__m256bh)b);
    if constexpr (W == 4) return (V)_mm_dpbf16_ps((__m128)c, (__m128bh)a, (__m128bh)b);
  }
};
#endif

// A matrix by a pointer to each row, so that rows of the map are read where they lie: element (r, c) is row[r][skip +
// c].
template <class E>
struct Rows {
  const E* const* row;
  ptrdiff_t skip;
  Rows from(int64_t r, int64_t c) const { return {row + r, skip + c}; }
};

// A matrix with strides: element (r, c) is at[r * row_stride + c * column_stride].
template <class E>
struct Strided {
  const E* at;
  ptrdiff_t row_stride, column_stride;
  Strided from(int64_t r, int64_t c) const {
    return {at + r * row_stride + c * column_stride, row_stride, column_stride};
  }
};

// How a tile walks along k: over the columns of R rows of A, and over the rows of B.
template <class E, int R>
struct Walk {
  const E* row[R];
  explicit Walk(Rows<E> m) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) row[r] = m.row[r] + m.skip;
  }
  SF_INLINE const E* at(int r, int64_t k) const { return row[r] + k; }
};
template <class E>
SF_INLINE const E* row_at(Rows<E> m, int64_t k) {
  return m.row[k] + m.skip;
}
template <class E>
SF_INLINE const E* row_at(Strided<E> m, int64_t k) {
  return m.at + k * m.row_stride;
}
template <class E, int R>
struct StridedWalk {
  Strided<E> m;
  explicit StridedWalk(Strided<E> matrix) : m(matrix) {}
  SF_INLINE const E* at(int r, int64_t k) const { return m.at + r * m.row_stride + k * m.column_stride; }
};
template <int R, class E>
SF_INLINE Walk<E, R> walk(Rows<E> m) {
  return Walk<E, R>(m);
}
template <int R, class E>
SF_INLINE StridedWalk<E, R> walk(Strided<E> m) {
  return StridedWalk<E, R>(m);
}

// C and what is added to the product: up to two matrices of C's shape.
template <class A>
struct Target {
  A* c;
  ptrdiff_t stride;
  const A* init[2];
  Target from(int64_t r) const {
    const ptrdiff_t skip = r * stride;
    return {c + skip, stride, {init[0] ? init[0] + skip : nullptr, init[1] ? init[1] + skip : nullptr}};
  }
};

// Rows of C whose accumulators fit the registers, beside NV vectors of B and one broadcast.
constexpr int rows_for(int nv) {
  const int rows = (kRegisters - 1 - nv) / nv;
  return rows > 14 ? 14 : rows;
}
// Vectors of C side by side: as many as leave enough rows to hide the latency of a multiply-add.
constexpr int kMaxVectors = kRegisters == 32 ? 4 : 2;

template <class M, int R, int NV, class MatrixA, class MatrixB>
SF_INLINE void tile(MatrixA a, MatrixB b, int64_t depth, Target<typename M::A> t) {
  using V = typename M::V;
  V acc[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[r][v] = V{};
  const auto rows = walk<R>(a);
  for (int64_t k = 0; k < depth; ++k) {
    const typename M::Element* from = row_at(b, k);
    typename M::Operand row[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) row[v] = M::row(from + v * M::W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = M::broadcast(rows.at(r, k));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[r][v] = M::madd(acc[r][v], x, row[v]);
    }
  }
  for (const auto* init : t.init)
    if (init)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[r][v] += load<V>(init + r * t.stride + v * M::W);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(t.c + r * t.stride + v * M::W, acc[r][v]);
}

// tile<R> for a run-time R in 1..MAX.
template <class M, int NV, int MAX, class MatrixA, class MatrixB>
SF_INLINE void tile_rows(int rows, MatrixA a, MatrixB b, int64_t depth, Target<typename M::A> t) {
  if constexpr (MAX > 1) {
    if (rows < MAX) return tile_rows<M, NV, MAX - 1>(rows, a, b, depth, t);
  }
  tile<M, MAX, NV>(a, b, depth, t);
}

// Terms that are added up in a row before they join the sum: the rounding of one long chain would grow with its length.
constexpr int64_t kDepth = 64;

// C (rows x NV vectors) = init + A * B, in row tiles of nearly equal height, with a step of prefetching after each.
template <class M, int NV, class MatrixA, class MatrixB, class Prefetch>
__attribute__((noinline)) void multiply(int64_t rows, int64_t depth, MatrixA a, MatrixB b, Target<typename M::A> t,
                                        Prefetch& prefetch) {
  constexpr int kMost = rows_for(NV);
  const int64_t tiles = (rows + kMost - 1) / kMost;
  for (int64_t left = tiles, first = 0; left > 0; --left) {
    const int64_t height = (rows - first + left - 1) / left;
    Target<typename M::A> part = t.from(first);
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t run = depth - k < kDepth ? depth - k : kDepth;
      tile_rows<M, NV, kMost>(int(height), a.from(first, k), b.from(k, 0), run, part);
      part.init[0] = part.c, part.init[1] = nullptr;
    }
    prefetch.step();
    first += height;
  }
}

// Calls f(first column, vector width, vectors) over `columns` lanes: whole vectors in groups of kMaxVectors, then what
// is left in the narrowest vector that holds it (49 tokens are 3 x 16 + 4 lanes, not 4 x 16).
template <int W_, int NV_>
struct Group {
  static constexpr int W = W_, NV = NV_;
};
template <class A>
SF_INLINE int64_t covered_lanes(int64_t columns) {  // how far the groups reach
  constexpr int W = kLanes<A>;
  const int64_t left = columns % W, whole = columns - left;
  if (!left) return whole;
  return whole + (W >= 8 && left <= W / 4 ? W / 4 : W >= 8 && left <= W / 2 ? W / 2 : W);
}
template <class A, class F>
SF_INLINE void for_column_groups(int64_t columns, F&& f) {
  constexpr int W = kLanes<A>;
  int64_t at = 0, vectors = columns / W;
  const int64_t left = columns % W;
  const bool narrow = W >= 8 && left <= W / 2;
  if (left && !narrow) ++vectors;
  while (vectors > 0) {
    const int64_t groups = (vectors + kMaxVectors - 1) / kMaxVectors, nv = (vectors + groups - 1) / groups;
    if (nv == 1) f(at, Group<W, 1>());
    if (nv == 2) f(at, Group<W, 2>());
    if constexpr (kMaxVectors > 2) {
      if (nv == 3) f(at, Group<W, 3>());
      if (nv == 4) f(at, Group<W, 4>());
    }
    at += nv * W;
    vectors -= nv;
  }
  if constexpr (W >= 8) {
    if (!left || !narrow) return;
    if (left <= W / 4) return f(at, Group<W / 4, 1>());
    f(at, Group<W / 2, 1>());
  }
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
