"""The slow truth: windowed attention in plain PyTorch, every option of the op, any floating dtype, autograd for free.

It does what the original models do (pad, roll, partition, an N x N bias and mask, softmax, reverse, roll back), so it
is both what the kernels are tested against (in float64) and the plain road they are timed against.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import num_windows, padded_size, relative_position_index


def window_partition(x: Tensor, window_size: Sequence[int]) -> Tensor:
    """(B, *map, C) -> (B * num_windows, N, C); the map must be a multiple of the window on every axis."""
    axes = len(window_size)
    x = x.unflatten(1, (x.shape[1] // window_size[0], window_size[0]))
    for a in range(1, axes):
        x = x.unflatten(2 * a + 1, (x.shape[2 * a + 1] // window_size[a], window_size[a]))
    x = x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return x.reshape(-1, prod(window_size), x.shape[-1])


def window_reverse(windows: Tensor, window_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """(B * num_windows, N, C) -> (B, *map, C), the inverse of `window_partition` for a map of `size`."""
    axes, counts = len(window_size), num_windows(size, window_size)
    x = windows.reshape(-1, *counts, *window_size, windows.shape[-1])
    order = [i for a in range(axes) for i in (1 + a, 1 + axes + a)]
    return x.permute(0, *order, 2 * axes + 1).reshape(x.shape[0], *size, x.shape[-1])


def shift_regions(size: Sequence[int], window_size: Sequence[int], shift_size: Sequence[int], device=None) -> Tensor:
    """(num_windows, N) region number of each token of a rolled map; tokens of different regions do not attend."""
    regions = torch.zeros(tuple(size), dtype=torch.int64, device=device)
    for axis, (n, s) in enumerate(zip(size, shift_size, strict=True)):
        seam = torch.arange(n, device=device) >= n - s  # rolled in from the other side of the map
        regions = regions * 2 + seam.view(-1, *(1,) * (len(size) - 1 - axis))
    return window_partition(regions[None, ..., None], window_size).squeeze(-1)


def dropout_keep(seed: Tensor, windows: int, num_heads: int, tokens: int, p: float) -> Tensor:
    """(windows, heads, N, N) bool, the mask every backend draws: Philox-4x32-10 (Salmon et al. 2011), seed as key.

    Four words per call: word k at counter (c, query, window * heads + head) is key k * ceil(N / 4) + c.
    """
    device, quarter = seed.device, -(-tokens // 4)
    low = 0xFFFFFFFF

    def axis(n: int, dim: int) -> Tensor:
        return torch.arange(n, device=device).view(*(-1 if d == dim else 1 for d in range(3)))

    item = axis(windows * num_heads, 0)
    c = [axis(quarter, 2), axis(tokens, 1), item & low, item >> 32]
    key0, key1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        p0, p1 = (
            c[0] * 0xD2511F53,
            c[2] * 0xCD9E8D57,
        )  # 64-bit products; the wrapped sign does not reach the masked bits
        c = [((p1 >> 32) & low) ^ c[1] ^ key0, p1 & low, ((p0 >> 32) & low) ^ c[3] ^ key1, p0 & low]
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    shape = (windows * num_heads, tokens, quarter)
    words = torch.cat([word.expand(shape) for word in c], -1)[..., :tokens]
    return (words >= int(p * 2**32)).view(windows, num_heads, tokens, tokens)


def window_attention(
    qkv: Tensor,
    bias_table: Tensor | None = None,
    *,
    num_heads: int,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    scale: float,
    bias_index: Tensor | None = None,
    pad_qkv: Tensor | None = None,
    pad_order: str = "pad_then_roll",
    mask: Tensor | None = None,
    mask_value: float = -100.0,
    logit_scale: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
) -> Tensor:
    """`swin_fast.functional.window_attention` as a formula. Arguments are taken as already checked."""
    batch, *grid, channels = qkv.shape
    axes, size, tokens = list(range(1, len(grid) + 1)), padded_size(grid, window_size), prod(window_size)
    amounts = [n for g, p in zip(reversed(grid), reversed(size), strict=True) for n in (0, p - g)]
    padded, shifted = any(amounts), any(shift_size)
    back = [-s for s in shift_size]

    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, *amounts)) if padded else x

    def roll(x: Tensor, shifts: Sequence[int]) -> Tensor:
        return x.roll(tuple(shifts), axes) if shifted else x

    def to_windows(x: Tensor) -> Tensor:
        x = roll(pad(x), back) if pad_order == "pad_then_roll" else pad(roll(x, back))
        return window_partition(x, window_size)

    x = to_windows(qkv)  # (B * num_windows, N, 3 * C)
    inside = to_windows(qkv.new_ones(1, *grid, 1)).bool().repeat(batch, 1, 1) if padded else None
    if padded and pad_qkv is not None:
        x = torch.where(inside, x, pad_qkv.to(x.dtype))
    q, k, v = x.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B * num_windows, heads, N, head_dim)
    if logit_scale is not None:
        norm = torch.float64 if q.dtype == torch.float64 else torch.float32  # 1e-12 is zero in float16
        q, k = (F.normalize(t.to(norm), dim=-1).to(t.dtype) for t in (q, k))
        attn = (q @ k.transpose(-2, -1)) * logit_scale.view(-1, 1, 1)
    else:
        attn = (q * scale) @ k.transpose(-2, -1)
    if bias_table is not None:
        index = relative_position_index(window_size).to(qkv.device) if bias_index is None else bias_index
        attn = attn + bias_table[index].permute(2, 0, 1)
    if shifted:
        regions = shift_regions(size, window_size, shift_size, qkv.device)
        across = regions[:, :, None] != regions[:, None, :]
        seam = torch.zeros_like(across, dtype=attn.dtype).masked_fill(across, mask_value)  # (num_windows, N, N)
        attn = (attn.unflatten(0, (batch, len(regions))) + seam[:, None]).flatten(0, 1)
    if mask is not None:
        attn = (attn.unflatten(0, (-1, mask.shape[0])) + mask[:, None]).flatten(0, 1)
    if padded and pad_qkv is None:
        attn = attn.masked_fill(~inside.transpose(1, 2)[:, None], -torch.inf)
    if mask is not None or (padded and pad_qkv is None):  # a row with no key left gives zeros, not NaN
        empty = (attn == -torch.inf).all(-1, keepdim=True)
        attn = attn.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
    else:
        attn = attn.softmax(-1)
    if dropout_p > 0:
        attn = attn * dropout_keep(dropout_seed, attn.shape[0], num_heads, tokens, dropout_p) / (1 - dropout_p)
    out = (attn.to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B * num_windows, N, C)
    out = window_reverse(out, window_size, size)
    out = roll(out, shift_size) if pad_order == "pad_then_roll" else out
    for axis, g in zip(axes, grid, strict=True):
        out = out.narrow(axis, 0, g)
    return out if pad_order == "pad_then_roll" else roll(out, shift_size)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016); erfc keeps the tail's digits."""
    return x * 0.5 * torch.erfc(x * -(0.5**0.5))
