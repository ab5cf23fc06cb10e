// Tile sizes, and how a call is cut into blocks: numbers and pure functions, the same on the host and on the device.
#pragma once

#include "window_attention_params.h"

namespace swin_fast {

// Rows of one warp: the matrix instruction is 16 rows high, and with no more than that a row of logits fits the
// registers.
constexpr int kWarpRows = 16;
// Keys handled together: a 7 x 7 or 8 x 8 window is one chunk; 32 accumulators of a thread hold 16 x 64 logits.
constexpr int kChunk = 64;
constexpr int kKeyTiles = kChunk / 8;
// 16 warps of 16 rows: the windows of 16 x 16 tokens.
constexpr int kMaxTokens = 256;
constexpr int kMaxHeadDim = 64;
// The backward walks over chunks of queries, so four warps do for every window.
constexpr int kBackwardThreads = kChunk / kWarpRows * 32;
// Rows of a weight tile in shared memory: 64 columns and 8 more, so that eight rows of 16 bytes lie in distinct banks
// (2-byte elements), and so do four rows of eight floats.
constexpr int kWeightStride = kChunk + 8;

// Backward blocks to a multiprocessor: 168 registers a thread hold dS summed over windows, logits, dP and a gradient of
// 32 columns; with 64 columns they need more.
constexpr int backward_blocks(int head_dim_tile) { return head_dim_tile <= 32 ? 3 : 2; }

// Forward blocks of four warps to a multiprocessor, so that some copy while others compute: 96 registers a thread hold
// logits and a result of 32 columns, 128 one of 64.
constexpr int forward_blocks(int head_dim_tile) { return head_dim_tile <= 32 ? 5 : 4; }

constexpr bool is_half(Mode mode) { return mode == Mode::kBFloat16 || mode == Mode::kFloat16; }
constexpr int element_size(Mode mode) { return is_half(mode) ? 2 : 4; }
// 16 bytes more than the data: eight consecutive rows then start in eight distinct groups of four banks.
constexpr int row_stride(Mode mode, int head_dim_tile) { return head_dim_tile + 16 / element_size(mode); }
constexpr int head_dim_tile(int head_dim) { return head_dim <= 16 ? 16 : head_dim <= 32 ? 32 : 64; }
constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }
constexpr int chunks_of(int tokens) { return (tokens + kChunk - 1) / kChunk; }

// Threads of a forward block: a warp for every 16 queries, so that keys and values pass through shared memory once.
constexpr int forward_threads(int tokens) { return round_up(tokens, kWarpRows) / kWarpRows * 32; }

// Takes arrays from a block's shared memory one after the other; from address 0 on the host, to count the bytes.
struct Arena {
  unsigned char* base;
  size_t used;

  template <class T>
  SWIN_FAST_HOST_DEVICE T* take(int count) {
    T* at = reinterpret_cast<T*>(base + used);
    used += (sizeof(T) * size_t(count) + 15) / 16 * 16;
    return at;
  }
};

// What a block knows of its window's tokens; arrays of round_up(tokens, kChunk) entries.
struct TokenArrays {
  const void** source;  // the token's row of qkv, or pad_qkv, or null for a row of zeros
  const void** grad;    // its row of grad_out, or null (backward only)
  int32_t* position;    // on the map of one image, row-major, or -1 outside it
  int32_t* bias_at;     // the row of the bias table is bias_at[query] - bias_at[key] + a constant
  int32_t* region;      // side of the seam on each axis, or kMaskedKey
  int32_t* local;       // coordinates in the window, 10 bits each

  // `fixed` is for what is the same in every window, `moving` for the rest.
  SWIN_FAST_HOST_DEVICE TokenArrays(Arena& fixed, Arena& moving, int tokens, bool backward) {
    const int rows = round_up(tokens, kChunk);
    bias_at = fixed.take<int32_t>(rows);
    local = fixed.take<int32_t>(rows);
    source = moving.take<const void*>(rows);
    grad = moving.take<const void*>(backward ? rows : 0);
    position = moving.take<int32_t>(rows);
    region = moving.take<int32_t>(rows);
  }
};
constexpr int kMaskedKey = 8;

// One window's part of a forward block's shared memory; two of them where one is copied while the other is computed.
template <class Storage>
struct ForwardStage {
  Arena arena;
  TokenArrays tokens;
  Storage *query, *key, *value;  // (rows, stride), one chunk of keys

  SWIN_FAST_HOST_DEVICE ForwardStage(unsigned char* base, int n, int stride)
      : arena{base, 0}, tokens(arena, arena, n, false) {
    query = arena.take<Storage>(round_up(n, kWarpRows) * stride);
    key = arena.take<Storage>(kChunk * stride);
    value = arena.take<Storage>(kChunk * stride);
  }
};

// Rows of the standard bias table; a table with an index of its own, which may be of any size, stays in global memory.
SWIN_FAST_HOST_DEVICE inline int table_rows(const Geometry& g) {
  return int((2 * g.window[0] - 1) * (2 * g.window[1] - 1) * (2 * g.window[2] - 1));
}

// Whether a call has tokens that read pad_qkv.
SWIN_FAST_HOST_DEVICE inline bool reads_pad(const CudaParams& p) { return p.pad_qkv && p.geometry.padded; }

// A backward block's shared memory. What belongs to one window is there once or twice: one is copied while the other is
// computed.
template <class Storage>
struct BackwardShared {
  Arena stage, fixed;
  TokenArrays tokens;
  Storage *query, *key, *value, *grad;  // (kChunk, stride)
  Storage* weights;                     // (kChunk, kWeightStride): P, then dS
  float *norm_query, *norm_key;         // cosine attention: 1 / norm of every row
  float* table;
  float* row_max;  // more than one chunk: the softmax of every query, from a first pass
  float* row_inverse;
  float* row_inner;
  float* grad_query;  // more than one chunk: (tokens, head dim + 8) sums
  float* pad_sum;     // (warps, 2, head dim), the gradients of padded tokens' k and v
  float* scale_sum;   // a number for each warp

  static constexpr int stage_bytes(int n, int stride) {
    return round_up(n, kChunk) * (2 * int(sizeof(void*)) + 2 * int(sizeof(int32_t))) +
           4 * kChunk * stride * int(sizeof(Storage));
  }

  // Stage `at` of `stages`.
  SWIN_FAST_HOST_DEVICE BackwardShared(unsigned char* base, const CudaParams& p, int stride, int head_dim, int stages,
                                       int at)
      : stage{base + at * stage_bytes(p.tokens, stride), 0},
        fixed{base, size_t(stages * stage_bytes(p.tokens, stride))},
        tokens(fixed, stage, p.tokens, true) {
    const int n = p.tokens, rows = round_up(n, kChunk), many = n > kChunk ? rows : 0;
    // Small windows fit everywhere; for others the bytes must be known before the tensors are.
    const bool cosine = many || p.logit_scale, pad = many || reads_pad(p);
    query = stage.take<Storage>(kChunk * stride);
    key = stage.take<Storage>(kChunk * stride);
    value = stage.take<Storage>(kChunk * stride);
    grad = stage.take<Storage>(kChunk * stride);
    weights = fixed.take<Storage>(kChunk * kWeightStride);
    norm_query = fixed.take<float>(cosine ? rows : 0);
    norm_key = fixed.take<float>(cosine ? rows : 0);
    table = fixed.take<float>(table_rows(p.geometry));
    row_max = fixed.take<float>(many);
    row_inverse = fixed.take<float>(many);
    row_inner = fixed.take<float>(many);
    grad_query = fixed.take<float>(n > kChunk ? round_up(n, kWarpRows) * (head_dim + 8) : 0);
    pad_sum = fixed.take<float>(pad ? kBackwardThreads / 32 * 2 * head_dim : 0);
    scale_sum = fixed.take<float>(kBackwardThreads / 32);
  }
};

struct DeviceLimits {
  int multiprocessors;
  int shared_per_block;  // what a block may ask for
  int shared_per_multiprocessor;
};

struct LaunchPlan {
  unsigned blocks, threads;
  size_t shared_bytes;
  int64_t windows_per_block;
  size_t workspace_bytes;
  bool fits;
  int stages;  // windows of a block in shared memory at a time
};

// A block sums dS over its windows for every query and key. Small windows of the standard index end as rows of the
// table then and there; others write all of it (a float4 for each thread and key tile of every pair of chunks).
SWIN_FAST_HOST_DEVICE inline bool folds_bias(const CudaParams& p) { return p.tokens <= kChunk && !p.bias_index; }

// Floats of a block's partial sums: gradients of the bias, of padded k and v, and of the logit scale.
struct PartialSums {
  int64_t bias, pad, scale, size;
};
SWIN_FAST_HOST_DEVICE inline PartialSums partial_sums(const CudaParams& p) {
  const int64_t chunks = chunks_of(p.tokens);
  const int64_t entries = folds_bias(p) ? round_up(p.bias_rows, 4) : chunks * chunks * kChunk * kChunk;
  const int64_t bias = p.grad_bias ? entries : 0, pad = p.grad_pad ? 2 * kMaxHeadDim : 0;
  return {0, bias, bias + pad, bias + pad + (p.grad_logit_scale ? 4 : 0)};
}

inline int64_t total_windows(const CudaParams& p) { return p.batch * p.windows; }

inline LaunchPlan make_plan(const CudaParams& p, const DeviceLimits& device, unsigned threads, size_t shared_bytes,
                            int64_t blocks_wanted, int64_t most_windows) {
  const int64_t total = total_windows(p);
  int64_t per_block = ceil_div(total * p.heads, blocks_wanted);
  if (per_block > most_windows) per_block = most_windows;
  if (per_block < 1) per_block = 1;
  const int64_t runs = ceil_div(total, per_block);
  const bool fits = shared_bytes <= size_t(device.shared_per_block) && runs * p.heads < (int64_t(1) << 31) &&
                    total < (int64_t(1) << 31) && p.tokens <= kMaxTokens && p.head_dim <= kMaxHeadDim;
  return {unsigned(runs * p.heads), threads, shared_bytes, per_block, 0, fits, 1};
}

// Blocks that a multiprocessor's shared memory holds; 1 KiB of each is the system's.
inline int64_t blocks_by_memory(const DeviceLimits& device, size_t shared_bytes) {
  return device.shared_per_multiprocessor / int64_t(shared_bytes + 1024);
}

inline int64_t resident_blocks(const DeviceLimits& device, size_t shared_bytes, int most) {
  const int64_t by_memory = blocks_by_memory(device, shared_bytes);
  return device.multiprocessors * (by_memory < 1 ? 1 : by_memory < most ? by_memory : most);
}

template <class Storage>
LaunchPlan forward_plan_of(Mode mode, const CudaParams& p, const DeviceLimits& device) {
  const int stride = row_stride(mode, head_dim_tile(p.head_dim)), threads = forward_threads(p.tokens);
  const size_t stage = ForwardStage<Storage>(nullptr, p.tokens, stride).arena.used;
  const size_t table = size_t(round_up(table_rows(p.geometry), 4)) * sizeof(float);
  // The next window is copied ahead where at least three blocks have the memory for it. A block keeps its head's bias
  // over several windows: four rounds of blocks even out the last one, and more than eight windows save nothing more.
  const bool ahead = p.tokens <= kChunk && 3 * (2 * stage + table + 1024) <= size_t(device.shared_per_multiprocessor);
  const size_t bytes = (ahead ? 2 : 1) * stage + table;
  LaunchPlan plan = make_plan(p, device, threads, bytes, 4 * resident_blocks(device, bytes, 640 / threads), 8);
  plan.stages = ahead && plan.windows_per_block > 1 ? 2 : 1;
  plan.shared_bytes = plan.stages * stage + table;
  return plan;
}

template <class Storage>
LaunchPlan backward_plan_of(Mode mode, const CudaParams& p, const DeviceLimits& device) {
  const int tile = head_dim_tile(p.head_dim), stride = row_stride(mode, tile);
  const auto bytes = [&](int stages) {
    return BackwardShared<Storage>(nullptr, p, stride, tile, stages, 0).fixed.used;
  };
  const int64_t most = backward_blocks(tile), by_memory = blocks_by_memory(device, bytes(1));
  const int64_t held = by_memory < most ? by_memory : most;
  // The next window is copied ahead where that costs none of the blocks.
  const bool ahead = p.tokens <= kChunk && held > 0 && blocks_by_memory(device, bytes(2)) >= held;
  // One round of blocks: each writes one set of partial sums.
  const int64_t blocks = resident_blocks(device, bytes(1), int(most));
  LaunchPlan plan = make_plan(p, device, kBackwardThreads, bytes(1), blocks, int64_t(1) << 31);
  if (ahead && plan.windows_per_block > 1) plan.stages = 2, plan.shared_bytes = bytes(2);
  const int64_t totals = p.grad_bias && !folds_bias(p) ? int64_t(p.heads) * p.tokens * p.tokens : 0;
  plan.workspace_bytes = size_t(plan.blocks * partial_sums(p).size + totals) * sizeof(float);
  return plan;
}

inline LaunchPlan forward_plan(Mode mode, const CudaParams& p, const DeviceLimits& device) {
  return is_half(mode) ? forward_plan_of<uint16_t>(mode, p, device) : forward_plan_of<float>(mode, p, device);
}
inline LaunchPlan backward_plan(Mode mode, const CudaParams& p, const DeviceLimits& device) {
  return is_half(mode) ? backward_plan_of<uint16_t>(mode, p, device) : backward_plan_of<float>(mode, p, device);
}

}  // namespace swin_fast
