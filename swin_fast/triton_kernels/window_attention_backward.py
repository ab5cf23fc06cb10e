"""The backward kernel for windows of one tile: all gradients from one recomputation of the weights, in one pass.

A program takes one head of every so-and-so-manieth window. What windows share (bias, padding, logit scale) it sums in
registers and writes once, as its entry of a partial sum that `reduction` adds up in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    LOG2E,
    bias_tile,
    cast,
    crossings,
    dot,
    dropout_keep,
    finite_max,
    key_tokens,
    load_pad,
    load_part,
    load_rows,
    load_score_scale,
    locate_window,
    map_positions,
    row_offsets,
    scores,
    store_rows,
    unit,
    unit_rows_gradient,
    window_tokens,
)
from .window_attention_forward import SCALARS

GRAD_SCALARS = ["grad_stride_b", "grad_stride_0", "grad_stride_1", "grad_stride_2"]


@triton.jit
def fold_rows(b_ds, o_j, p_rows, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, BLOCK_R: tl.constexpr):
    """Sums b_ds [M, N] over the (query, key) pairs of each relative position: p_rows (rows of the standard table)."""
    S1: tl.constexpr = 2 * W1 - 1
    S2: tl.constexpr = 2 * W2 - 1
    ROWS: tl.constexpr = (2 * W0 - 1) * S1 * S2
    for start in tl.range(0, ROWS, BLOCK_R):
        o_r = start + tl.arange(0, BLOCK_R)
        # [R, N] the query that sees key o_j at relative position o_r
        i_0 = (o_j // (W1 * W2))[None, :] + (o_r // (S1 * S2) - (W0 - 1))[:, None]
        i_1 = (o_j // W2 % W1)[None, :] + (o_r // S2 % S1 - (W1 - 1))[:, None]
        i_2 = (o_j % W2)[None, :] + (o_r % S2 - (W2 - 1))[:, None]
        m = (i_0 >= 0) & (i_0 < W0) & (i_1 >= 0) & (i_1 < W1) & (i_2 >= 0) & (i_2 < W2)
        m &= (o_j < W0 * W1 * W2)[None, :]
        b_row = tl.gather(b_ds, tl.where(m, (i_0 * W1 + i_1) * W2 + i_2, 0), 0)
        tl.store(p_rows + o_r, tl.sum(tl.where(m, b_row, 0.0), 1), mask=o_r < ROWS)


@triton.jit(do_not_specialize=SCALARS + GRAD_SCALARS)
def window_attention_backward(
    p_grad, p_qkv, p_table, p_index, p_pad, p_mask, p_logit_scale, p_seed,
    p_grad_qkv, p_bias_sums, p_pad_sums, p_scale_sums,
    windows, heads, groups, grid_0, grid_1, grid_2, shift_0, shift_1, shift_2,
    stride_b, stride_0, stride_1, stride_2, grad_stride_b, grad_stride_0, grad_stride_1, grad_stride_2,
    table_rows, table_stride, table_head_stride, mask_windows, mask_stride_0, mask_stride_1, mask_stride_2,
    scale, seam_value, keep_threshold, keep_scale,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    DROPOUT: tl.constexpr, ROLL_THEN_PAD: tl.constexpr, ALIGN: tl.constexpr, LARGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = W0 * W1 * W2
    MASK_PADDING: tl.constexpr = PADDED and p_pad is None
    UNIT: tl.constexpr = p_logit_scale is not None
    dtype: tl.constexpr = p_qkv.dtype.element_ty
    grid, shift, stride = (grid_0, grid_1, grid_2), (shift_0, shift_1, shift_2), (stride_0, stride_1, stride_2)
    grad_stride = (grad_stride_0, grad_stride_1, grad_stride_2)
    mask_stride = (mask_stride_0, mask_stride_1, mask_stride_2)
    i_head, i_group = tl.program_id(0) % heads, tl.program_id(0) // heads
    channels = heads * D
    image_tokens = grid_0.to(tl.int64) * grid_1 * grid_2
    b_pad_q, b_pad_k, b_pad_v = None, None, None
    if PADDED:
        b_pad_q = load_pad(p_pad, 0, i_head, heads, D, BLOCK_D)
        b_pad_k = load_pad(p_pad, 1, i_head, heads, D, BLOCK_D)
        b_pad_v = load_pad(p_pad, 2, i_head, heads, D, BLOCK_D)
    score_scale = load_score_scale(p_logit_scale, i_head, scale)

    o_i = tl.arange(0, BLOCK_M)
    o_j = key_tokens(tl.arange(0, BLOCK_N), TOKENS, DROPOUT)
    crossed_i, crossed_j = crossings(o_i, shift, W0, W1, W2), crossings(o_j, shift, W0, W1, W2)
    b_bias = bias_tile(p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2)
    if p_bias_sums is not None:
        b_ds_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if p_pad_sums is not None:
        b_pad_k_sum = tl.zeros([BLOCK_D], tl.float32)
        b_pad_v_sum = tl.zeros([BLOCK_D], tl.float32)
    if p_scale_sums is not None:
        b_scale_sum = tl.zeros([BLOCK_M], tl.float32)

    for i_round in tl.range(0, tl.cdiv(windows - i_group, groups)):
        i_window = i_group + i_round * groups
        i_image, first, last = locate_window(i_window, grid, W0, W1, W2)
        at_i, m_i = window_tokens(o_i, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        at_j, m_j = at_i, m_i
        if DROPOUT:
            at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        rows_i, rows_j = row_offsets(at_i, stride, ALIGN), row_offsets(at_j, stride, ALIGN)
        p_q = p_qkv + tl.multiple_of(i_image.to(tl.int64) * stride_b, ALIGN) + i_head * D
        p_g = p_grad + tl.multiple_of(i_image.to(tl.int64) * grad_stride_b, ALIGN) + i_head * D
        # [M, D], [N, D], [N, D], [M, D]; the output of padding is cut off, so its gradient is zero
        b_q = load_part(p_q, rows_i, m_i, o_i, b_pad_q, TOKENS, D, BLOCK_D)
        b_k = load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D)
        b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
        b_g = load_rows(p_g, row_offsets(at_i, grad_stride, ALIGN), m_i, D, BLOCK_D)
        b_qn, b_kn = unit(b_q, dtype, UNIT), unit(b_k, dtype, UNIT)
        b_s = scores(
            b_qn, b_kn, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
            p_mask, mask_windows, mask_stride, TOKENS, SHIFTED, MASK_PADDING, LARGE, PRECISION,
        )  # fmt: skip
        b_p = tl.exp2(b_s - finite_max(tl.max(b_s, 1))[:, None])
        b_sum = tl.sum(b_p, 1)
        b_p *= tl.where(b_sum == 0.0, 0.0, 1.0 / b_sum)[:, None]
        # [M, D] @ [D, N]
        b_dp = dot(b_g, tl.trans(b_v), PRECISION)
        b_kept = b_p
        if DROPOUT:
            i_softmax = i_window.to(tl.int64) * heads + i_head
            m_keep = dropout_keep(p_seed, i_softmax, o_i, 0, keep_threshold, BLOCK_M, BLOCK_N)
            b_dp = tl.where(m_keep, b_dp * keep_scale, 0.0)
            b_kept = tl.where(m_keep, b_p * keep_scale, 0.0)
        b_ds = b_p * (b_dp - tl.sum(b_p * b_dp, 1)[:, None])
        if p_bias_sums is not None:
            b_ds_sum += b_ds
        b_ds_low = cast(b_ds, dtype)
        # [N, M] @ [M, D], [N, M] @ [M, D], [M, N] @ [N, D]
        b_dv = dot(tl.trans(cast(b_kept, dtype)), b_g, PRECISION)
        b_dk = dot(tl.trans(b_ds_low), b_qn, PRECISION)
        b_dq = dot(b_ds_low, b_kn, PRECISION)
        if p_scale_sums is not None:
            b_scale_sum += tl.sum(b_dq * b_qn.to(tl.float32), 1)
        b_dq *= score_scale / LOG2E
        b_dk *= score_scale / LOG2E
        if UNIT:
            b_dq, b_dk = unit_rows_gradient(b_dq, b_q), unit_rows_gradient(b_dk, b_k)
        if p_pad_sums is not None:
            m_pad_j = ~m_j & (o_j < TOKENS)
            b_pad_k_sum += tl.sum(tl.where(m_pad_j[:, None], b_dk, 0.0), 0)
            b_pad_v_sum += tl.sum(tl.where(m_pad_j[:, None], b_dv, 0.0), 0)
        if p_grad_qkv is not None:
            p_dq = p_grad_qkv + i_image * image_tokens * channels * 3 + i_head * D
            row_i, row_j = map_positions(at_i, grid) * (3 * channels), map_positions(at_j, grid) * (3 * channels)
            store_rows(p_dq, row_i, m_i, b_dq, D, BLOCK_D)
            store_rows(p_dq + channels, row_j, m_j, b_dk, D, BLOCK_D)
            store_rows(p_dq + 2 * channels, row_j, m_j, b_dv, D, BLOCK_D)

    i_sum = i_head * groups + i_group
    if p_bias_sums is not None:
        if p_index is None:
            ROWS: tl.constexpr = (2 * W0 - 1) * (2 * W1 - 1) * (2 * W2 - 1)
            fold_rows(b_ds_sum, o_j, p_bias_sums + i_sum.to(tl.int64) * ROWS, W0, W1, W2, BLOCK_M)
        else:
            m_ij = (o_i < TOKENS)[:, None] & (o_j < TOKENS)[None, :]
            # [M, N]
            p_sums = p_bias_sums + i_sum.to(tl.int64) * (TOKENS * TOKENS)
            tl.store(p_sums + o_i[:, None] * TOKENS + o_j[None, :], b_ds_sum, mask=m_ij)
    if p_pad_sums is not None:
        o_d = tl.arange(0, BLOCK_D)
        tl.store(p_pad_sums + i_sum * D + o_d, b_pad_k_sum, mask=o_d < D)
        tl.store(p_pad_sums + (heads * groups + i_sum) * D + o_d, b_pad_v_sum, mask=o_d < D)
    if p_scale_sums is not None:
        tl.store(p_scale_sums + i_sum, tl.sum(b_scale_sum, 0))
