// Matrix instructions of a warp, with the register layouts of the PTX ISA, and the conversions that go with them.
#pragma once

#include "emulation.h"

namespace emulation {

enum class Half { kFloat16, kBFloat16 };

float to_float(Half type, uint16_t bits);
uint16_t from_float(Half type, float value);  // to nearest, ties to even
uint32_t to_tf32(float value);                // cvt.rna: to nearest, ties away from zero

// d = a * b + c for a 16 x 8 tile d; a is 16 x K row by row, b is K x 8 column by column. d may be c.
void multiply_k16(Half type, float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where);
void multiply_k8(Half type, float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where);
void multiply_k8_tf32(float* d, const uint32_t* a, const uint32_t* b, const float* c, Where where);

// ldmatrix: 1, 2 or 4 matrices of 8 x 8 16-bit values; lane l brings the address of row l % 8 of matrix l / 8.
void load_matrices(uint32_t* registers, int count, bool transpose, const void* row, Where where);
uint32_t transpose_matrix(uint32_t bits, Where where);  // movmatrix

}  // namespace emulation
