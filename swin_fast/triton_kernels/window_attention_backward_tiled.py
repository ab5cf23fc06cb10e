"""The backward of windows of several tiles: queries first, which leave each row's softmax behind, then keys, then bias.

Each kernel recomputes the tiles of weights it needs. Nothing is summed across programs but what `reduction` adds up.
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
from .window_attention_backward import GRAD_SCALARS
from .window_attention_forward import SCALARS


@triton.jit
def weights_gradient(
    b_g, b_v, b_p, p_seed, i_softmax, o_i, start_n, keep_threshold, keep_scale, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[M, N] gradient of the weights b_p, and the weights as dropout leaves them."""
    # [M, D] @ [D, N]
    b_dp = dot(b_g, tl.trans(b_v), PRECISION)
    if DROPOUT:
        m_keep = dropout_keep(p_seed, i_softmax, o_i, start_n, keep_threshold, b_p.shape[0], b_p.shape[1])
        b_dp = tl.where(m_keep, b_dp * keep_scale, 0.0)
        b_p = tl.where(m_keep, b_p * keep_scale, 0.0)
    return b_dp, b_p


@triton.jit(do_not_specialize=SCALARS + GRAD_SCALARS)
def window_attention_backward_queries(
    p_grad, p_qkv, p_table, p_index, p_pad, p_mask, p_logit_scale, p_seed, p_stats, p_grad_qkv, p_scale_sums,
    windows, heads, groups, grid_0, grid_1, grid_2, shift_0, shift_1, shift_2,
    stride_b, stride_0, stride_1, stride_2, grad_stride_b, grad_stride_0, grad_stride_1, grad_stride_2,
    table_rows, table_stride, table_head_stride, mask_windows, mask_stride_0, mask_stride_1, mask_stride_2,
    scale, seam_value, keep_threshold, keep_scale,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    DROPOUT: tl.constexpr, ROLL_THEN_PAD: tl.constexpr, ALIGN: tl.constexpr, LARGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes each row's max, 1 / sum and sum of weight times gradient to p_stats (windows, heads, 3, N); then dq."""
    TOKENS: tl.constexpr = W0 * W1 * W2
    COLUMNS: tl.constexpr = (TOKENS + 3) // 4 * 4 if DROPOUT else TOKENS
    TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
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
    if p_scale_sums is not None:
        b_scale_sum = tl.zeros([BLOCK_M], tl.float32)

    for i_round in tl.range(0, tl.cdiv(windows * TILES - i_group, groups)):
        i_item = i_group + i_round * groups
        i_window = i_item // TILES
        i_softmax = i_window.to(tl.int64) * heads + i_head
        i_image, first, last = locate_window(i_window, grid, W0, W1, W2)
        o_i = i_item % TILES * BLOCK_M + tl.arange(0, BLOCK_M)
        at_i, m_i = window_tokens(o_i, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        crossed_i = crossings(o_i, shift, W0, W1, W2)
        p_q = p_qkv + tl.multiple_of(i_image.to(tl.int64) * stride_b, ALIGN) + i_head * D
        p_g = p_grad + tl.multiple_of(i_image.to(tl.int64) * grad_stride_b, ALIGN) + i_head * D
        # [M, D], [M, D]; the output of padding is cut off, so its gradient is zero
        b_q = load_part(p_q, row_offsets(at_i, stride, ALIGN), m_i, o_i, b_pad_q, TOKENS, D, BLOCK_D)
        b_g = load_rows(p_g, row_offsets(at_i, grad_stride, ALIGN), m_i, D, BLOCK_D)
        b_qn = unit(b_q, dtype, UNIT)

        b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_inner = tl.zeros([BLOCK_M], tl.float32)
        for start_n in tl.range(0, COLUMNS, BLOCK_N):
            o_j = key_tokens(start_n + tl.arange(0, BLOCK_N), TOKENS, DROPOUT)
            at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
            rows_j, crossed_j = row_offsets(at_j, stride, ALIGN), crossings(o_j, shift, W0, W1, W2)
            # [N, D], [N, D]
            b_kn = unit(load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D), dtype, UNIT)
            b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
            b_bias = bias_tile(
                p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2
            )
            b_s = scores(
                b_qn, b_kn, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
                p_mask, mask_windows, mask_stride, TOKENS, SHIFTED, MASK_PADDING, LARGE, PRECISION,
            )  # fmt: skip
            b_new = tl.maximum(b_max, tl.max(b_s, 1))
            b_shrink = tl.exp2(b_max - finite_max(b_new))
            b_p = tl.exp2(b_s - finite_max(b_new)[:, None])
            b_dp, b_kept = weights_gradient(
                b_g, b_v, b_p, p_seed, i_softmax, o_i, start_n, keep_threshold, keep_scale, DROPOUT, PRECISION
            )
            b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
            b_inner = b_inner * b_shrink + tl.sum(b_p * b_dp, 1)
            b_max = b_new
        b_max = finite_max(b_max)
        b_inverse = tl.where(b_sum == 0.0, 0.0, 1.0 / b_sum)
        b_inner *= b_inverse
        p_row = p_stats + i_softmax * (3 * TOKENS) + o_i
        tl.store(p_row, b_max, mask=o_i < TOKENS)
        tl.store(p_row + TOKENS, b_inverse, mask=o_i < TOKENS)
        tl.store(p_row + 2 * TOKENS, b_inner, mask=o_i < TOKENS)

        if p_grad_qkv is not None or p_scale_sums is not None:
            b_dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
            for start_n in tl.range(0, COLUMNS, BLOCK_N):
                o_j = key_tokens(start_n + tl.arange(0, BLOCK_N), TOKENS, DROPOUT)
                at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
                rows_j, crossed_j = row_offsets(at_j, stride, ALIGN), crossings(o_j, shift, W0, W1, W2)
                # [N, D], [N, D]
                b_kn = unit(load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D), dtype, UNIT)
                b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
                b_bias = bias_tile(
                    p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2
                )
                b_s = scores(
                    b_qn, b_kn, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
                    p_mask, mask_windows, mask_stride, TOKENS, SHIFTED, MASK_PADDING, LARGE, PRECISION,
                )  # fmt: skip
                b_p = tl.exp2(b_s - b_max[:, None]) * b_inverse[:, None]
                b_dp, b_kept = weights_gradient(
                    b_g, b_v, b_p, p_seed, i_softmax, o_i, start_n, keep_threshold, keep_scale, DROPOUT, PRECISION
                )
                # [M, N] @ [N, D]
                b_dq += dot(cast(b_p * (b_dp - b_inner[:, None]), dtype), b_kn, PRECISION)
            if p_scale_sums is not None:
                b_scale_sum += tl.sum(b_dq * b_qn.to(tl.float32), 1)
            if p_grad_qkv is not None:
                b_dq *= score_scale / LOG2E
                if UNIT:
                    b_dq = unit_rows_gradient(b_dq, b_q)
                p_dq = p_grad_qkv + i_image * image_tokens * channels * 3 + i_head * D
                store_rows(p_dq, map_positions(at_i, grid) * (3 * channels), m_i, b_dq, D, BLOCK_D)
    if p_scale_sums is not None:
        tl.store(p_scale_sums + i_head * groups + i_group, tl.sum(b_scale_sum, 0))


@triton.jit(do_not_specialize=SCALARS + GRAD_SCALARS)
def window_attention_backward_keys(
    p_grad, p_qkv, p_table, p_index, p_pad, p_mask, p_logit_scale, p_seed, p_stats, p_grad_qkv, p_pad_sums,
    windows, heads, groups, grid_0, grid_1, grid_2, shift_0, shift_1, shift_2,
    stride_b, stride_0, stride_1, stride_2, grad_stride_b, grad_stride_0, grad_stride_1, grad_stride_2,
    table_rows, table_stride, table_head_stride, mask_windows, mask_stride_0, mask_stride_1, mask_stride_2,
    scale, seam_value, keep_threshold, keep_scale,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    DROPOUT: tl.constexpr, ROLL_THEN_PAD: tl.constexpr, ALIGN: tl.constexpr, LARGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of keys at a time, and their sums over padding."""
    TOKENS: tl.constexpr = W0 * W1 * W2
    COLUMNS: tl.constexpr = (TOKENS + 3) // 4 * 4 if DROPOUT else TOKENS
    TILES: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
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
    if p_pad_sums is not None:
        b_pad_k_sum = tl.zeros([BLOCK_D], tl.float32)
        b_pad_v_sum = tl.zeros([BLOCK_D], tl.float32)

    for i_round in tl.range(0, tl.cdiv(windows * TILES - i_group, groups)):
        i_item = i_group + i_round * groups
        i_window = i_item // TILES
        i_softmax = i_window.to(tl.int64) * heads + i_head
        i_image, first, last = locate_window(i_window, grid, W0, W1, W2)
        start_n = i_item % TILES * BLOCK_N
        o_j = key_tokens(start_n + tl.arange(0, BLOCK_N), TOKENS, DROPOUT)
        at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        rows_j, crossed_j = row_offsets(at_j, stride, ALIGN), crossings(o_j, shift, W0, W1, W2)
        p_q = p_qkv + tl.multiple_of(i_image.to(tl.int64) * stride_b, ALIGN) + i_head * D
        p_g = p_grad + tl.multiple_of(i_image.to(tl.int64) * grad_stride_b, ALIGN) + i_head * D
        # [N, D], [N, D]
        b_k = load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D)
        b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
        b_kn = unit(b_k, dtype, UNIT)
        b_dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        b_dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for start_m in tl.range(0, TOKENS, BLOCK_M):
            o_i = start_m + tl.arange(0, BLOCK_M)
            at_i, m_i = window_tokens(o_i, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
            rows_i, crossed_i = row_offsets(at_i, stride, ALIGN), crossings(o_i, shift, W0, W1, W2)
            # [M, D], [M, D]
            b_qn = unit(load_part(p_q, rows_i, m_i, o_i, b_pad_q, TOKENS, D, BLOCK_D), dtype, UNIT)
            b_g = load_rows(p_g, row_offsets(at_i, grad_stride, ALIGN), m_i, D, BLOCK_D)
            b_bias = bias_tile(
                p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2
            )
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
            # [N, M] @ [M, D], [N, M] @ [M, D]
            b_dv += dot(tl.trans(cast(b_kept, dtype)), b_g, PRECISION)
            b_dk += dot(tl.trans(cast(b_p * (b_dp - b_inner[:, None]), dtype)), b_qn, PRECISION)
        b_dk *= score_scale / LOG2E
        if UNIT:
            b_dk = unit_rows_gradient(b_dk, b_k)
        if p_pad_sums is not None:
            m_pad = ~m_j & (o_j < TOKENS)
            b_pad_k_sum += tl.sum(tl.where(m_pad[:, None], b_dk, 0.0), 0)
            b_pad_v_sum += tl.sum(tl.where(m_pad[:, None], b_dv, 0.0), 0)
        if p_grad_qkv is not None:
            p_dk = p_grad_qkv + i_image * image_tokens * channels * 3 + channels + i_head * D
            row_j = map_positions(at_j, grid) * (3 * channels)
            store_rows(p_dk, row_j, m_j, b_dk, D, BLOCK_D)
            store_rows(p_dk + channels, row_j, m_j, b_dv, D, BLOCK_D)
    if p_pad_sums is not None:
        o_d = tl.arange(0, BLOCK_D)
        i_sum = i_head * groups + i_group
        tl.store(p_pad_sums + i_sum * D + o_d, b_pad_k_sum, mask=o_d < D)
        tl.store(p_pad_sums + (heads * groups + i_sum) * D + o_d, b_pad_v_sum, mask=o_d < D)
