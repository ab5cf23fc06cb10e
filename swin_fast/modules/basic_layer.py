"""One stage of a Swin Transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .block import SwinTransformerBlock
from .checks import check_int, check_size


class BasicLayer(nn.Module):
    """Blocks without and with a shift of half a window in turn, then `downsample`; the original's arguments and keys.

    Args:
        dim, input_resolution, num_heads, window_size, mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, norm_layer,
            fused_window_process: as in `SwinTransformerBlock`.
        depth: number of blocks.
        drop_path: stochastic depth rate, one for all blocks or one each.
        downsample: class called as ``downsample(input_resolution, dim=dim, norm_layer=norm_layer)``, such as
            `PatchMerging`; None for no downsampling.
        use_checkpoint: recompute the blocks in the backward instead of keeping their activations.
    """

    def __init__(
        self, dim, input_resolution, depth, num_heads, window_size, mlp_ratio=4.0, qkv_bias=True, qk_scale=None,
        drop=0.0, attn_drop=0.0, drop_path=0.0, norm_layer=nn.LayerNorm, downsample=None, use_checkpoint=False,
        fused_window_process=False,
    ):  # fmt: skip
        super().__init__()
        self.dim = dim
        self.input_resolution = check_size("input_resolution", input_resolution)
        self.depth = check_int("depth", depth)
        self.use_checkpoint = use_checkpoint
        window_size = check_int("window_size", window_size)
        rates = list(drop_path) if isinstance(drop_path, Sequence) else [drop_path] * depth
        if len(rates) != depth:
            raise ValueError(f"drop_path must be a number or one for each of the {depth} blocks, got {len(rates)}")
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim, input_resolution, num_heads, window_size, shift_size=window_size // 2 if i % 2 else 0,
                mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale, drop=drop, attn_drop=attn_drop,
                drop_path=rate, norm_layer=norm_layer, fused_window_process=fused_window_process,
            )
            for i, rate in enumerate(rates)
        )  # fmt: skip
        self.downsample = None
        if downsample is not None:
            self.downsample = downsample(input_resolution, dim=dim, norm_layer=norm_layer)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """The map that a map of `size` leaves the stage as."""
        return (size[0], size[1]) if self.downsample is None else self.downsample.output_size(size)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> the same shape, or `downsample`'s; `size` is (H, W), `input_resolution` if None."""
        for block in self.blocks:
            x = checkpoint(block, x, size, use_reentrant=False) if self.use_checkpoint else block(x, size)
        return x if self.downsample is None else self.downsample(x, size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, input_resolution={self.input_resolution}, depth={self.depth}"
