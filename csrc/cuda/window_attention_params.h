// What the CUDA kernels are told: plain data, device pointers, strides in elements, no torch type.
#pragma once

#include "../common/params.h"

namespace swin_fast {

// How the products are computed; the accumulators are float32 in each.
enum class Mode : int {
  kFloat32,  // exact: multiply-add units
  kTf32,     // float32 maps, operands rounded to 10 bits of mantissa for the tensor cores
  kBFloat16,
  kFloat16,
};

// bias, logit_scale and their gradients come in float32, bfloat16 or float16, whatever qkv is. Everything is contiguous
// unless it has strides. Strides are of the batch and the three grid axes; the last axis is contiguous.
struct CudaParams {
  Geometry geometry;
  int64_t batch, windows;  // windows in one image
  int32_t heads, head_dim, tokens;
  const void* qkv;  // (batch, *grid, 3 * heads * head_dim), of any alignment
  int64_t qkv_stride[4];
  const void* pad_qkv;  // (3 * heads * head_dim), qkv's dtype; null: padded keys are masked out
  void* out;            // (batch, *grid, heads * head_dim)
  float* lse;           // (batch, heads, *grid), or null
  const void* bias;     // (bias_rows, heads), or null
  DType bias_dtype;
  int32_t bias_rows;
  const int32_t* bias_index;  // (tokens, tokens), negative entries wrap; null: the standard relative position index
  const float* mask;          // (mask_windows, tokens, tokens), or null
  int64_t mask_windows;
  const void* logit_scale;  // (heads), or null: not cosine attention
  DType logit_scale_dtype;
  float scale, mask_value;
  double dropout_p;
  const int64_t* dropout_seed;  // read by the kernel, so that the host need not wait for it

  // Backward only. A gradient that nobody asked for is null.
  const void* grad_out;  // (batch, *grid, heads * head_dim), of any alignment
  int64_t grad_out_stride[4];
  void* grad_qkv;          // (batch, *grid, 3 * heads * head_dim)
  void* grad_bias;         // (bias_rows, heads), bias_dtype
  void* grad_pad;          // (3 * heads * head_dim), qkv's dtype
  void* grad_logit_scale;  // (heads), logit_scale_dtype
  float* workspace;        // LaunchPlan::workspace_bytes of it, 16-byte aligned
};

}  // namespace swin_fast
