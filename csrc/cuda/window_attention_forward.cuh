// Forward: a block has one head and a run of windows. A warp has 16 queries of the window and walks over the keys, 64
// at a time, with the softmax's maximum and sum kept up to date (Dao, "FlashAttention-2", 2023).
#pragma once

#include "product_float.cuh"
#include "softmax.cuh"
#include "tile_io.cuh"

namespace swin_fast {

template <Mode kMode, int kHeadDim, bool kOneChunk>
struct Forward {
  using Dot = Product<kMode, kHeadDim>;
  using Storage = typename Dot::Storage;
  using Stage = ForwardStage<Storage>;
  static constexpr int kStride = Dot::kStride;

  const CudaParams& p;
  const Schedule& schedule;
  unsigned char* stages;  // after this head's column of the bias table
  int stage_bytes;
  int head, warp_row;  // the warp's first query
  Logits logits;

  __device__ __forceinline__ Forward(const CudaParams& params, const Schedule& s, int h)
      : p(params),
        schedule(s),
        stages(ptx::shared_memory() + round_up(table_rows(params.geometry), 4) * int(sizeof(float))),
        stage_bytes(int(Stage(nullptr, params.tokens, kStride).arena.used)),
        head(h),
        warp_row(warp_index() * kWarpRows),
        logits(params, stage(0).tokens, reinterpret_cast<float*>(ptx::shared_memory()), h) {
    logits.query = warp_row + int(threadIdx.x) % 32 / 4;
    for (int i = 0; i < schedule.stages; ++i) prepare_tokens(p, stage(i).tokens, false);
    load_table(p, head, reinterpret_cast<float*>(ptx::shared_memory()));
  }

  __device__ __forceinline__ Stage stage(int i) const { return Stage(stages + i * stage_bytes, p.tokens, kStride); }

  // q is part 0 of a row, k 1, v 2.
  template <int kParts>
  __device__ __forceinline__ void copy(const Stage& to, Storage* const (&tiles)[kParts], int part, int first,
                                       int rows) const {
    const int64_t part_size = int64_t(p.heads) * p.head_dim;
    copy_rows<Storage, kHeadDim, kStride>(tiles, to.tokens.source + first,
                                          part * part_size + int64_t(head) * p.head_dim, part_size, rows, p.head_dim,
                                          schedule.qkv_bytes);
  }

  // Rows of a chunk of tokens that are copied: whole rows of the matrix instructions.
  __device__ __forceinline__ int rows_in_chunk(int first) const {
    const int left = round_up(p.tokens, kWarpRows) - first;
    return left < kChunk ? left : kChunk;
  }

  // Starts to copy a window: all of it where it is one chunk, the queries otherwise.
  __device__ __forceinline__ void start(Window& window, const Stage& to) const {
    place_tokens<Storage>(p, to.tokens, window, false);
    if (kOneChunk)
      copy<3>(to, {to.query, to.key, to.value}, 0, 0, rows_in_chunk(0));
    else
      copy<1>(to, {to.query}, 0, 0, round_up(p.tokens, kWarpRows));
    ptx::copy_async_commit();
  }

  // `ahead`: another window has been started since.
  __device__ __forceinline__ void run(const Window& window, const Stage& shared, bool ahead) {
    logits.move_to(window, shared.tokens);
    float out[kHeadDim / 8][4] = {};
    float max_low = minus_infinity(), max_high = minus_infinity(), sum_low = 0.f, sum_high = 0.f;
    for (int first = 0; first < p.tokens; first += kChunk) {
      if (!kOneChunk) {
        if (first > 0) __syncthreads();  // the last chunk has been read
        copy<2>(shared, {shared.key, shared.value}, 1, first, rows_in_chunk(first));
        ptx::copy_async_commit();
      }
      if (ahead)
        ptx::copy_async_wait<1>();
      else
        ptx::copy_async_wait<0>();
      __syncthreads();
      if (p.logit_scale) {
        if (first == 0) normalize_rows<kMode, kHeadDim, kStride>(shared.query, nullptr, p.tokens);
        normalize_rows<kMode, kHeadDim, kStride>(shared.key, nullptr, rows_in_chunk(first));
        __syncthreads();
      }
      float scores[kKeyTiles][4];
      Dot::rows_by_rows(scores, shared.query + warp_row * kStride, shared.key, p.tokens - first);
      logits.from_scores(scores, first, window.irregular);
      const float old_low = max_low, old_high = max_high;
      max_of_rows(scores, max_low, max_high);
      powers(scores, max_low, max_high);
      if (!kOneChunk && first > 0) {
        const float low = max_low == minus_infinity() ? 1.f : ptx::exp2_approx(old_low - max_low);
        const float high = max_high == minus_infinity() ? 1.f : ptx::exp2_approx(old_high - max_high);
        sum_low *= low, sum_high *= high;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) out[n][0] *= low, out[n][1] *= low, out[n][2] *= high, out[n][3] *= high;
      }
      add_columns(scores, sum_low, sum_high);
      if (p.dropout_p > 0) keep_only(scores, logits.kept(first, window.index, schedule.drop_below));
      Dot::weights_by_rows(out, scores, shared.value, p.tokens - first);
      if (kOneChunk) break;
    }
    finish(window, shared, out, max_low, max_high, sum_over_row(sum_low), sum_over_row(sum_high));
  }

  __device__ __forceinline__ void finish(const Window& window, const Stage& shared, const float (&out)[kHeadDim / 8][4],
                                         float max_low, float max_high, float sum_low, float sum_high) {
    Storage* rows = shared.query + warp_row * kStride;  // nobody else reads this warp's queries
    __syncwarp();
    put_rows<kMode, kHeadDim / 8, kStride>(rows, out, sum_low > 0 ? schedule.keep_scale / sum_low : 0.f,
                                           sum_high > 0 ? schedule.keep_scale / sum_high : 0.f);
    __syncwarp();
    const int64_t map = map_size(p.geometry);
    store_rows<Storage, kHeadDim, kStride>(p.out, rows, shared.tokens.position + warp_row, int64_t(window.batch) * map,
                                           int64_t(p.heads) * p.head_dim, int64_t(head) * p.head_dim, p.head_dim,
                                           schedule.out_bytes);
    if (p.lse && threadIdx.x % 4 == 0) {
      float* lse = p.lse + (int64_t(window.batch) * p.heads + head) * map;
      const int32_t low = shared.tokens.position[logits.query], high = shared.tokens.position[logits.query + 8];
      if (low >= 0) lse[low] = (max_low + log2f(sum_low)) * kLn2;
      if (high >= 0) lse[high] = (max_high + log2f(sum_high)) * kLn2;
    }
  }
};

template <Mode kMode, int kHeadDim, bool kOneChunk>
__global__ void __launch_bounds__(kOneChunk ? 128 : 512, kOneChunk ? forward_blocks(kHeadDim) : 1)
    window_attention_forward(const __grid_constant__ CudaParams p, const __grid_constant__ Schedule schedule) {
  const int64_t run = blockIdx.x / unsigned(p.heads), total = p.batch * p.windows;
  const int64_t begin = run * schedule.windows_per_block, stop = begin + schedule.windows_per_block;
  const int64_t end = stop < total ? stop : total;
  using Block = Forward<kMode, kHeadDim, kOneChunk>;
  Block block(p, schedule, int(blockIdx.x % unsigned(p.heads)));
  Window window(p, begin), next = window;
  unsigned irregular = 0;  // a bit for each stage
  while (window.index < end) {
    // this window, unless it has been started, and the one after it where there is room for both
    for (; next.index < end && next.index < window.index + schedule.stages; next.advance(p)) {
      const int at = int(next.index - begin) & (schedule.stages - 1);
      block.start(next, block.stage(at));
      irregular = (irregular & ~(1u << at)) | unsigned(next.irregular) << at;
    }
    const int at = int(window.index - begin) & (schedule.stages - 1);
    window.irregular = irregular >> at & 1;
    block.run(window, block.stage(at), next.index > window.index + 1);
    __syncthreads();  // tokens and tiles have been read
    window.advance(p);
  }
}

}  // namespace swin_fast
