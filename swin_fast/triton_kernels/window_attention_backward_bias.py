"""The bias gradient of windows of several tiles: a program sums one tile of one head over its share of the windows."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    bias_tile,
    crossings,
    key_tokens,
    load_pad,
    load_part,
    load_rows,
    load_score_scale,
    locate_window,
    row_offsets,
    scores,
    unit,
    window_tokens,
)
from .window_attention_backward import GRAD_SCALARS
from .window_attention_backward_tiled import weights_gradient
from .window_attention_forward import SCALARS


@triton.jit(do_not_specialize=SCALARS + GRAD_SCALARS + ["first_head", "some_heads"])
def window_attention_backward_bias(
    p_grad, p_qkv, p_table, p_index, p_pad, p_mask, p_logit_scale, p_seed, p_stats, p_bias_sums, first_head, some_heads,
    windows, heads, groups, grid_0, grid_1, grid_2, shift_0, shift_1, shift_2,
    stride_b, stride_0, stride_1, stride_2, grad_stride_b, grad_stride_0, grad_stride_1, grad_stride_2,
    table_rows, table_stride, table_head_stride, mask_windows, mask_stride_0, mask_stride_1, mask_stride_2,
    scale, seam_value, keep_threshold, keep_scale,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    DROPOUT: tl.constexpr, ROLL_THEN_PAD: tl.constexpr, ALIGN: tl.constexpr, LARGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """p_bias_sums (some_heads, groups, N, N) of the heads from first_head on."""
    TOKENS: tl.constexpr = W0 * W1 * W2
    COLUMNS: tl.constexpr = (TOKENS + 3) // 4 * 4 if DROPOUT else TOKENS
    Q_TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    K_TILES: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    MASK_PADDING: tl.constexpr = PADDED and p_pad is None
    UNIT: tl.constexpr = p_logit_scale is not None
    dtype: tl.constexpr = p_qkv.dtype.element_ty
    grid, shift, stride = (grid_0, grid_1, grid_2), (shift_0, shift_1, shift_2), (stride_0, stride_1, stride_2)
    grad_stride = (grad_stride_0, grad_stride_1, grad_stride_2)
    mask_stride = (mask_stride_0, mask_stride_1, mask_stride_2)
    i_tile, i_item = tl.program_id(0) % (Q_TILES * K_TILES), tl.program_id(0) // (Q_TILES * K_TILES)
    i_some, i_group = i_item % some_heads, i_item // some_heads
    i_head = first_head + i_some
    channels = heads * D
    b_pad_q, b_pad_k, b_pad_v = None, None, None
    if PADDED:
        b_pad_q = load_pad(p_pad, 0, i_head, heads, D, BLOCK_D)
        b_pad_k = load_pad(p_pad, 1, i_head, heads, D, BLOCK_D)
        b_pad_v = load_pad(p_pad, 2, i_head, heads, D, BLOCK_D)
    score_scale = load_score_scale(p_logit_scale, i_head, scale)
    start_n = i_tile % K_TILES * BLOCK_N
    o_i = i_tile // K_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    o_j = key_tokens(start_n + tl.arange(0, BLOCK_N), TOKENS, DROPOUT)
    crossed_i, crossed_j = crossings(o_i, shift, W0, W1, W2), crossings(o_j, shift, W0, W1, W2)
    b_bias = bias_tile(p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2)
    b_ds_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)

    for i_round in tl.range(0, tl.cdiv(windows - i_group, groups)):
        i_window = i_group + i_round * groups
        i_softmax = i_window.to(tl.int64) * heads + i_head
        i_image, first, last = locate_window(i_window, grid, W0, W1, W2)
        at_i, m_i = window_tokens(o_i, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        rows_i, rows_j = row_offsets(at_i, stride, ALIGN), row_offsets(at_j, stride, ALIGN)
        p_q = p_qkv + tl.multiple_of(i_image.to(tl.int64) * stride_b, ALIGN) + i_head * D
        p_g = p_grad + tl.multiple_of(i_image.to(tl.int64) * grad_stride_b, ALIGN) + i_head * D
        # [M, D], [N, D], [N, D], [M, D]
        b_qn = unit(load_part(p_q, rows_i, m_i, o_i, b_pad_q, TOKENS, D, BLOCK_D), dtype, UNIT)
        b_kn = unit(load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D), dtype, UNIT)
        b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
        b_g = load_rows(p_g, row_offsets(at_i, grad_stride, ALIGN), m_i, D, BLOCK_D)
        b_s = scores(
            b_qn, b_kn, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
            p_mask, mask_windows, mask_stride, TOKENS, SHIFTED, MASK_PADDING, LARGE, PRECISION,
        )  # fmt: skip
        p_row = p_stats + i_softmax * (3 * TOKENS) + o_i
        # [M], [M], [M]; past the last query 1 / sum is zero
        b_max = tl.load(p_row, mask=o_i < TOKENS, other=0.0)
        b_inverse = tl.load(p_row + TOKENS, mask=o_i < TOKENS, other=0.0)
        b_inner = tl.load(p_row + 2 * TOKENS, mask=o_i < TOKENS, other=0.0)
        b_p = tl.exp2(tl.where((o_i < TOKENS)[:, None], b_s - b_max[:, None], 0.0)) * b_inverse[:, None]
        b_dp, b_kept = weights_gradient(
            b_g, b_v, b_p, p_seed, i_softmax, o_i, start_n, keep_threshold, keep_scale, DROPOUT, PRECISION
        )
        b_ds_sum += b_p * (b_dp - b_inner[:, None])

    m_ij = (o_i < TOKENS)[:, None] & (o_j < TOKENS)[None, :]
    p_sums = p_bias_sums + (i_some * groups + i_group).to(tl.int64) * (TOKENS * TOKENS)
    # [M, N]
    tl.store(p_sums + o_i[:, None] * TOKENS + o_j[None, :], b_ds_sum, mask=m_ij)
