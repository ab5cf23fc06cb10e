// Scores from pairs of bfloat16 (AVX512_BF16), and where cosine attention differs from attention by products: there q
// and k stay the bfloat16 that they are, and 1 / norm of the two multiplies their product, so that nothing is rounded
// before it.
#pragma once

#include "pairs.h"

#if defined(__AVX512BF16__)
namespace swin_fast {
namespace SWIN_FAST_ISA {

template <int W>
SF_INLINE Vec<float, W> square_root(Vec<float, W> v) {
  if constexpr (W == 16) return (Vec<float, W>)_mm512_sqrt_ps((__m512)v);
  if constexpr (W == 8) return (Vec<float, W>)_mm256_sqrt_ps((__m256)v);
  if constexpr (W == 4) return (Vec<float, W>)_mm_sqrt_ps((__m128)v);
}

template <int W>
SF_INLINE Vec<float, W> absolute(Vec<float, W> v) {
  return (Vec<float, W>)((Vec<uint32_t, W>)v & 0x7fffffff);
}

// By products, a score is q . k + (bias + mask) / scale: both join the products as they come, and the softmax
// multiplies by scale * log2(e), which costs nothing there. By cosines it is (q . k) / (|q| |k|) * logit_scale + bias +
// mask, all times log2(e), which takes a pass of its own.
struct PairScores {
  const WindowAttentionParams& p;
  bool cosine;
  float *query_norm, *key_norm;  // 1 / L2 norm of each token; negative: clamped, so the norm is a constant
  Pair* columns;                 // (pairs of channels, kBlock)
  float logit_scale = 1;

  static double unit(const WindowAttentionParams& p) { return p.logit_scale ? kLog2E : 1 / p.scale; }

  PairScores(const WindowAttentionParams& params, Arena& arena) : p(params), cosine(params.logit_scale) {
    const int64_t tokens = ceil_div(p.tokens, kBlock) * kBlock;
    query_norm = arena.take<float>(cosine ? tokens : 0);
    key_norm = arena.take<float>(cosine ? tokens : 0);
    columns = arena.take<Pair>(p.head_dim / 2 * kBlock);
  }

  // What the softmax multiplies scores by.
  float softmax_scale() const { return cosine ? 1.0f : float(p.scale * kLog2E); }
  // What gradients of scores are multiplied by on their way to q and k, beside the norms.
  float gradient_scale() const { return cosine ? logit_scale : float(p.scale); }
  float query_factor(int64_t token) const { return __builtin_fabsf(query_norm[token]); }
  float key_factor(int64_t token) const { return __builtin_fabsf(key_norm[token]); }

  // For a head of a window, before its blocks.
  void start(int64_t head, Rows<Pair> q, Rows<Pair> k) {
    if (!cosine) return;
    logit_scale = static_cast<const float*>(p.logit_scale)[head];
    inverse_norms(query_norm, q);
    inverse_norms(key_norm, k);
  }

  void inverse_norms(float* to, Rows<Pair> rows) {
    for (int64_t first = 0; first < p.tokens; first += kBlock) {
      const int64_t n = p.tokens - first < kBlock ? p.tokens - first : kBlock;
      transpose<float, Pair>(columns, rows.from(first, 0), n, p.head_dim / 2, 1);
      for_column_groups<float>(n, [&](int64_t at, auto group) {
        constexpr int W = decltype(group)::W;
        for (int v = 0; v < decltype(group)::NV; ++v) store(to + first + at + v * W, inverse_norm<W>(at + v * W));
      });
    }
  }

  template <int W>
  SF_INLINE Vec<float, W> inverse_norm(int64_t at) const {
    using M = BFloat16Dot<W>;
    using V = Vec<float, W>;
    V sum = {};
    for (int64_t c = 0; c < p.head_dim / 2; ++c) {
      const auto pair = M::row(columns + c * kBlock + at);
      sum = M::madd(sum, pair, pair);
    }
    const V norm = square_root<W>(sum), least = splat<V>(1e-12f);
    const V inverse = norm > least ? 1 / norm : norm <= least ? V{} - 1 / least : norm;  // NaN stays NaN
    for (int i = 0; i < W; ++i)
      if (inverse[i] == 0) return of_long_vectors<W>(inverse, at);
    return inverse;
  }

  // A norm beyond float32 makes zeros of its vector, as in the other kernels, and NaN where an element is infinite.
  template <int W>
  __attribute__((noinline)) Vec<float, W> of_long_vectors(Vec<float, W> inverse, int64_t at) const {
    for (int i = 0; i < W; ++i)
      for (int64_t c = 0; c < p.head_dim / 2; ++c) {
        const Pair pair = columns[c * kBlock + at + i];
        if ((pair & 0x7f80) == 0x7f80 || (pair & 0x7f800000) == 0x7f800000) inverse[i] = __builtin_nanf("");
      }
    return inverse;
  }

  // scores (keys, kBlock) of the block of queries from `first`, of which `across` are columns.
  template <class Prefetch>
  SF_INLINE void block(float* scores, Rows<Pair> q, Rows<Pair> k, int64_t first, int64_t across, Added<float> added,
                       Prefetch& prefetch) {
    transpose<float, Pair>(columns, q.from(first, 0), across, p.head_dim / 2, 1);
    key_query_product(scores, k, columns, p.tokens, p.head_dim / 2, across, cosine ? Added<float>{} : added, prefetch);
    if (!cosine) return;
    for_column_groups<float>(across, [&](int64_t at, auto group) {
      finish<decltype(group)::W, decltype(group)::NV>(scores + at, query_norm + first + at, added.from(at));
    });
  }

  template <int W, int NV>
  SF_INLINE void finish(float* scores, const float* query, Added<float> added) const {
    using V = Vec<float, W>;
    V norm[NV], factor[NV];
    for (int v = 0; v < NV; ++v) norm[v] = absolute<W>(load<V>(query + v * W));
    for (int v = 0; v < NV; ++v) factor[v] = norm[v] * (logit_scale * float(kLog2E));
    for (int64_t j = 0; j < p.tokens; ++j)
      for (int v = 0; v < NV; ++v) {
        const int64_t i = j * kBlock + v * W;
        const float key = key_factor(j);
        V score = load<V>(scores + i) * key * factor[v];
        score = norm[v] * key == 0 ? V{} : score;  // the product of vectors that long may be infinite
        if (added.bias) score += load<V>(added.bias + i);
        if (added.mask) score += load<V>(added.mask + i);
        store(scores + i, score);
      }
  }

  // The scores of one query, `added` from its column.
  SF_INLINE void lone(float* scores, Rows<Pair> q, Rows<Pair> k, int64_t token, Added<float> added) const {
    lone_scores<BFloat16Dot<16>>(p.tokens, p.head_dim / 2, k, q.row[token] + q.skip, scores,
                                 cosine ? Added<float>{} : added);
    if (!cosine) return;
    const float norm = query_factor(token), factor = norm * logit_scale * float(kLog2E);
    for (int64_t j = 0; j < p.tokens; ++j) {
      const float key = key_factor(j);
      scores[j] = norm * key == 0 ? 0 : scores[j] * (key * factor);
      if (added.bias) scores[j] += added.bias[j * kBlock];
      if (added.mask) scores[j] += added.mask[j * kBlock];
    }
  }
};

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
#endif
