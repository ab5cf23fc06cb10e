"""Stand-ins for SwinIR and for HAT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .parts import Mlp, WindowAttention, drop_path, partition, position_index, reverse, shift_mask


class SwinTransformerBlock(nn.Module):
    """SwinIR's: told the size in the forward; the kept mask is for `input_resolution`, any other is made there."""

    def __init__(self, dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, rate=0.0):
        super().__init__()
        self.dim, self.input_resolution = dim, tuple(input_resolution)
        if min(input_resolution) <= window_size:
            window_size, shift_size = min(input_resolution), 0
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (window_size,) * 2, num_heads)
        self.drop_path = drop_path(rate)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.register_buffer("attn_mask", self.calculate_mask(self.input_resolution) if shift_size else None)

    def calculate_mask(self, x_size):
        return shift_mask(x_size, (self.window_size,) * 2, (self.shift_size,) * 2)

    def forward(self, x, x_size):
        window, shift = (self.window_size,) * 2, (self.shift_size,) * 2
        mask = self.attn_mask if self.input_resolution == tuple(x_size) else self.calculate_mask(x_size).to(x)
        y = self.norm1(x).view(x.shape[0], *x_size, -1).roll([-s for s in shift], (1, 2))
        y = reverse(self.attn(partition(y, window), mask=mask), window, x_size).roll(shift, (1, 2))
        x = x + self.drop_path(y.flatten(1, 2))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ChannelAttention(nn.Module):
    def __init__(self, dim, squeeze):
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, dim // squeeze, 1), nn.ReLU(), nn.Conv2d(dim // squeeze, dim, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return x * self.attention(x)


class ConvolutionBlock(nn.Module):
    def __init__(self, dim, compress, squeeze):
        super().__init__()
        narrow = dim // compress
        self.cab = nn.Sequential(
            nn.Conv2d(dim, narrow, 3, 1, 1), nn.GELU(), nn.Conv2d(narrow, dim, 3, 1, 1), ChannelAttention(dim, squeeze)
        )

    def forward(self, x):
        return self.cab(x)


class HAB(nn.Module):
    """HAT's block: a convolution beside the attention, index and mask from the model."""

    def __init__(
        self, dim, input_resolution, num_heads, window_size, shift_size, compress_ratio, squeeze_factor, conv_scale,
        mlp_ratio, rate=0.0,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.conv_scale = dim, conv_scale
        if min(input_resolution) <= window_size:
            window_size, shift_size = min(input_resolution), 0
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (window_size,) * 2, num_heads, index=False)
        self.conv_block = ConvolutionBlock(dim, compress_ratio, squeeze_factor)
        self.drop_path = drop_path(rate)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x, x_size, rpi_sa, attn_mask):
        window, shift = (self.window_size,) * 2, (self.shift_size,) * 2
        y = self.norm1(x).view(x.shape[0], *x_size, -1)
        beside = self.conv_block(y.movedim(-1, 1)).movedim(1, -1).flatten(1, 2)
        y = partition(y.roll([-s for s in shift], (1, 2)), window)
        y = self.attn(y, rpi=rpi_sa, mask=attn_mask if self.shift_size else None)
        y = reverse(y, window, x_size).roll(shift, (1, 2)).flatten(1, 2)
        x = x + self.drop_path(y) + beside * self.conv_scale
        return x + self.drop_path(self.mlp(self.norm2(x)))


class OCAB(nn.Module):
    """Overlapping cross attention: keys come from a larger window; outside the map they are zeros, and attended."""

    def __init__(self, dim, window_size, overlap_ratio, num_heads, mlp_ratio):
        super().__init__()
        self.window_size, self.num_heads, self.scale = window_size, num_heads, (dim // num_heads) ** -0.5
        self.overlap_win_size = window_size + int(window_size * overlap_ratio)
        margin = (self.overlap_win_size - window_size) // 2
        self.unfold = nn.Unfold(self.overlap_win_size, stride=window_size, padding=margin)
        rows = (window_size + self.overlap_win_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x, x_size, rpi):
        batch, window, heads = x.shape[0], (self.window_size,) * 2, self.num_heads
        q, k, v = self.qkv(self.norm1(x).view(batch, *x_size, -1)).chunk(3, -1)
        q = partition(q, window).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = (
            self.unfold(t.movedim(-1, 1))
            .unflatten(1, (heads, -1, self.overlap_win_size**2))
            .permute(0, 4, 1, 3, 2)
            .flatten(0, 1)
            for t in (k, v)
        )
        attn = (q * self.scale) @ k.transpose(-2, -1) + self.relative_position_bias_table[rpi].permute(2, 0, 1)
        y = (attn.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.proj(reverse(y, window, x_size).flatten(1, 2))
        return x + self.mlp(self.norm2(x))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def image(x, size):
    return x.transpose(1, 2).unflatten(2, size)


class Norm(nn.Module):
    """The patch embedding of both: a norm."""

    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        return self.norm(tokens(x))


class SwinIR(nn.Module):
    """The lightweight road: a convolution and a pixel shuffle at the end, the picture reflected to whole windows."""

    def __init__(
        self,
        upscale,
        img_size,
        window_size,
        img_range,
        depths,
        embed_dim,
        num_heads,
        mlp_ratio,
        drop_path_rate,
        upsampler,
    ):
        super().__init__()
        assert upsampler == "pixelshuffledirect" and img_range == 1.0
        self.window_size, self.upscale, self.mean = window_size, upscale, torch.tensor([0.4488, 0.4371, 0.4040])
        self.conv_first = nn.Conv2d(3, embed_dim, 3, 1, 1)
        self.patch_embed = Norm(embed_dim)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            layer = nn.Module()
            layer.residual_group = nn.Module()
            layer.residual_group.blocks = nn.ModuleList(
                SwinTransformerBlock(
                    embed_dim,
                    (img_size, img_size),
                    heads,
                    window_size,
                    b % 2 * (window_size // 2),
                    mlp_ratio,
                    drop_path_rate,
                )
                for b in range(depth)
            )
            layer.conv = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
            self.layers.append(layer)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
        self.upsample = nn.Sequential(nn.Conv2d(embed_dim, 3 * upscale**2, 3, 1, 1), nn.PixelShuffle(upscale))

    def forward(self, x):
        height, width = x.shape[2:]
        mean = self.mean.to(x).view(1, 3, 1, 1)
        x = F.pad(x, (0, -width % self.window_size, 0, -height % self.window_size), "reflect") - mean
        x = self.conv_first(x)
        size, y = x.shape[2:], self.patch_embed(x)
        for layer in self.layers:
            z = y
            for block in layer.residual_group.blocks:
                z = block(z, tuple(size))
            y = y + tokens(layer.conv(image(z, size)))
        x = x + self.conv_after_body(image(self.norm(y), size))
        return (self.upsample(x) + mean)[:, :, : height * self.upscale, : width * self.upscale]


class HAT(nn.Module):
    """At scale 1, for pictures that windows divide."""

    def __init__(
        self, upscale, img_size, window_size, compress_ratio, squeeze_factor, conv_scale, overlap_ratio, img_range,
        depths, embed_dim, num_heads, mlp_ratio, drop_path_rate, upsampler,
    ):  # fmt: skip
        super().__init__()
        assert upscale == 1 and upsampler == "pixelshuffle" and img_range == 1.0
        self.window_size, self.mean = window_size, torch.tensor([0.4488, 0.4371, 0.4040])
        overlap = window_size + int(window_size * overlap_ratio)
        self.register_buffer("relative_position_index_SA", position_index((window_size,) * 2))
        pairs = torch.arange(window_size**2 * overlap**2).view(window_size**2, -1)
        rows = (window_size + overlap - 1) ** 2
        self.register_buffer("relative_position_index_OCA", pairs % rows)  # any will do, the stored one is loaded
        self.conv_first = nn.Conv2d(3, embed_dim, 3, 1, 1)
        self.patch_embed = Norm(embed_dim)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            layer = nn.Module()
            layer.residual_group = nn.Module()
            layer.residual_group.blocks = nn.ModuleList(
                HAB(embed_dim, (img_size, img_size), heads, window_size, b % 2 * (window_size // 2), compress_ratio,
                    squeeze_factor, conv_scale, mlp_ratio, drop_path_rate)
                for b in range(depth)
            )  # fmt: skip
            layer.residual_group.overlap_attn = OCAB(embed_dim, window_size, overlap_ratio, heads, mlp_ratio)
            layer.conv = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
            self.layers.append(layer)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, 64, 3, 1, 1), nn.LeakyReLU())
        self.conv_last = nn.Conv2d(64, 3, 3, 1, 1)

    def forward(self, x):
        mean = self.mean.to(x).view(1, 3, 1, 1)
        x = self.conv_first(x - mean)
        size, y, w = tuple(x.shape[2:]), self.patch_embed(x), self.window_size
        mask = shift_mask(size, (w, w), (w // 2,) * 2).to(x)
        for layer in self.layers:
            z = y
            for block in layer.residual_group.blocks:
                z = block(z, size, self.relative_position_index_SA, mask)
            z = layer.residual_group.overlap_attn(z, size, self.relative_position_index_OCA)
            y = y + tokens(layer.conv(image(z, size)))
        x = x + self.conv_after_body(image(self.norm(y), size))
        return self.conv_last(self.conv_before_upsample(x)) + mean
