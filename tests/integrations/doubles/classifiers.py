"""Stand-ins for Swin-Transformer V1 and V2, the detection backbone and Video-Swin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .parts import (
    Mlp,
    PatchEmbed,
    PatchMerging,
    WindowAttention,
    WindowAttentionV2,
    drop_path,
    partition,
    reverse,
    shift_mask,
)


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


class SwinTransformerBlock(nn.Module):
    """V1: the map has one size, and a window as long as its shorter side is not shifted on either axis."""

    def __init__(
        self, dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, qkv_bias=True, qk_scale=None,
        attn_drop=0.0, rate=0.0,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.input_resolution = dim, tuple(input_resolution)
        if min(input_resolution) <= window_size:
            window_size, shift_size = min(input_resolution), 0
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = self.attention(qkv_bias=qkv_bias, qk_scale=qk_scale, num_heads=num_heads, attn_drop=attn_drop)
        self.drop_path = drop_path(rate)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        mask = shift_mask(self.input_resolution, (window_size,) * 2, (shift_size,) * 2) if shift_size else None
        self.register_buffer("attn_mask", mask)

    def attention(self, **options):
        return WindowAttention(self.dim, (self.window_size,) * 2, **options)

    def windows(self, x):
        window, back = (self.window_size,) * 2, (-self.shift_size,) * 2
        x = x.view(x.shape[0], *self.input_resolution, -1).roll(back, (1, 2))
        x = reverse(self.attn(partition(x, window), mask=self.attn_mask), window, self.input_resolution)
        return x.roll((self.shift_size,) * 2, (1, 2)).flatten(1, 2)

    def forward(self, x):
        x = x + self.drop_path(self.windows(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinTransformerV2Block(SwinTransformerBlock):
    def __init__(self, *args, pretrained_window_size=0, **options):
        self.pretrained = (pretrained_window_size,) * 2
        super().__init__(*args, **options)

    def attention(self, qk_scale, **options):
        return WindowAttentionV2(self.dim, (self.window_size,) * 2, pretrained_window_size=self.pretrained, **options)

    def forward(self, x):
        x = x + self.drop_path(self.norm1(self.windows(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class Layer(nn.Module):
    def __init__(self, blocks, resolution, downsample):
        super().__init__()
        self.blocks, self.downsample, self.resolution = nn.ModuleList(blocks), downsample, resolution

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x.unflatten(1, self.resolution)).flatten(1, 2)


class SwinTransformer(nn.Module):
    """V1, and V2 with `pretrained_window_sizes`."""

    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depths, num_heads, window_size, mlp_ratio,
        drop_path_rate, patch_norm=True, ape=False, pretrained_window_sizes=None, **options,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = PatchEmbed(pair(patch_size), in_chans, embed_dim, patch_norm)
        size = tuple(n // p for n, p in zip(pair(img_size), pair(patch_size), strict=True))
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, size[0] * size[1], embed_dim)) if ape else None
        self.layers = nn.ModuleList()
        v2 = pretrained_window_sizes is not None
        kind = SwinTransformerV2Block if v2 else SwinTransformerBlock
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            extra = {"pretrained_window_size": pretrained_window_sizes[i]} if v2 else {}
            blocks = [
                kind(embed_dim, size, heads, window_size, b % 2 * (window_size // 2), mlp_ratio, rate=drop_path_rate,
                     **options, **extra)
                for b in range(depth)
            ]  # fmt: skip
            last = i == len(depths) - 1
            self.layers.append(Layer(blocks, size, None if last else PatchMerging(embed_dim, v2)))
            if not last:
                embed_dim, size = 2 * embed_dim, tuple(n // 2 for n in size)
        self.norm, self.head = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes)

    def forward(self, x):
        x = self.patch_embed(x).flatten(1, 2)
        if self.absolute_pos_embed is not None:
            x = x + self.absolute_pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class DetectionBlock(nn.Module):
    """Windows are padded before the roll, shift and mask stay however small the map; the layer tells the size."""

    def __init__(self, dim, num_heads, window_size, shift_size, mlp_ratio, rate=0.0):
        super().__init__()
        self.dim, self.window_size, self.shift_size = dim, window_size, shift_size
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (window_size,) * 2, num_heads)
        self.drop_path = drop_path(rate)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.H = self.W = None

    def forward(self, x, mask_matrix):
        height, width, w = self.H, self.W, self.window_size
        y = self.norm1(x).view(x.shape[0], height, width, -1)
        y = F.pad(y, (0, 0, 0, -width % w, 0, -height % w))
        size, back = y.shape[1:3], (-self.shift_size,) * 2
        y = partition(y.roll(back, (1, 2)), (w, w))
        y = reverse(self.attn(y, mask=mask_matrix if self.shift_size else None), (w, w), size)
        y = y.roll((self.shift_size,) * 2, (1, 2))[:, :height, :width].flatten(1, 2)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DetectionLayer(nn.Module):
    def __init__(self, blocks, downsample):
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample

    def forward(self, x):
        """(B, H, W, C) -> the map and what is merged of it"""
        size, w = x.shape[1:3], self.blocks[0].window_size
        mask = shift_mask([n + -n % w for n in size], (w, w), (w // 2,) * 2).to(x)
        tokens = x.flatten(1, 2)
        for block in self.blocks:
            block.H, block.W = size
            tokens = block(tokens, mask)
        x = tokens.unflatten(1, size)
        return x, x if self.downsample is None else self.downsample(x)


class DetectionSwin(nn.Module):
    def __init__(
        self, pretrain_img_size, patch_size, in_chans, embed_dim, depths, num_heads, window_size, mlp_ratio,
        drop_path_rate, out_indices, ape=False,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = PatchEmbed(pair(patch_size), in_chans, embed_dim)
        side = pretrain_img_size // patch_size
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side)) if ape else None
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim * 2**i
            blocks = [
                DetectionBlock(dim, heads, window_size, b % 2 * (window_size // 2), mlp_ratio, drop_path_rate)
                for b in range(depth)
            ]
            self.layers.append(DetectionLayer(blocks, PatchMerging(dim) if i < len(depths) - 1 else None))
            self.add_module(f"norm{i}", nn.LayerNorm(dim))

    def forward(self, x):
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            resized = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + resized.movedim(1, -1)
        outputs = []
        for i, layer in enumerate(self.layers):
            whole, x = layer(x)
            outputs.append(self.get_submodule(f"norm{i}")(whole).movedim(-1, 1))
        return tuple(outputs)


class VideoBlock(nn.Module):
    """Each axis by itself: one no longer than its window becomes the window and is not shifted."""

    def __init__(self, dim, num_heads, window_size, shift_size, mlp_ratio, rate=0.0):
        super().__init__()
        self.dim, self.window_size, self.shift_size = dim, tuple(window_size), tuple(shift_size)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads)
        self.drop_path = drop_path(rate)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward_part1(self, x, mask_matrix):
        x = self.norm1(x)
        grid = x.shape[1:4]
        window, shift = clamp(grid, self.window_size, self.shift_size)
        x = F.pad(
            x, [n for g, w in zip((1, *reversed(grid)), (1, *reversed(window)), strict=True) for n in (0, -g % w)]
        )
        size = x.shape[1:4]
        x = partition(x.roll([-s for s in shift], (1, 2, 3)), window)
        x = reverse(self.attn(x, mask=mask_matrix if any(shift) else None), window, size)
        return x.roll(shift, (1, 2, 3))[:, : grid[0], : grid[1], : grid[2]]

    def forward_part2(self, x):
        return self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x, mask_matrix):
        x = x + self.drop_path(self.forward_part1(x, mask_matrix))
        return x + self.forward_part2(x)


def clamp(grid, window, shift):
    window, shift = list(window), list(shift)
    for axis, n in enumerate(grid):
        if n <= window[axis]:
            window[axis], shift[axis] = n, 0
    return tuple(window), tuple(shift)


class VideoSwin(nn.Module):
    def __init__(
        self,
        patch_size,
        in_chans,
        embed_dim,
        depths,
        num_heads,
        window_size,
        mlp_ratio,
        drop_path_rate,
        patch_norm=False,
    ):
        super().__init__()
        self.window_size = tuple(window_size)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, patch_norm)
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim, layer = embed_dim * 2**i, nn.Module()
            shifts = [(0, 0, 0), tuple(w // 2 for w in window_size)]
            layer.blocks = nn.ModuleList(
                VideoBlock(dim, heads, window_size, shifts[b % 2], mlp_ratio, drop_path_rate) for b in range(depth)
            )
            layer.downsample = PatchMerging(dim) if i < len(depths) - 1 else None
            self.layers.append(layer)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.patch_embed(x)
        for layer in self.layers:
            shift = tuple(w // 2 for w in self.window_size)
            window, shift = clamp(x.shape[1:4], self.window_size, shift)
            mask = shift_mask([g + -g % w for g, w in zip(x.shape[1:4], window, strict=True)], window, shift).to(x)
            for block in layer.blocks:
                x = block(x, mask)
            x = x if layer.downsample is None else layer.downsample(x)
        return self.norm(x).movedim(-1, 1)
