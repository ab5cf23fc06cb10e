// bfloat16 two to an element, for a processor that multiplies pairs of them (AVX512_BF16): q, k, v and gradients are
// read as pairs of channels where they lie on the map, or laid out as pairs of tokens; scores become pairs of weights.
#pragma once

#include "window_attention_shared.h"

#if defined(__AVX512BF16__)
namespace swin_fast {
namespace SWIN_FAST_ISA {

using Pair = uint32_t;  // two bfloat16, the first in the low half

// Whether a call in bfloat16 is computed in pairs.
inline bool pairs_serve(const WindowAttentionParams& p) {
  return p.dropout_p == 0 && (p.logit_scale || p.scale > 1e-3);
}

SF_INLINE Pair rounded(float v) { return Narrow<BFloat16, float>::from(v).bits; }
SF_INLINE Pair rounded(float low, float high) { return rounded(low) | rounded(high) << 16; }

// The 32 elements of two rows of 16, one after the other -> pairs (of the first row, of the second).
SF_INLINE __m512i interleave(__m512i rows) {
  static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_loadu_si512(order), rows);
}

template <int W>
SF_INLINE Vec<Pair, W> pair_up(Vec<float, W> low, Vec<float, W> high) {
  if constexpr (W == 16) return (Vec<Pair, W>)interleave((__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
  Vec<uint16_t, W> l, h;
  narrow_n(reinterpret_cast<BFloat16*>(&l), low);
  narrow_n(reinterpret_cast<BFloat16*>(&h), high);
  return __builtin_convertvector(l, Vec<Pair, W>) | __builtin_convertvector(h, Vec<Pair, W>) << 16;
}

// Rows of bfloat16 on the map as pairs of channels: channels are even in number, so that pairs do not straddle heads.
inline Rows<Pair> channel_pairs(const BFloat16* const* rows, int64_t skip) {
  return {reinterpret_cast<const Pair* const*>(rows), ptrdiff_t(skip) / 2};
}

// to (ceil(count / 2), padded) = rows 2 j and 2 j + 1 of `count`, channel by channel; a missing last row is `zeros`.
inline void token_pairs(Pair* to, const BFloat16* const* rows, int64_t skip, int64_t count, const BFloat16* zeros,
                        int64_t head_dim, int64_t padded) {
  for (int64_t j = 0; j < count; j += 2, to += padded) {
    const BFloat16 *low = rows[j] + skip, *high = j + 1 < count ? rows[j + 1] + skip : zeros;
    int64_t c = 0;
    for (; c + 16 <= head_dim; c += 16) {
      const auto l = __builtin_convertvector(load<Vec<uint16_t, 16>>(&low[c].bits), Vec<Pair, 16>);
      const auto h = __builtin_convertvector(load<Vec<uint16_t, 16>>(&high[c].bits), Vec<Pair, 16>);
      store(to + c, l | h << 16);
    }
    for (; c < head_dim; ++c) to[c] = low[c].bits | Pair(high[c].bits) << 16;
    for (; c < padded; ++c) to[c] = 0;
  }
}

// scores (keys, kBlock) = rows (keys, pairs) * columns (pairs, kBlock) + what is added, for n columns.
template <class Prefetch>
SF_INLINE void key_query_product(float* scores, Rows<Pair> rows, const Pair* columns, int64_t keys, int64_t pairs,
                                 int64_t n, Added<float> added, Prefetch& prefetch) {
  for_column_groups<float>(n, [&](int64_t at, auto group) {
    using M = BFloat16Dot<decltype(group)::W>;
    const Target<float> t = {scores + at, kBlock, {added.from(at).bias, added.from(at).mask}};
    multiply<M, decltype(group)::NV>(keys, pairs, rows, Strided<Pair>{columns + at, kBlock, 1}, t, prefetch);
  });
}

// c (rows, padded) = [c +] weights (rows, pairs) * b (pairs, padded).
template <class Prefetch>
SF_INLINE void weighted_rows(float* c, int64_t padded, int64_t rows, Strided<Pair> weights, const Pair* b,
                             int64_t pairs, int64_t head_dim, bool accumulate, Prefetch& prefetch) {
  for_column_groups<float>(head_dim, [&](int64_t at, auto group) {
    using M = BFloat16Dot<decltype(group)::W>;
    const Target<float> t = {c + at, padded, {accumulate ? c + at : nullptr, nullptr}};
    multiply<M, decltype(group)::NV>(rows, pairs, weights, Strided<Pair>{b + at, padded, 1}, t, prefetch);
  });
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
#endif
