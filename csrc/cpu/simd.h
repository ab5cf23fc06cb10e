// The SIMD layer: compiler vector extensions, so that one source serves AVX-512, AVX2, SSE2 and NEON. Each translation
// unit names its own namespace (SWIN_FAST_ISA) and width (SWIN_FAST_VECTOR_BYTES): inline functions of two instruction
// sets must never share a symbol, or the linker would keep the wrong one. For the same reason no std template is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SF_INLINE inline __attribute__((always_inline))

namespace swin_fast {
namespace SWIN_FAST_ISA {

template <class E, int W>
struct VecType {
  typedef E type __attribute__((vector_size(sizeof(E) * W)));
  typedef E loose __attribute__((vector_size(sizeof(E) * W), aligned(sizeof(E)), may_alias));
};
template <class E, int W>
using Vec = typename VecType<E, W>::type;

template <class A>
constexpr int kLanes = SWIN_FAST_VECTOR_BYTES / sizeof(A);
#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class V>
SF_INLINE V bits_as(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class To, class From>
SF_INLINE To reinterpret(From v) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  return bits_as<To>(&v);
}

// ---- one element -------------------------------------------------------------------------------------------------

SF_INLINE float widen(float v) { return v; }
SF_INLINE double widen(double v) { return v; }
SF_INLINE float widen(BFloat16 v) { return reinterpret<float>(uint32_t(v.bits) << 16); }
SF_INLINE float widen(Float16 v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#else
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, magnitude = v.bits & 0x7fff;
  if (magnitude >= 0x7c00) return reinterpret<float>(sign | 0x7f800000 | (magnitude << 13));
  // 2^112 moves the exponent bias from 15 to 127, and makes subnormals come out right, too.
  const float scaled = reinterpret<float>(magnitude << 13) * reinterpret<float>(uint32_t(239) << 23);
  return reinterpret<float>(sign | reinterpret<uint32_t>(scaled));
#endif
}

template <class T, class A>
struct Narrow;
template <class A>
struct Narrow<A, A> {
  static SF_INLINE A from(A v) { return v; }
};
template <>
struct Narrow<BFloat16, float> {
  static SF_INLINE BFloat16 from(float v) {
    const uint32_t u = reinterpret<uint32_t>(v);
    if ((u & 0x7fffffff) > 0x7f800000) return {uint16_t((u >> 16) | 0x40)};  // NaN stays NaN
    return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
  }
};
template <>
struct Narrow<Float16, float> {
  static SF_INLINE Float16 from(float v) {
#if defined(__F16C__)
    return {uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))};
#else
    const uint32_t u = reinterpret<uint32_t>(v), sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and up round to infinity
    if (magnitude < 0x38800000) {  // subnormal: let the addition round at the last bit of a half, 2^-24
      const float magic = reinterpret<float>(uint32_t(126) << 23);
      const float shifted = reinterpret<float>(magnitude) + magic;
      return {uint16_t(sign | (reinterpret<uint32_t>(shifted) - reinterpret<uint32_t>(magic)))};
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return {uint16_t(sign | ((rounded - (uint32_t(112) << 23)) >> 13))};
#endif
  }
};

// ---- a vector: memory of type T, arithmetic in A -------------------------------------------------------------------

template <class V, class E>
SF_INLINE V load(const E* p) {
  return (V) * reinterpret_cast<const typename VecType<E, int(sizeof(V) / sizeof(E))>::loose*>(p);
}
template <class V, class E>
SF_INLINE void store(E* p, V v) {
  *reinterpret_cast<typename VecType<E, int(sizeof(V) / sizeof(E))>::loose*>(p) = v;
}
template <class V, class A>
SF_INLINE V splat(A a) {
  return a - V{};
}

template <int W>
SF_INLINE Vec<float, W> widen_n(const float* p) {
  return load<Vec<float, W>>(p);
}
template <int W>
SF_INLINE Vec<double, W> widen_n(const double* p) {
  return load<Vec<double, W>>(p);
}
template <int W>
SF_INLINE Vec<float, W> widen_n(const BFloat16* p) {
#if defined(__AVX512F__)
  if constexpr (W == 16)  // GCC makes two halves and joins them
    return (Vec<float, W>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#endif
  const auto half = load<Vec<uint16_t, W>>(&p->bits);
  return reinterpret<Vec<float, W>>(__builtin_convertvector(half, Vec<uint32_t, W>) << 16);
}
template <int W>
SF_INLINE Vec<float, W> widen_n(const Float16* p) {
  Vec<float, W> v;
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<float, W>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#endif
#if defined(__F16C__)
  if constexpr (W == 8) return (Vec<float, W>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#endif
  for (int i = 0; i < W; ++i) v[i] = widen(p[i]);
  return v;
}

template <class V>
SF_INLINE void narrow_n(float* p, V v) {
  store(p, v);
}
template <class V>
SF_INLINE void narrow_n(double* p, V v) {
  store(p, v);
}
template <class V>
SF_INLINE void narrow_n(BFloat16* p, V v) {
  constexpr int W = sizeof(V) / sizeof(float);
#if defined(__AVX512BF16__)
  if constexpr (W == 16) return store(&p->bits, (Vec<uint16_t, W>)_mm512_cvtneps_pbh((__m512)v));
#endif
  const auto u = reinterpret<Vec<uint32_t, W>>(v);
  const auto rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const auto quiet = (u >> 16) | 0x40;
  const Vec<uint32_t, W> nan = reinterpret<Vec<uint32_t, W>>((u & 0x7fffffff) > 0x7f800000);
  store(&p->bits, __builtin_convertvector((rounded & ~nan) | (quiet & nan), Vec<uint16_t, W>));
}
template <class V>
SF_INLINE void narrow_n(Float16* p, V v) {
  constexpr int W = sizeof(V) / sizeof(float);
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return;
  }
#endif
#if defined(__F16C__)
  if constexpr (W == 8) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return;
  }
#endif
  for (int i = 0; i < W; ++i) p[i] = Narrow<Float16, float>::from(v[i]);
}

template <class V>
SF_INLINE V select_gt(V a, V b, V yes, V no) {  // lane by lane: a > b ? yes : no
  return a > b ? yes : no;
}
template <class V>
SF_INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}

template <class A, int W>
SF_INLINE A sum_lanes(Vec<A, W> v) {
  A total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
}

// ---- sixteen floats, looked up lane by lane ------------------------------------------------------------------------

// Only the four lowest bits of an index count.
template <int W>
struct Lookup16 {  // any vector: from memory
  const float* at;
  SF_INLINE void set(const float* table) { at = table; }
  static SF_INLINE Vec<uint32_t, W> index(Vec<uint32_t, W> i) { return i & 15; }
  SF_INLINE Vec<float, W> operator[](Vec<uint32_t, W> i) const {
    Vec<float, W> v;
    for (int lane = 0; lane < W; ++lane) v[lane] = at[i[lane]];
    return v;
  }
};
#if defined(__AVX2__)
template <>
struct Lookup16<8> {
  __m256 low, high;
  struct Index {
    __m256i lane;
    __m256 half;  // sign bit: the upper eight
  };
  SF_INLINE void set(const float* table) { low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8); }
  static SF_INLINE Index index(Vec<uint32_t, 8> i) { return {(__m256i)i, (__m256)(i << 28)}; }
  SF_INLINE Vec<float, 8> operator[](Index i) const {
    return (Vec<float, 8>)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, i.lane),
                                           _mm256_permutevar8x32_ps(high, i.lane), i.half);
  }
};
#endif
#if defined(__AVX512F__)
template <>
struct Lookup16<16> {
  __m512 all;
  SF_INLINE void set(const float* table) { all = _mm512_loadu_ps(table); }
  static SF_INLINE __m512i index(Vec<uint32_t, 16> i) { return (__m512i)i; }
  SF_INLINE Vec<float, 16> operator[](__m512i i) const { return (Vec<float, 16>)_mm512_permutexvar_ps(i, all); }
};
#endif

// ---- 2^x -----------------------------------------------------------------------------------------------------------

// x = n + f with |f| <= 1/2; 2^f by a polynomial; n goes straight into the exponent. Below the smallest normal number
// the result is exactly 0, so -inf gives 0; NaN stays NaN. Only used for x <= 0 and a little above.
template <class A>
struct Exp2;
struct RoundedToBFloat16;  // for weights that keep 8 bits: fewer terms
template <>
struct Exp2<float> {
  using Bits = uint32_t;
  static constexpr float kMagic = 0x1.8p23f, kLowest = -126.0f;  // adding 1.5 * 2^23 rounds to an integer
  static constexpr int kMantissa = 23, kTerms = 7;
  // Minimax in relative error on [-1/2, 1/2] (Remez exchange): 1.9e-9 before rounding, and exactly 1 at 0
  static constexpr float kPoly[kTerms] = {0x1.000000p+0f, 0x1.62e430p-1f,  0x1.ebfbdap-3f, 0x1.c6aed4p-5f,
                                          0x1.3b2dbcp-7f, 0x1.5f456ap-10f, 0x1.41d334p-13f};
};
template <>
struct Exp2<RoundedToBFloat16> {  // likewise, 2.8e-6
  static constexpr int kTerms = 5;
  static constexpr float kPoly[kTerms] = {0x1.000000p+0f, 0x1.62e12cp-1f, 0x1.ec0378p-3f, 0x1.c9fc48p-5f,
                                          0x1.3a02d0p-7f};
};
template <>
struct Exp2<double> {
  using Bits = uint64_t;
  static constexpr double kMagic = 0x1.8p52, kLowest = -1022.0;
  static constexpr int kMantissa = 52, kTerms = 14;
  // ln(2)^k / k!: the tail after k = 13 is below 5e-18
  static constexpr double kPoly[kTerms] = {1.0,
                                           0.6931471805599453,
                                           0.24022650695910072,
                                           0.05550410866482158,
                                           0.009618129107628477,
                                           0.0013333558146428443,
                                           0.0001540353039338161,
                                           1.5252733804059841e-05,
                                           1.321548679014431e-06,
                                           1.01780860092397e-07,
                                           7.054911620801123e-09,
                                           4.4455382718708116e-10,
                                           2.5678435993488206e-11,
                                           1.3691488853904128e-12};
};

// Precision: whose polynomial.
template <class A, int W, class Precision = A>
SF_INLINE Vec<A, W> exp2_of(Vec<A, W> x) {
  using E = Exp2<A>;
  using P = Exp2<Precision>;
  using Bits = Vec<typename E::Bits, W>;
  const Vec<A, W> shifted = x + E::kMagic;
  const Vec<A, W> f = x - (shifted - E::kMagic);
  Vec<A, W> p = splat<Vec<A, W>>(P::kPoly[P::kTerms - 1]);
#pragma GCC unroll 16
  for (int i = P::kTerms - 2; i >= 0; --i) p = p * f + P::kPoly[i];
  const Bits scaled = reinterpret<Bits>(p) + (reinterpret<Bits>(shifted) << E::kMantissa);
  const Vec<A, W> zero = {};
  return x < E::kLowest ? zero : reinterpret<Vec<A, W>>(scaled);
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
