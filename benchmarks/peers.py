"""The attention core as others compute it: roll, partition into windows, attend, reverse, roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from swin_fast import testing
from swin_fast.geometry import padded_size, relative_position_index
from swin_fast.reference import shift_regions, window_partition, window_reverse

WINDOW = 7
OURS = "swin_fast"


def split(x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """(B, *map, C) -> (B * windows, N, C), rolled first."""
    if any(shift):
        x = torch.roll(x, [-s for s in shift], list(range(1, x.dim() - 1)))
    return window_partition(x, window)


def join(windows: Tensor, size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """(B * windows, N, C) -> (B, *size, C), the inverse of `split`."""
    x = window_reverse(windows, window, size)
    return torch.roll(x, list(shift), list(range(1, x.dim() - 1))) if any(shift) else x


def seam_mask(size, window, shift, dtype: torch.dtype, device: str = "cpu") -> Tensor | None:
    """(windows, N, N), -100 where query and key come from different parts of the map; a model keeps it in a buffer."""
    if not any(shift):
        return None
    parts = shift_regions(size, window, shift, device)
    return torch.where(parts[:, :, None] == parts[:, None, :], 0.0, -100.0).to(dtype)


def _heads(qkv: Tensor, heads: int, logit_scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v, each (B * windows, heads, N, head_dim); for cosine attention q and k are such that q @ k is the logit"""
    q, k, v = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if logit_scale is not None:
        q, k = (F.normalize(t, dim=-1) for t in (q, k))
        q = q * logit_scale.view(-1, 1, 1)
    return q, k, v


def _bias(table: Tensor, index: Tensor) -> Tensor:
    """(1, heads, N, N)"""
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


def eager(qkv: Tensor, table: Tensor, index: Tensor, mask: Tensor | None, logit_scale: Tensor | None = None) -> Tensor:
    """(B * windows, N, 3 * C) -> (B * windows, N, C), step by step as in the original model code."""
    count, tokens, channels = qkv.shape
    heads = table.shape[1]
    q, k, v = _heads(qkv, heads, None)
    if logit_scale is None:
        attn = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    else:
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * logit_scale.view(-1, 1, 1)
    attn = attn + _bias(table, index)
    if mask is not None:
        attn = attn.view(-1, len(mask), heads, tokens, tokens) + mask[None, :, None]
        attn = attn.view(count, heads, tokens, tokens)
    return (attn.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, channels // 3)


def sdpa(qkv: Tensor, table: Tensor, index: Tensor, mask: Tensor | None, logit_scale: Tensor | None = None) -> Tensor:
    """The same through PyTorch's fused attention, which wants bias and mask as one tensor, made in every call."""
    count, tokens, channels = qkv.shape
    heads = table.shape[1]
    q, k, v = _heads(qkv, heads, logit_scale)
    added = _bias(table, index)
    if mask is not None:
        repeated = mask[None, :, None].expand(count // len(mask), -1, heads, -1, -1)
        added = added + repeated.reshape(count, heads, tokens, tokens)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=None if logit_scale is None else 1.0)
    return out.transpose(1, 2).reshape(count, tokens, channels // 3)


def flex(qkv: Tensor, table: Tensor, index: Tensor, mask: Tensor | None, logit_scale: Tensor | None = None) -> Tensor:
    """The same through FlexAttention, which reads bias and mask where they are; fused only when compiled."""
    count, tokens, channels = qkv.shape
    q, k, v = _heads(qkv, table.shape[1], logit_scale)

    def add(score, window, head, query, key):
        score = score + table[index[query, key], head]
        return score if mask is None else score + mask[window % len(mask), query, key]

    out = flex_attention(q, k, v, score_mod=add, scale=None if logit_scale is None else 1.0)
    return out.transpose(1, 2).reshape(count, tokens, channels // 3)


def roads(case: testing.Case, dtype: torch.dtype, attend: Callable, device: str = "cpu") -> tuple[Callable, Callable]:
    """The core by `attend`, as (from the qkv map, from x and the windows of qkv).

    The second is the original code's road: it rolls and partitions x before the qkv Linear, a third of the channels.
    It gives the windows of x and the core's output.
    """
    size, window, shift = padded_size(case.grid, case.window_size), case.window_size, case.shift_size
    index = relative_position_index(window).to(device)
    mask = seam_mask(size, window, shift, dtype, device)
    inside = (slice(None), *(slice(n) for n in case.grid))
    to_map = partial(join, size=size, window=window, shift=shift)

    def from_map(qkv, bias_table, pad_qkv=None, logit_scale=None):
        for axis, (n, total) in enumerate(zip(case.grid, size, strict=True), 1):
            if total > n:
                fill = pad_qkv.expand(*(total - n if a == axis else m for a, m in enumerate(qkv.shape)))
                qkv = torch.cat([qkv, fill], axis)
        out = to_map(attend(split(qkv, window, shift), bias_table, index, mask, logit_scale))
        return (out[inside] if size != tuple(case.grid) else out,)

    def from_windows(x, qkv, bias_table, logit_scale=None):
        return split(x, window, shift), to_map(attend(qkv, bias_table, index, mask, logit_scale))

    return from_map, from_windows
