"""Stand-ins for the attention of mmdet and mmseg (`pad_small_map` is not there) and of mmpretrain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from .parts import Mlp, WindowAttention, WindowAttentionV2, drop_path, partition, reverse, shift_mask


class ShiftWindowMSA(nn.Module):
    def __init__(self, embed_dims, num_heads, window_size, shift_size=0, rate=0.0, pad_small_map=None, v2=False):
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        kind = WindowAttentionV2 if v2 else WindowAttention
        self.w_msa = kind(embed_dims, (window_size,) * 2, num_heads)
        self.w_msa.embed_dims = embed_dims
        self.drop = drop_path(rate)
        if pad_small_map is not None:
            self.pad_small_map = pad_small_map

    def forward(self, query, hw_shape):
        (height, width), w, shift = hw_shape, self.window_size, self.shift_size
        if not getattr(self, "pad_small_map", True):
            assert min(hw_shape) >= w, "the map is smaller than the window"
            shift = 0 if min(hw_shape) == w else shift
        x = query.view(query.shape[0], height, width, -1)
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        size = x.shape[1:3]
        mask = shift_mask(size, (w, w), (shift, shift)).to(x) if shift else None
        x = self.w_msa(partition(x.roll((-shift, -shift), (1, 2)), (w, w)), mask=mask)
        x = reverse(x, (w, w), size).roll((shift, shift), (1, 2))[:, :height, :width]
        return self.drop(x.flatten(1, 2))


class SwinBlock(nn.Module):
    def __init__(self, dim, num_heads, window_size, shift, rate=0.0, **options):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = ShiftWindowMSA(dim, num_heads, window_size, window_size // 2 if shift else 0, rate, **options)
        self.ffn = Mlp(dim, 2 * dim)

    def forward(self, x, hw_shape):
        x = x + self.attn(self.norm1(x), hw_shape)
        return x + self.ffn(self.norm2(x))
