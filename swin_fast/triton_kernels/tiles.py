"""What the kernels share: where a window's tokens lie, what is added to their scores, dropout, rows of the map.

Names: p_ pointer, b_ block, o_ offsets, m_ mask, i_ program or loop index. A shape stands above each load and product;
M queries, N keys, D channels of a head. Scores and all that is added to them are in units of log2, for exp2.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4e38)
# The interpreter (TRITON_INTERPRET=1) multiplies bfloat16 by its bits and cuts off when it rounds to it; `dot` and
# `cast` do both right there. The branches are gone from compiled kernels.
INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def cast(x, dtype: tl.constexpr):
    """float32 to `dtype`, to the nearest."""
    if INTERPRETED:
        if dtype == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            bits += 0x7FFF + ((bits >> 16) & 1)
            x = (bits & -0x10000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a @ b, summed in float32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=tl.float32)


@triton.jit
def locate_window(i_window, grid, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr):
    """Image of a window, its first token on each axis of the rolled map, and on which axes it is the last (bits)."""
    n_0, n_1, n_2 = tl.cdiv(grid[0], W0), tl.cdiv(grid[1], W1), tl.cdiv(grid[2], W2)
    i_image, i_window = i_window // (n_0 * n_1 * n_2), i_window % (n_0 * n_1 * n_2)
    w_0, w_1, w_2 = i_window // (n_1 * n_2), i_window // n_2 % n_1, i_window % n_2
    last = (w_0 == n_0 - 1).to(tl.int32) * 4 + (w_1 == n_1 - 1).to(tl.int32) * 2 + (w_2 == n_2 - 1).to(tl.int32)
    return i_image, (w_0 * W0, w_1 * W1, w_2 * W2), last


@triton.jit
def axis_token(o_rolled, size, shift, W: tl.constexpr, ROLL_THEN_PAD: tl.constexpr):
    """Tokens of the rolled map along one axis: their position on the map, and whether they are on it."""
    ring = size if ROLL_THEN_PAD else tl.cdiv(size, W) * W
    at = o_rolled + shift % ring
    at = tl.where(at >= ring, at - ring, at)
    return at, (o_rolled < ring) & (at < size)


@triton.jit
def window_tokens(
    o_t, first, grid, shift, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ROLL_THEN_PAD: tl.constexpr,
    LARGE: tl.constexpr,
):  # fmt: skip
    """Tokens o_t of a window: their place on the map by axis, and whether they are on it; none is past the last."""
    if W0 > 1:
        t_0 = o_t // (W1 * W2)
    else:
        t_0 = o_t * 0
    at_0, in_0 = axis_token(first[0] + t_0, grid[0], shift[0], W0, ROLL_THEN_PAD)
    at_1, in_1 = axis_token(first[1] + o_t // W2 % W1, grid[1], shift[1], W1, ROLL_THEN_PAD)
    at_2, in_2 = axis_token(first[2] + o_t % W2, grid[2], shift[2], W2, ROLL_THEN_PAD)
    if LARGE:
        at_0, at_1, at_2 = at_0.to(tl.int64), at_1.to(tl.int64), at_2.to(tl.int64)
    return (at_0, at_1, at_2), in_0 & in_1 & in_2 & (o_t < W0 * W1 * W2)


@triton.jit
def row_offsets(at, stride, ALIGN: tl.constexpr):
    return tl.multiple_of(at[0] * stride[0] + at[1] * stride[1] + at[2] * stride[2], ALIGN)


@triton.jit
def map_positions(at, grid):
    """Row-major number of a token on the map."""
    return (at[0] * grid[1] + at[1]) * grid[2] + at[2]


@triton.jit
def crossings(o_t, shift, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr):
    """On which axes (bits) the roll brings a token from the other side, if its window is the last there.

    The seam is where the libraries draw it: timm, which rolls before it pads, measures it on the padded map, too.
    """
    c_0 = (o_t // (W1 * W2) >= W0 - shift[0]).to(tl.int32)
    c_1 = (o_t // W2 % W1 >= W1 - shift[1]).to(tl.int32)
    return c_0 * 4 + c_1 * 2 + (o_t % W2 >= W2 - shift[2]).to(tl.int32)


@triton.jit
def key_tokens(o_n, TOKENS: tl.constexpr, DROPOUT: tl.constexpr):
    """The token of key column o_n, TOKENS where there is none.

    With dropout the four words of one Philox call, which belong to keys a quarter of the window apart, are neighbours.
    """
    if DROPOUT:
        QUARTER: tl.constexpr = (TOKENS + 3) // 4
        o_n = tl.where(o_n < 4 * QUARTER, o_n % 4 * QUARTER + o_n // 4, TOKENS)
    return o_n


@triton.jit
def relative_code(o_t, W1: tl.constexpr, W2: tl.constexpr):
    """A token's part of a relative position: the table row of (i, j) is code(i) - code(j) + the row of (0, 0)."""
    return (o_t // (W1 * W2) * (2 * W1 - 1) + o_t // W2 % W1) * (2 * W2 - 1) + o_t % W2


@triton.jit
def bias_tile(
    p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr,
):  # fmt: skip
    """[M, N] bias of query tokens o_i and key tokens o_j; -inf for keys that the window does not have."""
    TOKENS: tl.constexpr = W0 * W1 * W2
    b_bias = tl.zeros([1, o_j.shape[0]], dtype=tl.float32)
    if p_table is not None:
        m_ij = (o_i < TOKENS)[:, None] & (o_j < TOKENS)[None, :]
        if p_index is not None:
            # [M, N]
            row = tl.load(p_index + o_i[:, None] * TOKENS + o_j[None, :], mask=m_ij, other=0).to(tl.int32)
            row = tl.where(row < 0, row + table_rows, row)
        else:
            CENTRE: tl.constexpr = ((W0 - 1) * (2 * W1 - 1) + W1 - 1) * (2 * W2 - 1) + W2 - 1
            row = relative_code(o_i, W1, W2)[:, None] - relative_code(o_j, W1, W2)[None, :] + CENTRE
        # [M, N]
        b_bias = tl.load(p_table + row * table_stride + i_head * table_head_stride, mask=m_ij, other=0.0)
        b_bias = b_bias.to(tl.float32) * LOG2E
    return tl.where((o_j < TOKENS)[None, :], b_bias, float("-inf"))


@triton.jit
def scores(
    b_q, b_k, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
    p_mask, mask_windows, mask_stride, TOKENS: tl.constexpr, SHIFTED: tl.constexpr, MASK_PADDING: tl.constexpr,
    LARGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[M, N] scores with bias, shift mask and explicit mask; without padded keys where padding is not attended."""
    # [M, D] @ [D, N]
    b_s = dot(b_q, tl.trans(b_k), PRECISION) * score_scale + b_bias
    if SHIFTED:
        if last != 0:  # the seam is in the last window of an axis
            b_s = tl.where(((crossed_i[:, None] ^ crossed_j[None, :]) & last) != 0, b_s + seam_value, b_s)
    if p_mask is not None:
        m_ij = (o_i < TOKENS)[:, None] & (o_j < TOKENS)[None, :]
        if LARGE:
            o_i, o_j = o_i.to(tl.int64), o_j.to(tl.int64)
        p_mask += (i_window % mask_windows).to(tl.int64) * mask_stride[0]
        # [M, N]
        b_mask = tl.load(p_mask + o_i[:, None] * mask_stride[1] + o_j[None, :] * mask_stride[2], mask=m_ij, other=0.0)
        b_mask = b_mask.to(tl.float32)
        # the lowest float32, a usual stand-in for -inf, must not become -inf: a row full of it is a uniform softmax
        b_s += tl.where(b_mask == float("-inf"), b_mask, tl.maximum(b_mask * LOG2E, LOWEST))
    if MASK_PADDING:
        b_s = tl.where(m_j[None, :], b_s, float("-inf"))
    return b_s


@triton.jit
def finite_max(b_max):
    """0 for a row without a key, whose scores are all -inf, so that exp2(score - max) is 0 there and not NaN."""
    return tl.where(b_max == float("-inf"), 0.0, b_max)


@triton.jit
def dropout_keep(p_seed, i_item, o_i, start_n, threshold, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """[M, N] bool: the weights that dropout keeps, for key columns as `key_tokens` numbers them.

    Philox-4x32-10 (Salmon et al. 2011) at counter (column / 4, query, item); kept where word - 2**31 >= threshold.
    """
    zeros = tl.zeros([BLOCK_M, BLOCK_N // 4], dtype=tl.int32)
    o_c = zeros + (start_n // 4 + tl.arange(0, BLOCK_N // 4))[None, :]
    low, high = (i_item & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True), (i_item >> 32).to(tl.int32)
    w_0, w_1, w_2, w_3 = tl.philox(tl.load(p_seed), o_c, zeros + o_i[:, None], zeros + low, zeros + high)
    # [M, N / 4, 2, 2], the words of a call side by side
    words = tl.join(
        tl.join(kept(w_0, threshold), kept(w_2, threshold)), tl.join(kept(w_1, threshold), kept(w_3, threshold))
    )
    return words.reshape(BLOCK_M, BLOCK_N) != 0


@triton.jit
def kept(word, threshold):
    return ((word.to(tl.int32, bitcast=True) ^ -0x80000000) >= threshold).to(tl.int8)


@triton.jit
def load_pad(p_pad, part: tl.constexpr, i_head, heads, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[D] of pad_qkv: q (0), k (1) or v (2) of a head."""
    b_pad = None
    if p_pad is not None:
        o_d = tl.arange(0, BLOCK_D)
        b_pad = tl.load(p_pad + (part * heads + i_head) * D + o_d, mask=o_d < D, other=0.0)
    return b_pad


@triton.jit
def load_score_scale(p_logit_scale, i_head, scale):
    if p_logit_scale is not None:
        scale *= tl.load(p_logit_scale + i_head).to(tl.float32)
    return scale


@triton.jit
def load_rows(p_rows, o_rows, m_rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, D] of the map, zeros where m_rows is not set and past D."""
    o_d = tl.arange(0, BLOCK_D)
    m = m_rows[:, None]
    if BLOCK_D != D:
        m &= (o_d < D)[None, :]
    return tl.load(p_rows + o_rows[:, None] + o_d[None, :], mask=m, other=0.0)


@triton.jit
def load_part(p_part, o_rows, m_rows, o_t, b_pad, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, D] of q, k or v of tokens o_t; b_pad, where there is one, for tokens outside the map."""
    b_x = load_rows(p_part, o_rows, m_rows, D, BLOCK_D)
    if b_pad is not None:
        b_x = tl.where((~m_rows & (o_t < TOKENS))[:, None], b_pad[None, :], b_x)
    return b_x


@triton.jit
def unit(b_x, dtype: tl.constexpr, UNIT: tl.constexpr):
    """[rows, D] as scores take them: at length one in cosine attention."""
    if UNIT:
        b_x = cast(unit_rows(b_x)[0], dtype)
    return b_x


@triton.jit
def store_rows(p_rows, o_rows, m_rows, b_x, D: tl.constexpr, BLOCK_D: tl.constexpr):
    o_d = tl.arange(0, BLOCK_D)
    m = m_rows[:, None]
    if BLOCK_D != D:
        m &= (o_d < D)[None, :]
    tl.store(p_rows + o_rows[:, None] + o_d[None, :], cast(b_x, p_rows.dtype.element_ty), mask=m)


@triton.jit
def unit_rows(b_x):
    """[rows, D] -> the rows at length one, and 1 / norm; the norm is in float32 and at least 1e-12."""
    b_x = b_x.to(tl.float32)
    b_inverse = 1.0 / tl.maximum(tl.sqrt_rn(tl.sum(b_x * b_x, 1)), 1e-12)
    return b_x * b_inverse[:, None], b_inverse


@triton.jit
def unit_rows_gradient(b_grad, b_x):
    """[rows, D] gradient of the rows b_x from the gradient of `unit_rows`; under 1e-12 the norm is a constant."""
    b_unit, b_inverse = unit_rows(b_x)
    b_along = tl.where(b_inverse < 1e12, tl.sum(b_grad * b_unit, 1), 0.0)
    return (b_grad - b_unit * b_along[:, None]) * b_inverse[:, None]
