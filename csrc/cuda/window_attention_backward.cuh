// Backward: a block has one head and a run of windows. With P the softmax of the logits and dP = dO V^T,
//   dV = P^T dO,  dS = P * (dP - rows' sums of P * dP),  dQ = scale * dS K,  dK = scale * dS^T Q
// A warp has 16 queries in the products with keys for columns and 16 keys in those with queries for columns; P and dS
// cross over through shared memory. The softmax is computed again from the scores: a saved log-sum-exp would be one
// rounded number of the size of the scores, off by the same factor in a whole row. Gradients that windows share stay
// with the block until its last window; window_attention_reduce.cuh adds up the blocks' sums in their order. Where it
// costs no block of a multiprocessor, the next window is copied while one is computed.
#pragma once

#include "product_float.cuh"
#include "softmax.cuh"
#include "tile_io.cuh"

namespace swin_fast {

template <Mode kMode, int kHeadDim, bool kOneChunk>
struct Backward {
  using Numbers = Element<kMode>;
  using Dot = Product<kMode, kHeadDim>;
  using Storage = typename Dot::Storage;
  static constexpr int kStride = Dot::kStride, kTiles = kHeadDim / 8, kSumStride = kHeadDim + 8;

  const CudaParams& p;
  const Schedule& schedule;
  BackwardShared<Storage> shared;
  int head, warp_row, lane_row,
      lane_column;  // the warp's first row of a chunk, the lane's of the warp
  float scale;
  Logits logits;
  Window window;
  float* sums;                        // the block's slice of the workspace
  float bias_sum[kKeyTiles][4] = {};  // one chunk: dS over the windows so far
  float scale_sum = 0.f;

  __device__ __forceinline__ Backward(const CudaParams& params, const Schedule& s, int h, int64_t first_window)
      : p(params),
        schedule(s),
        shared(stage(0)),
        head(h),
        warp_row(warp_index() * kWarpRows),
        lane_row(int(threadIdx.x) % 32 / 4),
        lane_column(int(threadIdx.x) % 4 * 2),
        scale(score_scale(params, h)),
        logits(params, shared.tokens, shared.table, h),
        window(params, first_window),
        sums(params.workspace + blockIdx.x * partial_sums(params).size) {
    for (int i = 0; i < schedule.stages; ++i) prepare_tokens(p, stage(i).tokens, true);
    load_table(p, head, shared.table);
    for (int i = int(threadIdx.x); reads_pad(p) && i < kBackwardThreads / 32 * 2 * kHeadDim; i += kBackwardThreads)
      shared.pad_sum[i] = 0.f;
  }

  __device__ __forceinline__ BackwardShared<Storage> stage(int at) const {
    return BackwardShared<Storage>(ptx::shared_memory(), p, kStride, kHeadDim, kOneChunk ? schedule.stages : 1, at);
  }

  __device__ __forceinline__ int64_t column(int part) const { return (int64_t(part) * p.heads + head) * p.head_dim; }

  __device__ __forceinline__ int rows_in_chunk(int first) const {
    const int left = round_up(p.tokens, kWarpRows) - first;
    return left < kChunk ? left : kChunk;
  }

  // q is part 0 of a row, k 1, v 2.
  template <int kParts>
  __device__ __forceinline__ void copy(Storage* const (&tiles)[kParts], int part, int first) const {
    copy_rows<Storage, kHeadDim, kStride>(tiles, shared.tokens.source + first, column(part), column(1) - column(0),
                                          rows_in_chunk(first), p.head_dim, schedule.qkv_bytes);
  }
  __device__ __forceinline__ void copy_grads(int first) const {
    copy_rows<Storage, kHeadDim, kStride, 1>({shared.grad}, shared.tokens.grad + first, column(0), 0,
                                             rows_in_chunk(first), p.head_dim, schedule.grad_bytes);
  }
  __device__ __forceinline__ void copy_queries(int first) const {
    copy<1>({shared.query}, 0, first);
    copy_grads(first);
  }
  __device__ __forceinline__ void copy_keys(int first) const { copy<2>({shared.key, shared.value}, 1, first); }

  // Starts to copy a window: all of it where it is one chunk, nothing otherwise.
  __device__ __forceinline__ void start(Window& next, int at) {
    shared = stage(at);
    place_tokens<Storage>(p, shared.tokens, next, true);
    if (!kOneChunk) return;
    copy<3>({shared.query, shared.key, shared.value}, 0, 0);
    copy_grads(0);
    ptx::copy_async_commit();
  }

  // Waits for the copies, but not for those of a window that was started since (`ahead`); `queries` and `keys` say
  // which of the two are new, at these first rows.
  __device__ __forceinline__ void arrive(bool ahead, bool queries, int first_query, bool keys, int first_key) const {
    if (ahead)
      ptx::copy_async_wait<1>();
    else
      ptx::copy_async_wait<0>();
    __syncthreads();
    if (!p.logit_scale) return;
    if (queries)
      normalize_rows<kMode, kHeadDim, kStride>(shared.query, shared.norm_query + first_query,
                                               rows_in_chunk(first_query));
    if (keys)
      normalize_rows<kMode, kHeadDim, kStride>(shared.key, shared.norm_key + first_key, rows_in_chunk(first_key));
    __syncthreads();
  }

  // The warp's logits and dP, dropout included; `bits` are the weights that it keeps.
  __device__ __forceinline__ void logits_and_grads(float (&s)[kKeyTiles][4], float (&d)[kKeyTiles][4], uint32_t& bits,
                                                   int first_query, int first_key) {
    logits.query = first_query + warp_row + lane_row;
    Dot::rows_by_rows(s, shared.query + warp_row * kStride, shared.key, p.tokens - first_key);
    logits.from_scores(s, first_key, window.irregular);
    Dot::rows_by_rows(d, shared.grad + warp_row * kStride, shared.value, p.tokens - first_key);
    if (p.dropout_p > 0) {
      bits = logits.kept(first_key, window.index, schedule.drop_below);
      keep_only(d, bits);
      scale_rows(d, schedule.keep_scale, schedule.keep_scale);
    }
  }

  static __device__ __forceinline__ void scale_rows(float (&s)[kKeyTiles][4], float low, float high) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) s[n][0] *= low, s[n][1] *= low, s[n][2] *= high, s[n][3] *= high;
  }

  static __device__ __forceinline__ void add_products(const float (&s)[kKeyTiles][4], const float (&d)[kKeyTiles][4],
                                                      float& low, float& high) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      low = fmaf(s[n][0], d[n][0], fmaf(s[n][1], d[n][1], low));
      high = fmaf(s[n][2], d[n][2], fmaf(s[n][3], d[n][3], high));
    }
  }

  // More than one chunk: maximum, 1 / sum and sum of P * dP of every row, from a pass of their own.
  __device__ __forceinline__ void row_statistics() {
    for (int first_query = 0; first_query < p.tokens; first_query += kChunk) {
      float max_low = minus_infinity(), max_high = max_low, sum_low = 0.f, sum_high = 0.f, low = 0.f, high = 0.f;
      for (int first_key = 0; first_key < p.tokens; first_key += kChunk) {
        __syncthreads();  // the tiles have been read
        if (first_key == 0) copy_queries(first_query);
        copy_keys(first_key);
        ptx::copy_async_commit();
        arrive(false, first_key == 0, first_query, true, first_key);
        if (first_query + warp_row >= p.tokens) continue;
        float s[kKeyTiles][4], d[kKeyTiles][4];
        uint32_t bits = 0;
        logits_and_grads(s, d, bits, first_query, first_key);
        const float old_low = max_low, old_high = max_high;
        max_of_rows(s, max_low, max_high);
        powers(s, max_low, max_high);
        const float less_low = old_low == minus_infinity() ? 0.f : ptx::exp2_approx(old_low - max_low);
        const float less_high = old_high == minus_infinity() ? 0.f : ptx::exp2_approx(old_high - max_high);
        sum_low *= less_low, low *= less_low, sum_high *= less_high, high *= less_high;
        add_columns(s, sum_low, sum_high);
        add_products(s, d, low, high);
      }
      if (first_query + warp_row >= p.tokens) continue;
      sum_low = sum_over_row(sum_low), sum_high = sum_over_row(sum_high);
      low = sum_over_row(low), high = sum_over_row(high);
      if (lane_column == 0) {
        const int row = logits.query;
        const float inverse_low = sum_low > 0 ? 1 / sum_low : 0.f, inverse_high = sum_high > 0 ? 1 / sum_high : 0.f;
        shared.row_max[row] = max_low, shared.row_max[row + 8] = max_high;
        shared.row_inverse[row] = inverse_low, shared.row_inverse[row + 8] = inverse_high;
        shared.row_inner[row] = low * inverse_low, shared.row_inner[row + 8] = high * inverse_high;
      }
      __syncwarp();
    }
  }

  // Logits and dP -> the weights that meet the values, and dS.
  __device__ __forceinline__ void softmax_gradient(float (&s)[kKeyTiles][4], float (&d)[kKeyTiles][4], uint32_t bits) {
    float low = 0.f, high = 0.f;
    if (kOneChunk) {
      float max_low = minus_infinity(), max_high = max_low, sum_low = 0.f, sum_high = 0.f;
      max_of_rows(s, max_low, max_high);
      powers(s, max_low, max_high);
      add_columns(s, sum_low, sum_high);
      sum_low = sum_over_row(sum_low), sum_high = sum_over_row(sum_high);
      scale_rows(s, sum_low > 0 ? 1 / sum_low : 0.f, sum_high > 0 ? 1 / sum_high : 0.f);
      add_products(s, d, low, high);
      low = sum_over_row(low), high = sum_over_row(high);
    } else {
      const int row = logits.query;
      powers(s, shared.row_max[row], shared.row_max[row + 8]);
      scale_rows(s, shared.row_inverse[row], shared.row_inverse[row + 8]);
      low = shared.row_inner[row], high = shared.row_inner[row + 8];
    }
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      d[n][0] = s[n][0] * (d[n][0] - low), d[n][1] = s[n][1] * (d[n][1] - low);
      d[n][2] = s[n][2] * (d[n][2] - high), d[n][3] = s[n][3] * (d[n][3] - high);
    }
    if (p.dropout_p > 0) {
      keep_only(s, bits);
      scale_rows(s, schedule.keep_scale, schedule.keep_scale);
    }
  }

  __device__ __forceinline__ float4* dense_sums(int first_query, int first_key) const {
    const int chunks = chunks_of(p.tokens), pair = first_query / kChunk * chunks + first_key / kChunk;
    return reinterpret_cast<float4*>(sums + partial_sums(p).bias) + pair * kKeyTiles * kBackwardThreads + threadIdx.x;
  }

  __device__ __forceinline__ void add_to_bias(const float (&d)[kKeyTiles][4], int first_query, int first_key,
                                              bool first_window) {
    if (kOneChunk) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) bias_sum[n][i] += d[n][i];
    } else {
      float4* at = dense_sums(first_query, first_key);
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        if (first_key + n * 8 >= p.tokens) break;
        float4 sum = make_float4(d[n][0], d[n][1], d[n][2], d[n][3]);
        if (!first_window) {
          const float4 old = at[n * kBackwardThreads];
          sum = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
        }
        at[n * kBackwardThreads] = sum;
      }
    }
  }

  // The scores of unit vectors are computed again, into `s`, rather than kept in registers next to the logits.
  __device__ __forceinline__ void add_to_scale(float (&s)[kKeyTiles][4], const float (&d)[kKeyTiles][4],
                                               int first_key) {
    Dot::rows_by_rows(s, shared.query + warp_row * kStride, shared.key, p.tokens - first_key);
    float low = 0.f, high = 0.f;
    add_products(s, d, low, high);
    scale_sum += low + high;
  }

  // More than one chunk: a lane adds to its own entries of dQ.
  __device__ __forceinline__ void add_to_grad_query(const float (&rows)[kTiles][4], bool first_chunk) const {
    float* at = shared.grad_query + logits.query * kSumStride + lane_column;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2* pair = reinterpret_cast<float2*>(at + half * 8 * kSumStride + n * 8);
        const float2 old = first_chunk ? make_float2(0.f, 0.f) : *pair;
        *pair = make_float2(old.x + rows[n][2 * half], old.y + rows[n][2 * half + 1]);
      }
  }

  // The window of stage `at`, which has been started, and with `ahead` another one since.
  __device__ __forceinline__ void run(int at, bool ahead, bool first_window) {
    shared = stage(at);
    logits.move_to(window, shared.tokens);
    if (!kOneChunk) row_statistics();
    float grad_query[kTiles][4] = {};
    for (int first_key = 0; first_key < p.tokens; first_key += kChunk) {
      const bool has_keys = first_key + warp_row < p.tokens;
      float grad_key[kTiles][4] = {}, grad_value[kTiles][4] = {};
      for (int first_query = 0; first_query < p.tokens; first_query += kChunk) {
        const bool has_queries = first_query + warp_row < p.tokens;
        if (!kOneChunk) {
          __syncthreads();  // the tiles have been read
          if (first_query == 0) copy_keys(first_key);
          copy_queries(first_query);
          ptx::copy_async_commit();
        }
        arrive(ahead, true, first_query, first_query == 0, first_key);
        float s[kKeyTiles][4], d[kKeyTiles][4];
        if (has_queries) {
          uint32_t bits = 0;
          logits_and_grads(s, d, bits, first_query, first_key);
          softmax_gradient(s, d, bits);
          if (p.grad_bias) add_to_bias(d, first_query, first_key, first_window);
          put_rows<kMode, kKeyTiles, kWeightStride>(shared.weights + warp_row * kWeightStride, s, 1.f, 1.f);
          if (p.grad_logit_scale) add_to_scale(s, d, first_key);
          if (kOneChunk) {
            Dot::weights_by_rows(grad_query, d, shared.key, p.tokens - first_key);
          } else {
            float part[kTiles][4] = {};
            Dot::weights_by_rows(part, d, shared.key, p.tokens - first_key);
            add_to_grad_query(part, first_key == 0);
          }
        }
        // A tile is free for its own gradients once a barrier follows its last use; a warp's rows are its own.
        const bool last = kOneChunk || first_query + kChunk >= p.tokens;
        __syncthreads();
        if (has_keys) {
          Dot::columns_by_rows(grad_value, shared.weights + warp_row, shared.grad, p.tokens - first_query);
          if (last) finish_rows(grad_value, shared.value, 2, first_key, 1.f);
        }
        __syncthreads();
        if (has_queries) {
          put_rows<kMode, kKeyTiles, kWeightStride>(shared.weights + warp_row * kWeightStride, d, 1.f, 1.f);
          if (kOneChunk) finish_rows(grad_query, shared.grad, 0, 0, scale);
        }
        __syncthreads();
        if (has_keys) {
          Dot::columns_by_rows(grad_key, shared.weights + warp_row, shared.query, p.tokens - first_query);
          if (last) finish_rows(grad_key, shared.key, 1, first_key, scale);
        }
        if (kOneChunk) return;
      }
    }
    __syncthreads();
    for (int first_query = 0; first_query + warp_row < p.tokens; first_query += kChunk) {
      read_grad_query(grad_query, first_query);
      finish_rows(grad_query, shared.grad, 0, first_query, scale);
    }
  }

  __device__ __forceinline__ void read_grad_query(float (&rows)[kTiles][4], int first_query) const {
    const float* at = shared.grad_query + (first_query + warp_row + lane_row) * kSumStride + lane_column;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[n][i] = at[i / 2 * 8 * kSumStride + n * 8 + i % 2];
  }

  // The warp's rows of dQ (part 0), dK or dV before their factor -> memory, through its rows of `tile`.
  __device__ __forceinline__ void finish_rows(float (&rows)[kTiles][4], Storage* tile, int part, int first,
                                              float factor) {
    const int row = first + warp_row + lane_row;
    if (p.logit_scale && part < 2) {
      const float* norm = part == 0 ? shared.norm_query : shared.norm_key;
      through_norm<0>(rows, part, row, norm[row]);
      through_norm<2>(rows, part, row + 8, norm[row + 8]);
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[n][i] *= factor;
    if (p.grad_pad && reads_pad(p) && part > 0 && window.irregular) add_to_pad(rows, part - 1, row);
    if (!p.grad_qkv) return;
    tile += warp_row * kStride;
    __syncwarp();
    put_rows<kMode, kTiles, kStride>(tile, rows, 1.f, 1.f);
    __syncwarp();
    store_rows<Storage, kHeadDim, kStride>(
        p.grad_qkv, tile, shared.tokens.position + first + warp_row, int64_t(window.batch) * map_size(p.geometry),
        3 * int64_t(p.heads) * p.head_dim, column(part), p.head_dim, schedule.out_bytes);
    __syncwarp();
  }

  // Gradient of x / |x| -> gradient of x, for one of the lane's two rows of q or k.
  template <int kAt>
  __device__ __forceinline__ void through_norm(float (&rows)[kTiles][4], int part, int token, float norm) {
    const Storage* x = static_cast<const Storage*>(shared.tokens.source[token]);
    const bool there = x;
    x += column(part) + lane_column;
    float inner = 0.f, unit[kTiles][2];
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        unit[n][i] = there && n * 8 + lane_column < p.head_dim ? Numbers::to_float(x[n * 8 + i]) * norm : 0.f;
        inner = fmaf(unit[n][i], rows[n][kAt + i], inner);
      }
    inner = sum_over_row(inner);
    if (norm >= 0.5f / kNormEps) inner = 0.f;  // the length was below eps, and the divisor a constant
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) rows[n][kAt + i] = (rows[n][kAt + i] - unit[n][i] * inner) * norm;
  }

  // Rows outside the map read pad_qkv: their gradients go there.
  __device__ __forceinline__ void add_to_pad(const float (&rows)[kTiles][4], int part, int token) const {
    const bool low = token < p.tokens && shared.tokens.position[token] < 0;
    const bool high = token + 8 < p.tokens && shared.tokens.position[token + 8] < 0;
    float* sum = shared.pad_sum + (int(threadIdx.x) / 32 * 2 + part) * kHeadDim + lane_column;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float total = (low ? rows[n][i] : 0.f) + (high ? rows[n][2 + i] : 0.f);
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) total += __shfl_xor_sync(0xffffffffu, total, apart);
        if (lane_row == 0) sum[n * 8 + i] += total;
      }
  }

  // dS of a window of one chunk -> the sums over the pairs that read a row of the standard bias table.
  __device__ __forceinline__ void fold_bias() const {
    constexpr int kDenseStride = kChunk + 2;
    // over the first stage and the weights, which are not needed any more
    float* dense = reinterpret_cast<float*>(ptx::shared_memory());
    static_assert(kChunk * kDenseStride * sizeof(float) <= kChunk * (4 * kStride + kWeightStride) * sizeof(Storage),
                  "fits into the tiles");
    if (warp_row < p.tokens) {
      float* at = dense + (warp_row + lane_row) * kDenseStride + lane_column;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) at[i / 2 * 8 * kDenseStride + n * 8 + i % 2] = bias_sum[n][i];
    }
    __syncthreads();
    const int z_size = int(p.geometry.window[0]), y_size = int(p.geometry.window[1]),
              x_size = int(p.geometry.window[2]);
    for (int row = int(threadIdx.x); row < p.bias_rows; row += kBackwardThreads) {
      const int dx = row % (2 * x_size - 1) - (x_size - 1), rest = row / (2 * x_size - 1);
      const int dy = rest % (2 * y_size - 1) - (y_size - 1), dz = rest / (2 * y_size - 1) - (z_size - 1);
      const int back = (dz * y_size + dy) * x_size + dx;  // from the query to the key
      float sum = 0.f;
      for (int z = max(dz, 0); z < min(z_size, z_size + dz); ++z)
        for (int y = max(dy, 0); y < min(y_size, y_size + dy); ++y)
          for (int x = max(dx, 0); x < min(x_size, x_size + dx); ++x) {
            const int query = (z * y_size + y) * x_size + x;
            sum += dense[query * kDenseStride + query - back];
          }
      sums[partial_sums(p).bias + row] = sum;
    }
  }

  // The block's sums -> its slice of the workspace.
  __device__ __forceinline__ void finish() {
    const PartialSums at = partial_sums(p);
    if (kOneChunk && p.grad_bias) {
      if (folds_bias(p))
        fold_bias();
      else if (warp_row < p.tokens)
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n)
          if (n * 8 < p.tokens)
            dense_sums(0, 0)[n * kBackwardThreads] =
                make_float4(bias_sum[n][0], bias_sum[n][1], bias_sum[n][2], bias_sum[n][3]);
    }
    for (int apart = 1; apart < 32; apart *= 2) scale_sum += __shfl_xor_sync(0xffffffffu, scale_sum, apart);
    if (threadIdx.x % 32 == 0) shared.scale_sum[threadIdx.x / 32] = scale_sum;
    __syncthreads();
    if (p.grad_logit_scale && threadIdx.x == 0) {
      float total = 0.f;
      for (int w = 0; w < kBackwardThreads / 32; ++w) total += shared.scale_sum[w];
      sums[at.scale] = total;
    }
    for (int i = int(threadIdx.x); p.grad_pad && i < 2 * kHeadDim; i += kBackwardThreads) {
      float total = 0.f;
      for (int w = 0; reads_pad(p) && w < kBackwardThreads / 32; ++w) total += shared.pad_sum[w * 2 * kHeadDim + i];
      sums[at.pad + i / kHeadDim * kMaxHeadDim + i % kHeadDim] = total;
    }
  }
};

template <Mode kMode, int kHeadDim, bool kOneChunk>
__global__ void __launch_bounds__(kBackwardThreads, backward_blocks(kHeadDim))
    window_attention_backward(const __grid_constant__ CudaParams p, const __grid_constant__ Schedule schedule) {
  const int64_t begin = blockIdx.x / unsigned(p.heads) * schedule.windows_per_block;
  const int64_t left = p.batch * p.windows - begin;
  const int count = int(left < schedule.windows_per_block ? left : schedule.windows_per_block);
  const int stages = kOneChunk ? schedule.stages : 1;
  Backward<kMode, kHeadDim, kOneChunk> backward(p, schedule, int(blockIdx.x % unsigned(p.heads)), begin);
  Window& window = backward.window;
  unsigned irregular = 0;  // a bit for each stage
  for (int i = 0; i < count; ++i, window.advance(p)) {
    // this window, unless it has been started, and the one after it where there is room for both
    Window next = window;
    int started = i;
    if (i > 0 && stages > 1) next.advance(p), ++started;
    for (; started < count && started < i + stages; ++started, next.advance(p)) {
      const int at = started & (stages - 1);
      backward.start(next, at);
      irregular = (irregular & ~(1u << at)) | unsigned(next.irregular) << at;
    }
    const int at = i & (stages - 1);
    window.irregular = irregular >> at & 1;
    backward.run(at, started > i + 1, i == 0);
    __syncthreads();  // tokens and tiles have been read
  }
  backward.finish();
}

}  // namespace swin_fast
