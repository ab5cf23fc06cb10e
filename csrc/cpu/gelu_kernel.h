// GELU, x * Phi(x) with the exact normal distribution function Phi (Hendrycks and Gimpel 2016), of one instruction set.
// Included by one translation unit per instruction set, which defines SWIN_FAST_ISA and SWIN_FAST_VECTOR_BYTES first.
// No torch header, no std template: see simd.h.
#pragma once

#include "../common/params.h"
#include "simd.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

// Phi(-a) for a >= 0: sixteen intervals of this width, the first around 0, and in each a polynomial in the distance
// from its middle, which is what one shuffle can look up. Each is the minimax fit (Remez exchange) to ncdf(-a) of the
// error relative to ncdf(-a), so that the far tail keeps its digits, where 1 + erf has cancelled. The last interval,
// from 5.66 on, is 0: there x * Phi(x) is x, or -0, in float32.
constexpr float kGeluStep = 0.390625f;
constexpr int kGeluIntervals = 16;

// One row per power of the distance, one column per interval. RoundedToBFloat16: for results that keep 8 bits.
template <class Precision>
struct GeluTable;
template <>
struct GeluTable<float> {  // 2e-8 up to 1.4, 1.3e-7 up to 3.3, then growing to 4e-5
  static constexpr int kTerms = 6;
  static constexpr float kPoly[kTerms][kGeluIntervals] = {
      {0.5f, 0.348037213f, 0.217327744f, 0.120623626f, 0.0590851232f, 0.0254023913f, 0.0095454799f, 0.00312494091f,
       0.000889025512f, 0.000219360329f, 4.6869889e-05f, 8.66118808e-06f, 1.38282701e-06f, 1.90592004e-07f,
       2.26615793e-08f, 0.0f},
      {-0.398942262f, -0.36963746f, -0.294017971f, -0.200772256f, -0.11769703f, -0.0592323914f, -0.0255908612f,
       -0.00949166063f, -0.00302225281f, -0.00082613324f, -0.000193864922f, -3.90550267e-05f, -6.75431966e-06f,
       -1.00279271e-06f, -1.27809443e-07f, 0.0f},
      {0.0f, 0.0721926466f, 0.114848398f, 0.117639162f, 0.0919514745f, 0.0578451864f, 0.0299899057f, 0.0129769892f,
       0.00472215703f, 0.00145206728f, 0.000378576806f, 8.38820779e-05f, 1.58230359e-05f, 2.54443103e-06f,
       3.49155243e-07f, 0.0f},
      {0.0664883405f, 0.0522022173f, 0.0190910511f, -0.0124911768f, -0.0282724872f, -0.0277840961f, -0.019162504f,
       -0.010245882f, -0.00441591162f, -0.00156466023f, -0.000461038755f, -0.000113806389f, -2.36532742e-05f,
       -4.15410568e-06f, -6.18149727e-07f, 0.0f},
      {0.0f, -0.0169771798f, -0.0227032863f, -0.0158884265f, -0.0043294928f, 0.00384965399f, 0.00618504873f,
       0.00483328477f, 0.00267151534f, 0.00114241254f, 0.000392275513f, 0.000110290603f, 2.5689249e-05f,
       4.99526686e-06f, 8.15217504e-07f, 0.0f},
      {-0.00988344196f, -0.00639079744f, 0.000753688917f, 0.00557978777f, 0.00550998468f, 0.0025784811f,
       -6.61192171e-05f, -0.00110444624f, -0.000987557927f, -0.000550810306f, -0.000227402285f, -7.36492075e-05f,
       -1.92401112e-05f, -4.11945757e-06f, -7.30207091e-07f, 0.0f},
  };
};
template <>
struct GeluTable<RoundedToBFloat16> {  // 2e-5 up to 2, then growing to 6e-3
  static constexpr int kTerms = 4;
  static constexpr float kPoly[kTerms][kGeluIntervals] = {
      {0.5f, 0.348040223f, 0.217331752f, 0.120626412f, 0.0590858832f, 0.0254017822f, 0.00954449829f, 0.00312419352f,
       0.000888627081f, 0.000219197129f, 4.68165672e-05f, 8.64701724e-06f, 1.37973007e-06f, 1.90031557e-07f,
       2.25772059e-08f, 0.0f},
      {-0.39893508f, -0.369622946f, -0.294001788f, -0.200762004f, -0.117696449f, -0.0592391565f, -0.0255997404f,
       -0.00949869398f, -0.00302634062f, -0.000827987969f, -0.000194541601f, -3.92566508e-05f, -6.80396352e-06f,
       -1.01295336e-06f, -1.29549036e-07f, 0.0f},
      {0.0f, 0.0715491176f, 0.11398837f, 0.117038406f, 0.0917876065f, 0.0579871088f, 0.0302182324f, 0.0131543064f,
       0.00481936056f, 0.00149323372f, 0.000392558257f, 8.77657367e-05f, 1.67156504e-05f, 2.71550334e-06f,
       3.76639179e-07f, 0.0f},
      {0.0659226999f, 0.0514908321f, 0.0185483266f, -0.0126733351f, -0.0281179305f, -0.0274628252f, -0.0188501943f,
       -0.0100310314f, -0.00430135429f, -0.00151558872f, -0.00044382771f, -0.000108815111f, -2.24458872e-05f,
       -3.90963896e-06f, -5.76505215e-07f, 0.0f},
  };
};

template <class Precision, int W>
struct Gelu {
  static constexpr int kTerms = GeluTable<Precision>::kTerms;
  using V = Vec<float, W>;
  using Bits = Vec<uint32_t, W>;
  Lookup16<W> table[kTerms];

  SF_INLINE Gelu() {
    for (int k = 0; k < kTerms; ++k) table[k].set(GeluTable<Precision>::kPoly[k]);
  }

  SF_INLINE V operator()(V x) const {
    using Signed = Vec<int32_t, W>;  // floats of one sign are ordered as their bits; NaN is above all
    const Signed magnitude = reinterpret<Signed>(reinterpret<Bits>(x) & 0x7fffffff);
    const Signed last = reinterpret<Signed>(splat<V>(kGeluStep * (kGeluIntervals - 1)));
    const V a = reinterpret<V>(magnitude < last ? magnitude : last);
    const V shifted = a * (1 / kGeluStep) + 0x1.8p23f;  // rounds to the number of the interval, in the lowest bits
    const V f = a - (shifted - 0x1.8p23f) * kGeluStep;
    const auto index = Lookup16<W>::index(reinterpret<Bits>(shifted));
    V tail = table[kTerms - 1][index];
#pragma GCC unroll 8
    for (int k = kTerms - 2; k >= 0; --k) tail = tail * f + table[k][index];
    const V zero = {};
    return x * (x > zero ? 1 - tail : tail);  // -inf * 0 is NaN, as in PyTorch
  }
};

template <class T, class Precision>
void gelu_of(const T* x, T* out, int64_t n) {
  constexpr int W = kLanes<float>;
  const Gelu<Precision, W> gelu;
  int64_t i = 0;
  for (; i + W <= n; i += W) narrow_n(out + i, gelu(widen_n<W>(x + i)));
  if (i == n) return;
  T rest[W] = {};  // the same code for the last few, so that no element depends on where the work is split
  memcpy(rest, x + i, size_t(n - i) * sizeof(T));
  narrow_n(rest, gelu(widen_n<W>(rest)));
  memcpy(out + i, rest, size_t(n - i) * sizeof(T));
}

// x and out may be the same; float32, bfloat16 and float16.
inline void gelu(const void* x, void* out, DType dtype, int64_t begin, int64_t end) {
#define CALL(T, P) gelu_of<T, P>(static_cast<const T*>(x) + begin, static_cast<T*>(out) + begin, end - begin)
  switch (dtype) {
    case DType::kBFloat16:
      return CALL(BFloat16, RoundedToBFloat16);
    case DType::kFloat16:
      return CALL(Float16, float);
    default:
      return CALL(float, float);
  }
#undef CALL
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
