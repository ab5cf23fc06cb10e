// What the forward and the backward share: one window's tokens, its mask, the bias of a head, the scores.
#pragma once

#include "../common/geometry.h"
#include "lone_query.h"

namespace swin_fast {
namespace SWIN_FAST_ISA {

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// The queries of a window in blocks of at most kBlock, as equal as whole vectors allow.
template <class A>
struct Blocks {
  int64_t count, size;
  explicit Blocks(int64_t tokens) {
    count = ceil_div(tokens, kBlock);
    size = count == 1 ? tokens : ceil_div(ceil_div(tokens, count), kLanes<A>) * kLanes<A>;
    count = ceil_div(tokens, size);
  }
  int64_t length(int64_t block, int64_t tokens) const {
    const int64_t left = tokens - block * size;
    return left < size ? left : size;
  }
};

inline int64_t padded_head_dim(int64_t head_dim) { return ceil_div(head_dim, 16) * 16; }

// The table row of query i and key j: the given index, or the standard one, whose entries are code[i] - code[j] +
// centre.
struct BiasRows {
  const int64_t* index;
  int64_t tokens, rows, centre;
  int64_t width[3], window[3];

  explicit BiasRows(const WindowAttentionParams& p) : index(p.bias_index), tokens(p.tokens), rows(p.bias_rows) {
    for (int a = 0; a < 3; ++a) window[a] = p.geometry.window[a], width[a] = 2 * window[a] - 1;
    centre = ((window[0] - 1) * width[1] + window[1] - 1) * width[2] + window[2] - 1;
  }
  int64_t code(int64_t t) const {
    const int64_t x = t % window[2], y = t / window[2] % window[1], z = t / (window[1] * window[2]);
    return (z * width[1] + y) * width[2] + x;
  }
  // Calls f(query, row) for each query of [first, first + n) and key j.
  template <class F>
  SF_INLINE void for_queries(int64_t j, int64_t first, int64_t n, const int32_t* codes, F&& f) const {
    if (index) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t r = index[(first + i) * tokens + j];
        f(i, r < 0 ? r + rows : r);
      }
    } else {
      const int64_t base = centre - codes[j];
      for (int64_t i = 0; i < n; ++i) f(i, base + codes[first + i]);
    }
  }
};

// dst (keys, kBlock) of one head and one block of queries; lanes past the block are zero as far as they are read.
template <class A>
void expand_bias(A* dst, const A* table, const BiasRows& rows, const int32_t* codes, int64_t first, int64_t n) {
  const int64_t reach = covered_lanes<A>(n);
  for (int64_t j = 0; j < rows.tokens; ++j) {
    A* row = dst + j * kBlock;
    rows.for_queries(j, first, n, codes, [&](int64_t i, int64_t r) { row[i] = table[r]; });
    for (int64_t i = n; i < reach; ++i) row[i] = 0;
  }
}

// Rows of the map in the type of the arithmetic, padded with zeros; empty where the map's own rows serve.
template <class A>
struct Packed {
  A* data = nullptr;
  const A** row = nullptr;
  A* inverse_norm = nullptr;  // cosine attention

  Packed(Arena& arena, int64_t tokens, int64_t padded, bool in_place, bool cosine) {
    if (in_place) return;
    data = arena.take<A>(tokens * padded);
    row = arena.take<const A*>(tokens);
    inverse_norm = arena.take<A>(cosine ? tokens : 0);
    if (arena.base)
      for (int64_t t = 0; t < tokens; ++t) row[t] = data + t * padded;
  }
};

// One window at a time: where its tokens lie and what is added to its scores beside the bias.
template <class T, class A>
struct Window {
  const WindowAttentionParams& p;
  Blocks<A> blocks;
  int64_t head_dim, channels, map_size;
  bool can_mask;
  struct Tokens {
    int64_t window = -1, image = 0;
    WindowKind kind = {false, false};
    int64_t* position;  // on the map, -1 for padding
    const T** row;      // the token's q, k, v; padding has rows, too
    const T** grad;     // in the backward, the gradient of the token's output; zeros for padding, which is cropped
    int32_t* region;
  } now, next;
  int32_t* codes;
  T* zeros;       // a row of padding that is masked out
  A* mask_store;  // (blocks, keys, kBlock), times score_unit
  const A* mask = nullptr;

  Window(const WindowAttentionParams& params, Arena& arena)
      : p(params), blocks(p.tokens), head_dim(p.head_dim), channels(p.heads * p.head_dim) {
    const Geometry& g = p.geometry;
    map_size = g.grid[0] * g.grid[1] * g.grid[2];
    can_mask = g.shifted || p.mask || (g.padded && !p.pad_qkv);
    Tokens* both[] = {&now, &next};
    for (Tokens* tokens : both) {
      tokens->position = arena.take<int64_t>(p.tokens);
      tokens->row = arena.take<const T*>(p.tokens);
      tokens->grad = arena.take<const T*>(p.grad_out ? p.tokens : 0);
      tokens->region = arena.take<int32_t>(p.tokens);
    }
    codes = arena.take<int32_t>(p.tokens);
    zeros = arena.take<T>(3 * channels);
    mask_store = arena.take<A>(can_mask ? blocks.count * p.tokens * kBlock : 0);
    if (!arena.base) return;
    memset(zeros, 0, sizeof(T) * 3 * channels);
    const BiasRows rows(p);
    for (int64_t t = 0; t < p.tokens; ++t) codes[t] = int32_t(rows.code(t));
  }

  void locate(Tokens& tokens, int64_t window) const {
    tokens.window = window;
    tokens.image = window / p.windows;
    tokens.kind = window_tokens(p.geometry, window % p.windows, tokens.position, tokens.region);
    const T* padding = p.pad_qkv ? static_cast<const T*>(p.pad_qkv) : zeros;
    for (int64_t t = 0; t < p.tokens; ++t) {
      const int64_t at = tokens.position[t];
      tokens.row[t] = at < 0 ? padding : static_cast<const T*>(p.qkv) + offset(p.qkv_stride, tokens.image, at);
      if (!p.grad_out) continue;
      tokens.grad[t] = at < 0 ? zeros : static_cast<const T*>(p.grad_out) + offset(p.grad_out_stride, tokens.image, at);
    }
  }

  void move_to(int64_t window) {
    if (window == now.window) return;
    if (window != next.window) locate(next, window);
    const Tokens before = now;
    now = next, next = before;
    mask = nullptr;
    if ((now.kind.seam && p.mask_value != 0) || p.mask || (now.kind.pad && !p.pad_qkv)) fill_mask();
  }

  const Tokens& tokens_of(int64_t window) {
    if (window == now.window) return now;
    if (window != next.window) locate(next, window);
    return next;
  }

  int64_t offset(const int64_t* stride, int64_t image, int64_t at) const {
    const int64_t* grid = p.geometry.grid;
    // a map without gaps needs no divisions, which every token of every window would pay for; an axis of one may have
    // any stride
    const bool rows = grid[1] == 1 || stride[2] == grid[2] * stride[3];
    if (rows && (grid[0] == 1 || stride[1] == grid[1] * stride[2])) return image * stride[0] + at * stride[3];
    const int64_t x = at % grid[2], y = at / grid[2] % grid[1], z = at / (grid[1] * grid[2]);
    return image * stride[0] + z * stride[1] + y * stride[2] + x * stride[3];
  }

  void fill_mask() {
    const A unit = A(p.score_unit), seam = A(p.mask_value) * unit, none = -A(__builtin_inf());
    const A* given =
        p.mask ? static_cast<const A*>(p.mask) + now.window % p.mask_windows * p.tokens * p.tokens : nullptr;
    for (int64_t block = 0; block < blocks.count; ++block) {
      const int64_t first = block * blocks.size, n = blocks.length(block, p.tokens);
      for (int64_t j = 0; j < p.tokens; ++j) {
        A* row = mask_store + (block * p.tokens + j) * kBlock;
        const A key = now.kind.pad && !p.pad_qkv && now.position[j] < 0 ? none : A(0);
        for (int64_t i = 0; i < n; ++i) row[i] = now.region[first + i] != now.region[j] ? seam + key : key;
        if (given)
          for (int64_t i = 0; i < n; ++i) row[i] += given[(first + i) * p.tokens + j] * unit;
        for (int64_t i = n; i < covered_lanes<A>(n); ++i) row[i] = 0;
      }
    }
    mask = mask_store;
  }

  // Token t's q (part 0), k (1) or v (2) of a head.
  const T* row(int64_t t, int64_t part, int64_t head) const { return now.row[t] + part * channels + head * head_dim; }

  // Rows of the map can be multiplied where they lie if they hold the type of the arithmetic and whole vectors.
  bool in_place() const { return sizeof(T) == sizeof(A) && !p.logit_scale && covered_lanes<A>(head_dim) == head_dim; }

  Rows<A> rows_of(Packed<A>& packed, const T* const* rows, int64_t skip) const {
    if constexpr (sizeof(T) == sizeof(A)) {
      if (in_place()) return {rows, ptrdiff_t(skip)};
    }
    const int64_t padded = padded_head_dim(head_dim);
    if (head_dim == 32)  // the field's usual one, unrolled
      for (int64_t t = 0; t < p.tokens; ++t) widen_row(packed.data + t * 32, rows[t] + skip, 32, 32);
    else
      for (int64_t t = 0; t < p.tokens; ++t) widen_row(packed.data + t * padded, rows[t] + skip, head_dim, padded);
    return {packed.row, 0};
  }

  // One part of a head, q (0), k (1) or v (2), as rows of A.
  Rows<A> part(Packed<A>& packed, int64_t part, int64_t head) const {
    return rows_of(packed, now.row, part * channels + head * head_dim);
  }

  // In cosine attention, the same divided by the L2 norm; 1 / norm is kept.
  Rows<A> unit_part(Packed<A>& packed, int64_t part_number, int64_t head) const {
    const Rows<A> rows = part(packed, part_number, head);
    if (!p.logit_scale) return rows;
    const int64_t padded = padded_head_dim(head_dim);
    for (int64_t t = 0; t < p.tokens; ++t) {
      A* x = packed.data + t * padded;
      const A norm = A(__builtin_sqrt(dot_rows(x, x, padded))), inverse = 1 / (norm > A(1e-12) ? norm : A(1e-12));
      packed.inverse_norm[t] = norm > A(1e-12) ? inverse : -inverse;  // negative: clamped, so the norm is a constant
      for (int64_t i = 0; i < padded; ++i) x[i] *= inverse;
    }
    return rows;
  }

  A score_scale(int64_t head) const { return p.logit_scale ? static_cast<const A*>(p.logit_scale)[head] : A(p.scale); }

  // What is added to the products of a block: the bias of a head, expanded into `store` if need be, and the mask.
  Added<A> added_to_scores(int64_t head, int64_t block, A* store) const {
    return {bias_of(head, block, store), mask ? mask + block * p.tokens * kBlock : nullptr};
  }

  // The bias of a head for a block: prepared ahead, or expanded into `store`; null without a bias.
  const A* bias_of(int64_t head, int64_t block, A* store) const {
    if (!p.bias) return nullptr;
    if (p.bias_dense) return static_cast<const A*>(p.bias_dense) + (head * blocks.count + block) * p.tokens * kBlock;
    expand_bias(store, static_cast<const A*>(p.bias) + head * p.bias_rows, BiasRows(p), codes, block * blocks.size,
                blocks.length(block, p.tokens));
    return store;
  }
};

// Asks the second-level cache for what the next (window, head) will read, a few tokens at a time between the tiles of
// this one's products: a window's rows lie far apart, and without this the processor waits for memory longer than it
// computes. In one burst the requests would fill the miss queue and hold up the loads behind them; the first-level
// cache is too small to keep the lines until they are used.
template <class T, class A>
struct RowPrefetch {
  const T *const *row = nullptr, *const *grad = nullptr;
  int64_t skip = 0, part_stride = 0, bytes = 0, token = 0, tokens = 0, per_step = 0;

  RowPrefetch(Window<T, A>& window, int64_t next_window, int64_t head, int64_t steps) {
    const WindowAttentionParams& p = window.p;
    if (next_window >= p.batch * p.windows) return;
    row = window.tokens_of(next_window).row;
    grad = p.grad_out ? window.tokens_of(next_window).grad : nullptr;
    skip = head * window.head_dim, part_stride = window.channels, bytes = window.head_dim * int64_t(sizeof(T));
    tokens = p.tokens, per_step = ceil_div(tokens, steps);
  }
  SF_INLINE void step() {
    for (const int64_t stop = token + per_step < tokens ? token + per_step : tokens; token < stop; ++token) {
      const char* at = reinterpret_cast<const char*>(row[token] + skip);
      for (int part = 0; part < 3; ++part, at += part_stride * int64_t(sizeof(T)))
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
      if (grad)
        for (int64_t i = 0; i < bytes; i += 64)
          __builtin_prefetch(reinterpret_cast<const char*>(grad[token] + skip) + i, 0, 2);
    }
  }
};

// scores (keys, kBlock) = rows (keys, depth) * columns (depth, kBlock) + what is added, for n columns.
template <class A, class Prefetch>
SF_INLINE void key_query_product(A* scores, Rows<A> rows, const A* columns, int64_t keys, int64_t depth, int64_t n,
                                 Added<A> added, Prefetch& prefetch) {
  for_column_groups<A>(n, [&](int64_t at, auto group) {
    using M = FusedMultiplyAdd<A, decltype(group)::W>;
    const Target<A> t = {scores + at, kBlock, {added.from(at).bias, added.from(at).mask}};
    multiply<M, decltype(group)::NV>(keys, depth, rows, Strided<A>{columns + at, kBlock, 1}, t, prefetch);
  });
}

// lone (keys) = rows (keys, depth) * the first row of `query`, times `factor`, + what is added.
template <class A>
SF_INLINE void lone_product(A* lone, Rows<A> rows, Rows<A> query, A factor, int64_t keys, int64_t depth,
                            Added<A> added) {
  A scaled[256];  // the largest head_dim
  for (int64_t c = 0; c < depth; ++c) scaled[c] = query.row[0][query.skip + c] * factor;
  lone_scores<FusedMultiplyAdd<A, kLanes<A>>>(keys, depth, rows, scaled, lone, added);
}

// c (rows, padded) = [c +] weights (rows, depth) * b (depth, head_dim).
template <class A, class Prefetch>
SF_INLINE void weighted_rows(A* c, int64_t padded, int64_t rows, Strided<A> weights, Rows<A> b, int64_t depth,
                             int64_t head_dim, bool accumulate, Prefetch& prefetch) {
  for_column_groups<A>(head_dim, [&](int64_t at, auto group) {
    using M = FusedMultiplyAdd<A, decltype(group)::W>;
    const Target<A> t = {c + at, padded, {accumulate ? c + at : nullptr, nullptr}};
    multiply<M, decltype(group)::NV>(rows, depth, weights, b.from(0, at), t, prefetch);
  });
}

// Sums over keys are made of runs this long: padded keys are all alike, and adding one number over and over rounds the
// same way every time.
constexpr int64_t kRun = 16;

// Columns of scores (log2 domain) -> exp2(score - max) in place, with each column's max and sum.
template <class A, int W, int NV>
SF_INLINE void softmax_columns(A* scores, int64_t keys, Vec<A, W>* max, Vec<A, W>* sum) {
  using V = Vec<A, W>;
  V top[NV], total[NV];
  for (int v = 0; v < NV; ++v) top[v] = splat<V>(A(kLowestScore)), total[v] = V{};
  for (int64_t j = 0; j < keys; ++j)
    for (int v = 0; v < NV; ++v) top[v] = maximum(load<V>(scores + j * kBlock + v * W), top[v]);
  for (int64_t j = 0; j < keys;) {
    V part[NV] = {};
    for (const int64_t stop = j + kRun < keys ? j + kRun : keys; j < stop; ++j)
      for (int v = 0; v < NV; ++v) {
        const V e = exp2_of<A, W>(load<V>(scores + j * kBlock + v * W) - top[v]);
        part[v] += e;
        store(scores + j * kBlock + v * W, e);
      }
    for (int v = 0; v < NV; ++v) total[v] += part[v];
  }
  for (int v = 0; v < NV; ++v) max[v] = top[v], sum[v] = total[v];
}

// Results larger than this are written past the caches: they would push out what is still to be read, and reading a
// line only to overwrite it costs as much as writing it. The next layer finds a smaller one where it was left.
constexpr int64_t kStreamBytes = 2 << 20;

template <class T, class A>
bool can_stream(const WindowAttentionParams& p, const void* dst, int64_t parts) {
#if defined(__AVX512F__)
  const int64_t row = parts * p.heads * p.head_dim * int64_t(sizeof(T));
  const int64_t map = p.geometry.grid[0] * p.geometry.grid[1] * p.geometry.grid[2];
  return sizeof(A) == 4 && sizeof(T) * p.head_dim % 64 == 0 && row % 64 == 0 && uintptr_t(dst) % 64 == 0 &&
         p.batch * map * row >= kStreamBytes;
#else
  (void)p, (void)dst, (void)parts;
  return false;
#endif
}

template <class T, class A>
SF_INLINE void write_row(T* dst, const A* src, int64_t n, A factor, bool stream) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    if (stream) {
      alignas(64) T line[64 / sizeof(T)];
      for (int64_t i = 0; i < n; i += 64 / sizeof(T)) {
        narrow_row(line, src + i, 64 / sizeof(T), factor);
        _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i), _mm512_load_si512(line));
      }
      return;
    }
  }
#endif
  (void)stream;
  if (n == 32)  // the field's usual one, unrolled
    narrow_row(dst, src, 32, factor);
  else
    narrow_row(dst, src, n, factor);
}

template <class A>
void prepare_bias_heads(const WindowAttentionParams& p, int64_t begin, int64_t end, A* dense) {
  const Blocks<A> blocks(p.tokens);
  const BiasRows rows(p);
  int32_t codes[1024];  // a window holds at most 1024 tokens
  for (int64_t t = 0; t < p.tokens; ++t) codes[t] = int32_t(rows.code(t));
  for (int64_t head = begin; head < end; ++head)
    for (int64_t block = 0; block < blocks.count; ++block)
      expand_bias(dense + (head * blocks.count + block) * p.tokens * kBlock,
                  static_cast<const A*>(p.bias) + head * p.bias_rows, rows, codes, block * blocks.size,
                  blocks.length(block, p.tokens));
}

}  // namespace SWIN_FAST_ISA
}  // namespace swin_fast
