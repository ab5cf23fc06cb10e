// What a kernel is told: plain data, strides in elements, no torch type. The maths is in window_attention_kernel.h.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define SWIN_FAST_HOST_DEVICE __host__ __device__
#else
#define SWIN_FAST_HOST_DEVICE
#endif

namespace swin_fast {

enum class DType : int { kFloat32, kBFloat16, kFloat16, kFloat64 };

// A map of one to three axes is always seen as (D, H, W); missing leading axes have size, window and count 1.
struct Geometry {
  int64_t grid[3];    // map
  int64_t window[3];  // tokens of a window along each axis
  int64_t shift[3];
  int64_t count[3];  // windows along each axis
  bool roll_then_pad;
  bool shifted;  // any shift at all: the seam mask applies
  bool padded;   // the window does not divide the map on some axis
};

// "acc" is float, or double where the tensors are double. Every matrix below is contiguous unless it has strides.
struct WindowAttentionParams {
  Geometry geometry;
  int64_t batch, heads, head_dim, tokens, windows;  // tokens in a window; windows in one image
  const void* qkv;                                  // (batch, *grid, 3 * heads * head_dim)
  int64_t qkv_stride[4];                            // batch and the three grid axes; the last axis is contiguous
  const void* pad_qkv;  // (3 * heads * head_dim), qkv's dtype; null: padded keys are masked out
  void* out;            // (batch, *grid, heads * head_dim)
  void* lse;            // acc (batch, heads, *grid), or null
  double score_unit;    // what the kernel wants bias and mask multiplied by, see below
  const void* bias;     // acc (heads, rows), times score_unit; null: no bias
  int64_t bias_rows;
  const int64_t* bias_index;  // (tokens, tokens), or null: the standard relative position index
  const void* bias_dense;     // acc (heads, blocks, tokens, 64), what prepare_bias writes; null: expanded per window
  const void* mask;           // acc (mask_windows, tokens, tokens), or null
  int64_t mask_windows;
  const void* logit_scale;  // acc (heads), or null: not cosine attention
  double scale, mask_value;
  double dropout_p;
  uint64_t dropout_seed;

  // Backward only. A gradient that nobody asked for is null.
  const void* grad_out;  // (batch, *grid, heads * head_dim)
  int64_t grad_out_stride[4];
  void* grad_qkv;               // (batch, *grid, 3 * heads * head_dim)
  double* grad_bias;            // (chunks, heads, rows), partial sums over the windows of a chunk
  double* grad_pad;             // (chunks, 3 * heads * head_dim), likewise
  double* grad_scale;           // (chunks, heads), likewise
  int64_t chunks, head_groups;  // the backward's work items: chunks of windows x groups of heads
};

// One set of these per instruction set. [begin, end) counts work items, scratch is one thread's own.
struct WindowAttentionKernels {
  double (*score_unit)(const WindowAttentionParams&, DType);
  size_t (*forward_scratch)(const WindowAttentionParams&, DType);  // bytes
  size_t (*backward_scratch)(const WindowAttentionParams&, DType);
  size_t (*bias_bytes)(const WindowAttentionParams&, DType);                                           // of bias_dense
  void (*prepare_bias)(const WindowAttentionParams&, DType, int64_t begin, int64_t end, void* dense);  // items: heads
  void (*forward)(const WindowAttentionParams&, DType, int64_t begin, int64_t end, void* scratch);   // windows x heads
  void (*backward)(const WindowAttentionParams&, DType, int64_t begin, int64_t end, void* scratch);  // chunks x groups
};

// Elements [begin, end) of two contiguous arrays, which may be one.
using GeluKernel = void (*)(const void* x, void* out, DType, int64_t begin, int64_t end);

constexpr int64_t kBlock = 64;  // queries handled together; the row length of every (keys, queries) matrix

SWIN_FAST_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace swin_fast
