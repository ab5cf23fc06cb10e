// Layouts: PTX ISA, "Matrix fragments for mma.m16n8k16", ".m16n8k8", "ldmatrix" and "movmatrix". With g = lane / 4 and
// t = lane % 4, and two 16-bit values to a register, the lower half first:
//   accumulators  c0 c1 (g, 2t) (g, 2t+1)    c2 c3 (g+8, 2t) (g+8, 2t+1)
//   a, 16-bit     register r holds columns 2t, 2t+1 (+8 for r >= 2) of row g (+8 for odd r)
//   b, 16-bit     register r holds rows 2t, 2t+1 (+8 for r = 1) of column g
//   a, tf32       register r is column t (+4 for r >= 2) of row g (+8 for odd r)
//   b, tf32       register r is row t (+4 for r = 1) of column g
// Arithmetic as measured on such units (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021): products are
// exact, a few of them and the accumulator are added at once, and the sum is cut, not rounded, to float32.
#include "matrix.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "memory.h"

namespace emulation {
namespace {

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                : exponent     ? std::ldexp(float(1024 + mantissa), exponent - 25)
                               : std::ldexp(float(mantissa), -24);
  return bits >> 15 ? -value : value;
}

uint16_t float_to_half(float value) {
  const uint32_t bits = bits_as<uint32_t>(value), sign = bits >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (size >= 65520) return sign | 0x7c00;
  if (size < std::ldexp(1.0f, -14)) return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
  const uint32_t m = bits & 0x7fffffff;
  return sign | uint16_t((m + 0xfff + (m >> 13 & 1) - (112u << 23)) >> 13);
}

float cut_to_float(double value) {  // towards zero
  const float f = float(value);
  return std::fabs(double(f)) > std::fabs(value) ? bits_as<float>(bits_as<uint32_t>(f) - 1) : f;
}

struct Operand {
  Half type;
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

// A and B are filled from all lanes' registers by `fill`, then each lane takes its part of the product.
template <int kDepth, int kAtOnce, class Fill>
void multiply(void* const* operands, Fill fill) {
  double a[16][kDepth], b[kDepth][8];
  for (unsigned lane = 0; lane < kWarp; ++lane)
    fill(*static_cast<const Operand*>(operands[lane]), lane / 4, lane % 4, a, b);
  float sum[16][8];
  for (unsigned lane = 0; lane < kWarp; ++lane)
    for (int r = 0; r < 4; ++r)
      sum[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2] = static_cast<const Operand*>(operands[lane])->c[r];
  for (int k = 0; k < kDepth; k += kAtOnce)
    for (int m = 0; m < 16; ++m) {
      double total[8];
      for (int n = 0; n < 8; ++n) total[n] = sum[m][n];
      for (int i = k; i < k + kAtOnce; ++i)
        for (int n = 0; n < 8; ++n) total[n] += a[m][i] * b[i][n];
      for (int n = 0; n < 8; ++n) sum[m][n] = cut_to_float(total[n]);
    }
  for (unsigned lane = 0; lane < kWarp; ++lane)
    for (int r = 0; r < 4; ++r)
      static_cast<const Operand*>(operands[lane])->d[r] = sum[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}

template <int kDepth>
void multiply_halves(void* const* operands) {
  multiply<kDepth, 8>(operands, [](const Operand& o, int g, int t, auto& a, auto& b) {
    for (int r = 0; r < kDepth / 4; ++r)
      for (int h = 0; h < 2; ++h)
        a[g + r % 2 * 8][2 * t + h + r / 2 * 8] = to_float(o.type, uint16_t(o.a[r] >> 16 * h));
    for (int r = 0; r < kDepth / 8; ++r)
      for (int h = 0; h < 2; ++h) b[2 * t + h + r * 8][g] = to_float(o.type, uint16_t(o.b[r] >> 16 * h));
  });
}

void multiply_tf32(void* const* operands) {
  multiply<8, 4>(operands, [](const Operand& o, int g, int t, auto& a, auto& b) {
    const auto value = [](uint32_t bits) { return bits_as<float>(bits & 0xffffe000u); };  // the lower bits are not read
    for (int r = 0; r < 4; ++r) a[g + r % 2 * 8][t + r / 2 * 4] = value(o.a[r]);
    for (int r = 0; r < 2; ++r) b[t + r * 4][g] = value(o.b[r]);
  });
}

struct Load {
  uint32_t* registers;
  const unsigned char* row;
  int count;
  bool transpose;
};

void complete_load(void* const* operands) {
  const auto lane_load = [&](unsigned lane) { return static_cast<const Load*>(operands[lane]); };
  for (unsigned lane = 0; lane < kWarp; ++lane)
    for (int m = 0; m < lane_load(0)->count; ++m)
      for (unsigned h = 0; h < 2; ++h) {
        const unsigned g = lane / 4, i = lane % 4 * 2 + h;
        const unsigned row = lane_load(0)->transpose ? i : g, column = lane_load(0)->transpose ? g : i;
        memcpy(reinterpret_cast<unsigned char*>(lane_load(lane)->registers + m) + 2 * h,
               lane_load(m * 8 + row)->row + 2 * column, 2);
      }
}

struct Transpose {
  uint32_t in, out;
};

void complete_transpose(void* const* operands) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    uint32_t out = 0;
    for (unsigned h = 0; h < 2; ++h) {
      const unsigned row = lane % 4 * 2 + h, column = lane / 4;
      const uint32_t in = static_cast<const Transpose*>(operands[row * 4 + column / 2])->in;
      out |= (in >> 16 * (column % 2) & 0xffff) << 16 * h;
    }
    static_cast<Transpose*>(operands[lane])->out = out;
  }
}

}  // namespace

float to_float(Half type, uint16_t bits) {
  if (type == Half::kBFloat16) return bits_as<float>(uint32_t{bits} << 16);
  static const std::vector<float> table = [] {
    std::vector<float> t(65536);
    for (unsigned i = 0; i < t.size(); ++i) t[i] = half_to_float(uint16_t(i));
    return t;
  }();
  return table[bits];
}

uint16_t from_float(Half type, float value) {
  if (type == Half::kFloat16) return float_to_half(value);
  const uint32_t bits = bits_as<uint32_t>(value);
  return std::isnan(value) ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint32_t to_tf32(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  return std::isfinite(value) ? (bits + 0x1000) & 0xffffe000u : bits;
}

void multiply_k16(Half type, float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where) {
  Operand operand = {type, d, a, b, c};
  collective("mma.m16n8k16", kAllLanes, &operand, multiply_halves<16>, where);
}

void multiply_k8(Half type, float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where) {
  Operand operand = {type, d, a, b, c};
  collective("mma.m16n8k8", kAllLanes, &operand, multiply_halves<8>, where);
}

void multiply_k8_tf32(float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where) {
  Operand operand = {Half::kBFloat16, d, a, b, c};
  collective("mma.m16n8k8.tf32", kAllLanes, &operand, multiply_tf32, where);
}

void load_matrices(uint32_t* registers, int count, bool transpose, const void* row, Where where) {
  if (lane_index() < unsigned(count) * 8) {  // the others' addresses are not used
    check_read(row, 16, where);
    if (uintptr_t(row) % 16) fault("ldmatrix: a row must begin at a multiple of 16 bytes");
  }
  Load load = {registers, static_cast<const unsigned char*>(row), count, transpose};
  collective("ldmatrix", kAllLanes, &load, complete_load, where);
}

uint32_t transpose_matrix(uint32_t bits, Where where) {
  Transpose operand = {bits, 0};
  collective("movmatrix", kAllLanes, &operand, complete_transpose, where);
  return operand.out;
}

}  // namespace emulation
