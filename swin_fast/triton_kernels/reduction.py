"""Adds up what programs summed: first over programs, then, for an index that is not the standard one, by table row."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import cast


@triton.jit(do_not_specialize=["entries", "groups", "outer_stride", "entry_stride"])
def sum_over_programs(p_sums, p_total, entries, groups, outer_stride, entry_stride, BLOCK: tl.constexpr):
    """sums (outer, groups, entries) float32 -> total[outer * outer_stride + entry * entry_stride], in group order.

    One program sums one block of entries of one outer index; float64, because many like numbers are added.
    """
    i_block, i_outer = tl.program_id(0), tl.program_id(1)
    o_e = i_block * BLOCK + tl.arange(0, BLOCK)
    p_sums += i_outer.to(tl.int64) * groups * entries
    b_total = tl.zeros([BLOCK], tl.float64)
    for _ in tl.range(0, groups):
        # [BLOCK]
        b_total += tl.load(p_sums + o_e, mask=o_e < entries, other=0.0)
        p_sums += entries
    p_total += i_outer.to(tl.int64) * outer_stride
    tl.store(p_total + o_e * entry_stride, cast(b_total.to(tl.float32), p_total.dtype.element_ty), mask=o_e < entries)


@triton.jit(do_not_specialize=["pairs", "out_stride"])
def sum_by_row(p_pairs, p_order, p_first, p_total, pairs, out_stride, BLOCK: tl.constexpr):
    """pairs (heads, N * N) float32 -> total[row * out_stride + head]: the sum of the pairs that read table row `row`.

    p_order lists the pairs by row, p_first (rows + 1) where each row's begin. One program sums one row of one head.
    """
    i_row, i_head = tl.program_id(0), tl.program_id(1)
    first, last = tl.load(p_first + i_row), tl.load(p_first + i_row + 1)
    p_pairs += i_head.to(tl.int64) * pairs
    b_total = tl.zeros([BLOCK], tl.float64)
    for start in tl.range(first, last, BLOCK):
        o_p = start + tl.arange(0, BLOCK)
        o_pair = tl.load(p_order + o_p, mask=o_p < last, other=0)
        # [BLOCK]
        b_total += tl.load(p_pairs + o_pair, mask=o_p < last, other=0.0)
    b_sum = tl.sum(b_total, 0).to(tl.float32)
    tl.store(p_total + i_row * out_stride + i_head, cast(b_sum, p_total.dtype.element_ty))
