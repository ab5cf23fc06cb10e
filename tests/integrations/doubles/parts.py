"""What the stand-ins share: windows, the shift mask, the attention of V1 and V2, an MLP, merging of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def partition(x, window):
    """(B, *map, C) -> (B * num_windows, N, C)"""
    axes = len(window)
    batch, *size, channels = x.shape
    split = [n for g, w in zip(size, window, strict=True) for n in (g // w, w)]
    outer, inner = range(1, 2 * axes, 2), range(2, 2 * axes + 1, 2)
    return (
        x.reshape(batch, *split, channels)
        .permute(0, *outer, *inner, 2 * axes + 1)
        .reshape(-1, math.prod(window), channels)
    )


def reverse(windows, window, size):
    axes = len(window)
    counts = [g // w for g, w in zip(size, window, strict=True)]
    x = windows.reshape(-1, *counts, *window, windows.shape[-1])
    order = [i for a in range(axes) for i in (1 + a, 1 + axes + a)]
    return x.permute(0, *order, 2 * axes + 1).reshape(-1, *size, windows.shape[-1])


def shift_mask(size, window, shift):
    """(num_windows, N, N), 0 inside a region of the rolled map, -100 between two."""
    regions = torch.zeros(1, *size, 1)
    for axis, (n, w, s) in enumerate(zip(size, window, shift, strict=True)):
        place = torch.arange(n)
        part = (place >= n - w).float() + (place >= n - s).float()
        regions = 3 * regions + part.view(1, *(n if a == axis else 1 for a in range(len(size))), 1)
    regions = partition(regions, window)[..., 0]
    return torch.where(regions[:, :, None] != regions[:, None, :], -100.0, 0.0)


def position_index(window):
    coordinates = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij")).flatten(1)
    offsets = coordinates[:, :, None] - coordinates[:, None, :]
    index = torch.zeros_like(offsets[0])
    for offset, w in zip(offsets, window, strict=True):
        index = index * (2 * w - 1) + offset + w - 1
    return index


class WindowAttention(nn.Module):
    """V1's, 2D or 3D. `index=False` is HAT's, which is given the index in the forward."""

    def __init__(
        self, dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0, index=True
    ):
        super().__init__()
        self.window_size, self.num_heads = tuple(window_size), num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        rows = math.prod(2 * w - 1 for w in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        if index:
            self.register_buffer("relative_position_index", position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop, self.proj, self.proj_drop = nn.Dropout(attn_drop), nn.Linear(dim, dim), nn.Dropout(proj_drop)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None, rpi=None):
        n = x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        index = self.relative_position_index[:n, :n] if rpi is None else rpi
        return self.finish(attn + self.relative_position_bias_table[index].permute(2, 0, 1), v, mask)

    def finish(self, attn, v, mask):
        if mask is not None:
            attn = (attn.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        attn = self.attn_drop(self.softmax(attn))
        return self.proj_drop(self.proj((attn @ v).transpose(1, 2).flatten(2)))


class WindowAttentionV2(WindowAttention):
    def __init__(self, dim, window_size, num_heads, qkv_bias=True, pretrained_window_size=(0, 0), **drops):
        super().__init__(dim, window_size, num_heads, qkv_bias=False, **drops)
        del self.relative_position_bias_table, self.scale
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        whole = [p or w for p, w in zip(pretrained_window_size, window_size, strict=True)]
        axes = [torch.arange(1.0 - w, w) / (p - 1) * 8 for w, p in zip(window_size, whole, strict=True)]
        table = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]
        self.register_buffer("relative_coords_table", table.sign() * torch.log2(table.abs() + 1) / math.log2(8))
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None

    def forward(self, x, mask=None):
        bias = None if self.q_bias is None else torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scale = self.logit_scale.clamp(max=torch.tensor(100.0).log().item()).exp()
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        return self.finish(attn + 16 * torch.sigmoid(table[self.relative_position_index].permute(2, 0, 1)), v, mask)


class Mlp(nn.Module):
    def __init__(self, dim, hidden, drop=0.0):
        super().__init__()
        self.fc1, self.act, self.fc2, self.drop = (
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
            nn.Dropout(drop),
        )

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class DropPath(nn.Module):
    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if not self.training or not self.drop_prob:
            return x
        keep = torch.rand(x.shape[0], *(1,) * (x.dim() - 1), dtype=x.dtype) >= self.drop_prob
        return x / (1 - self.drop_prob) * keep


def drop_path(rate):
    return DropPath(rate) if rate > 0 else nn.Identity()


class PatchMerging(nn.Module):
    """(B, *map, C) -> (B, *map / 2, 2 * C); only the last two axes are merged. V2's norm comes afterwards."""

    def __init__(self, dim, norm_after=False):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm((2 if norm_after else 4) * dim)
        self.norm_after = norm_after

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[-2] % 2, 0, x.shape[-3] % 2))
        x = torch.cat([x[..., i::2, j::2, :] for j in range(2) for i in range(2)], -1)
        return self.norm(self.reduction(x)) if self.norm_after else self.reduction(self.norm(x))


class PatchEmbed(nn.Module):
    """A convolution as wide as its stride, then a norm; a picture that patches do not divide is padded with zeros."""

    def __init__(self, patch_size, in_chans, embed_dim, norm=True):
        super().__init__()
        self.patch_size = tuple(patch_size)
        conv = nn.Conv3d if len(self.patch_size) == 3 else nn.Conv2d
        self.proj = conv(in_chans, embed_dim, self.patch_size, self.patch_size)
        self.norm = nn.LayerNorm(embed_dim) if norm else None

    def forward(self, x):
        """(B, C, *image) -> (B, *map, C)"""
        amounts = [(0, -n % p) for n, p in zip(reversed(x.shape[2:]), reversed(self.patch_size), strict=True)]
        x = self.proj(F.pad(x, [n for pair in amounts for n in pair])).movedim(1, -1)
        return x if self.norm is None else self.norm(x)
