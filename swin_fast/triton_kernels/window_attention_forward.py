"""The forward kernel: a program takes one head of every so-and-so-manieth window, so its bias is read once."""

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
    load_score_scale,
    locate_window,
    map_positions,
    row_offsets,
    scores,
    store_rows,
    unit,
    window_tokens,
)

# Numbers that change from call to call without a new compilation.
SCALARS = [
    "windows", "heads", "groups", "grid_0", "grid_1", "grid_2", "shift_0", "shift_1", "shift_2", "stride_b", "stride_0",
    "stride_1", "stride_2", "table_rows", "table_stride", "table_head_stride", "mask_windows", "mask_stride_0",
    "mask_stride_1", "mask_stride_2", "keep_threshold",
]  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def window_attention_forward(
    p_qkv, p_out, p_lse, p_table, p_index, p_pad, p_mask, p_logit_scale, p_seed,
    windows, heads, groups, grid_0, grid_1, grid_2, shift_0, shift_1, shift_2,
    stride_b, stride_0, stride_1, stride_2, table_rows, table_stride, table_head_stride,
    mask_windows, mask_stride_0, mask_stride_1, mask_stride_2, scale, seam_value, keep_threshold, keep_scale,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    DROPOUT: tl.constexpr, ROLL_THEN_PAD: tl.constexpr, ALIGN: tl.constexpr, LARGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = W0 * W1 * W2
    COLUMNS: tl.constexpr = (TOKENS + 3) // 4 * 4 if DROPOUT else TOKENS
    Q_TILES: tl.constexpr = 1 if WHOLE else (TOKENS + BLOCK_M - 1) // BLOCK_M
    MASK_PADDING: tl.constexpr = PADDED and p_pad is None
    UNIT: tl.constexpr = p_logit_scale is not None
    dtype: tl.constexpr = p_qkv.dtype.element_ty
    grid, shift, stride = (grid_0, grid_1, grid_2), (shift_0, shift_1, shift_2), (stride_0, stride_1, stride_2)
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

    o_m, o_n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    if WHOLE:
        o_j = key_tokens(o_n, TOKENS, DROPOUT)
        b_bias = bias_tile(p_table, p_index, i_head, o_m, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2)

    for i_round in tl.range(0, tl.cdiv(windows * Q_TILES - i_group, groups)):
        i_item = i_group + i_round * groups
        i_window = i_item // Q_TILES
        i_image, first, last = locate_window(i_window, grid, W0, W1, W2)
        o_i = i_item % Q_TILES * BLOCK_M + o_m
        at_i, m_i = window_tokens(o_i, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
        rows_i, crossed_i = row_offsets(at_i, stride, ALIGN), crossings(o_i, shift, W0, W1, W2)
        p_q = p_qkv + tl.multiple_of(i_image.to(tl.int64) * stride_b, ALIGN) + i_head * D
        # [M, D]
        b_q = unit(load_part(p_q, rows_i, m_i, o_i, b_pad_q, TOKENS, D, BLOCK_D), dtype, UNIT)

        b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start in tl.range(0, COLUMNS, BLOCK_N):
            if not WHOLE:
                o_j = key_tokens(start + o_n, TOKENS, DROPOUT)
                b_bias = bias_tile(
                    p_table, p_index, i_head, o_i, o_j, table_rows, table_stride, table_head_stride, W0, W1, W2
                )
            if WHOLE and not DROPOUT:
                rows_j, m_j, crossed_j = rows_i, m_i, crossed_i
            else:
                at_j, m_j = window_tokens(o_j, first, grid, shift, W0, W1, W2, ROLL_THEN_PAD, LARGE)
                rows_j, crossed_j = row_offsets(at_j, stride, ALIGN), crossings(o_j, shift, W0, W1, W2)
            # [N, D], [N, D]
            b_k = unit(load_part(p_q + channels, rows_j, m_j, o_j, b_pad_k, TOKENS, D, BLOCK_D), dtype, UNIT)
            b_v = load_part(p_q + 2 * channels, rows_j, m_j, o_j, b_pad_v, TOKENS, D, BLOCK_D)
            b_s = scores(
                b_q, b_k, score_scale, b_bias, i_window, o_i, o_j, crossed_i, crossed_j, last, m_j, seam_value,
                p_mask, mask_windows, mask_stride, TOKENS, SHIFTED, MASK_PADDING, LARGE, PRECISION,
            )  # fmt: skip
            b_new = tl.maximum(b_max, tl.max(b_s, 1))
            b_p = tl.exp2(b_s - finite_max(b_new)[:, None])
            if WHOLE:
                b_sum = tl.sum(b_p, 1)
            else:
                b_shrink = tl.exp2(b_max - finite_max(b_new))
                b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
                b_out *= b_shrink[:, None]
            if DROPOUT:
                i_softmax = i_window.to(tl.int64) * heads + i_head
                m_keep = dropout_keep(p_seed, i_softmax, o_i, start, keep_threshold, BLOCK_M, BLOCK_N)
                b_p = tl.where(m_keep, b_p, 0.0)
            # [M, N] @ [N, D]
            b_out += dot(cast(b_p, dtype), b_v, PRECISION)
            b_max = b_new

        b_out *= tl.where(b_sum == 0.0, 0.0, keep_scale / b_sum)[:, None]
        position = map_positions(at_i, grid)
        p_o = p_out + i_image * image_tokens * channels + i_head * D
        store_rows(p_o, position * channels, m_i, b_out, D, BLOCK_D)
        if p_lse is not None:
            # natural log; +inf for a row without a key, so that exp(score - lse) is 0
            b_lse = tl.where(b_sum == 0.0, float("inf"), (finite_max(b_max) + tl.log2(b_sum)) / LOG2E)
            tl.store(p_lse + (i_image.to(tl.int64) * heads + i_head) * image_tokens + position, b_lse, mask=m_i)
