// What the boundaries of all backends check and read of the op's tensors. Messages for people are raised in Python
// (functional.py); these only keep a direct call of the op from reading out of bounds.
#pragma once

#include <vector>

#include "params.h"
#include "stable.h"

namespace swin_fast {

using Ints = std::vector<int64_t>;

// A map of one to three axes; the windows that cover it.
inline Geometry geometry_of(const Ints& grid, const Ints& window_size, const Ints& shift_size, bool roll_then_pad) {
  const size_t axes = grid.size();
  STD_TORCH_CHECK(axes >= 1 && axes <= 3 && window_size.size() == axes && shift_size.size() == axes,
                  "qkv must have one to three grid axes, with a window and a shift for each");
  Geometry g = {{1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, roll_then_pad, false, false};
  for (size_t a = 0; a < axes; ++a) {
    const size_t at = 3 - axes + a;
    g.grid[at] = grid[a], g.window[at] = window_size[a], g.shift[at] = shift_size[a];
    STD_TORCH_CHECK(g.grid[at] > 0 && g.window[at] > 0 && g.shift[at] >= 0 && g.shift[at] < g.window[at],
                    "grid and window must be positive and the shift below the window");
    g.count[at] = ceil_div(g.grid[at], g.window[at]);
    g.shifted |= g.shift[at] > 0;
    g.padded |= g.count[at] * g.window[at] != g.grid[at];
  }
  return g;
}

inline Ints grid_of(const Tensor& qkv) {
  STD_TORCH_CHECK(qkv.dim() >= 3 && qkv.dim() <= 5, "qkv must have one to three grid axes");
  return Ints(qkv.sizes().begin() + 1, qkv.sizes().end() - 1);
}

inline int64_t product(const int64_t (&axes)[3]) { return axes[0] * axes[1] * axes[2]; }

// Strides of the batch and the three grid axes, 0 for a missing one.
inline void grid_strides(int64_t (&stride)[4], const Tensor& t) {
  const int64_t axes = t.dim() - 2;
  stride[0] = t.stride(0);
  for (int64_t a = 0; a < 3; ++a) stride[1 + a] = a < 3 - axes ? 0 : t.stride(1 + a - (3 - axes));
}

inline void check_heads(const Tensor& qkv, int64_t num_heads) {
  const int64_t channels = qkv.size(-1);
  STD_TORCH_CHECK(num_heads > 0 && channels > 0 && channels % (3 * num_heads) == 0, "num_heads must divide C");
}

inline void check_bias(const Tensor& table, const OptionalTensor& index, const Geometry& g, int64_t num_heads) {
  STD_TORCH_CHECK(table.dim() == 2 && table.size(1) == num_heads && table.size(0) > 0,
                  "bias_table must be (T, num_heads)");
  if (index) {
    const int64_t tokens = product(g.window);
    STD_TORCH_CHECK(index->dim() == 2 && index->size(0) == tokens && index->size(1) == tokens,
                    "bias_index must be (N, N)");
    return;
  }
  int64_t standard = 1;
  for (int64_t w : g.window) standard *= 2 * w - 1;
  STD_TORCH_CHECK(table.size(0) == standard, "bias_table must have ", standard, " rows, got ", table.size(0));
}

inline void check_pad(const Tensor& pad_qkv, const Tensor& qkv) {
  STD_TORCH_CHECK(pad_qkv.scalar_type() == qkv.scalar_type() && pad_qkv.numel() == qkv.size(-1),
                  "pad_qkv must have qkv's dtype and 3 * C elements");
}

inline void check_mask(const Tensor& mask, int64_t tokens) {
  STD_TORCH_CHECK(mask.dim() == 3 && mask.size(0) > 0 && mask.size(1) == tokens && mask.size(2) == tokens,
                  "mask must be (M, N, N)");
}

inline void check_logit_scale(const Tensor& logit_scale, int64_t num_heads) {
  STD_TORCH_CHECK(logit_scale.numel() == num_heads, "logit_scale must have one entry per head");
}

inline void check_seed(const OptionalTensor& seed) {
  STD_TORCH_CHECK(seed && seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                  "dropout needs a seed: one int64");
}

inline void check_grad(const Tensor& grad, const Tensor& qkv) {
  STD_TORCH_CHECK(grad.dim() == qkv.dim() && grad.numel() * 3 == qkv.numel() && grad.scalar_type() == qkv.scalar_type(),
                  "grad must have the output's shape and dtype");
}

// Sizes of the op's two results; lse is (0) where it is not asked for.
inline Ints out_size(const Tensor& qkv) {
  Ints size(qkv.sizes().begin(), qkv.sizes().end());
  size.back() /= 3;
  return size;
}

inline Ints lse_size(const Tensor& qkv, int64_t num_heads, bool save_lse) {
  if (!save_lse) return {0};
  Ints size = {qkv.size(0), num_heads};
  size.insert(size.end(), qkv.sizes().begin() + 1, qkv.sizes().end() - 1);
  return size;
}

}  // namespace swin_fast
