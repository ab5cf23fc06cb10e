"""One stage of a Swin Transformer, of V1 and of V2."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .block import SwinTransformerBlock, SwinTransformerBlockV2
from .checks import check_int, check_resolution


def drop_path_rates(drop_path: float | Sequence[float], depth: int) -> list[float]:
    """One stochastic depth rate for each block."""
    rates = list(drop_path) if isinstance(drop_path, Sequence) else [drop_path] * depth
    if len(rates) != depth:
        raise ValueError(f"drop_path must be a number or one for each of the {depth} blocks, got {len(rates)}")
    return rates


class Stage(nn.Module):
    """What the stages of images share: blocks in turn, then the downsampling."""

    def __init__(self, dim, input_resolution, blocks, norm_layer, downsample, use_checkpoint):
        super().__init__()
        self.dim = dim
        self.input_resolution = check_resolution(input_resolution)
        self.depth = len(blocks)
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None
        if downsample is not None:
            self.downsample = downsample(input_resolution, dim=dim, norm_layer=norm_layer)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """The map that a map of `size` leaves the stage as."""
        return (size[0], size[1]) if self.downsample is None else self.downsample.output_size(size)

    def forward(self, x: Tensor, size: Sequence[int] | None = None, also_blocks: bool = False):
        """Run the stage.

        Args:
            x: tokens (B, H*W, C).
            size: (H, W), `input_resolution` if None.
            also_blocks: return what the blocks gave, too, from before the downsampling.

        Returns:
            x's shape, or `downsample`'s; with `also_blocks` that and (B, H*W, C).
        """
        for block in self.blocks:
            x = checkpoint(block, x, size, use_reentrant=False) if self.use_checkpoint else block(x, size)
        out = x if self.downsample is None else self.downsample(x, size)
        return (out, x) if also_blocks else out

    def extra_repr(self) -> str:
        return f"dim={self.dim}, input_resolution={self.input_resolution}, depth={self.depth}"


class BasicLayer(Stage):
    """Blocks without and with a shift of half a window in turn, then `downsample`; the original's arguments and keys.

    Args:
        dim, input_resolution, num_heads, window_size, mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, norm_layer,
            fused_window_process, policy: as in `SwinTransformerBlock`.
        depth: number of blocks.
        drop_path: stochastic depth rate, one for all blocks or one each.
        downsample: class called as ``downsample(input_resolution, dim=dim, norm_layer=norm_layer)``, such as
            `PatchMerging`; None for no downsampling.
        use_checkpoint: recompute the blocks in the backward instead of keeping their activations.
    """

    def __init__(
        self, dim, input_resolution, depth, num_heads, window_size, mlp_ratio=4.0, qkv_bias=True, qk_scale=None,
        drop=0.0, attn_drop=0.0, drop_path=0.0, norm_layer=nn.LayerNorm, downsample=None, use_checkpoint=False,
        fused_window_process=False, policy=None,
    ):  # fmt: skip
        window_size = check_int("window_size", window_size)
        blocks = [
            SwinTransformerBlock(
                dim, input_resolution, num_heads, window_size, shift_size=window_size // 2 if i % 2 else 0,
                mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale, drop=drop, attn_drop=attn_drop,
                drop_path=rate, norm_layer=norm_layer, fused_window_process=fused_window_process, policy=policy,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, check_int("depth", depth)))
        ]  # fmt: skip
        super().__init__(dim, input_resolution, blocks, norm_layer, downsample, use_checkpoint)


class BasicLayerV2(Stage):
    """The stage of Swin V2; the original's arguments and keys.

    Args:
        dim, input_resolution, depth, num_heads, window_size, mlp_ratio, qkv_bias, drop, attn_drop, drop_path,
            norm_layer, downsample, use_checkpoint, policy: as in `BasicLayer`, with `PatchMergingV2`.
        pretrained_window_size: side of the window in pre-training; 0 for none. Two ints for a rectangle.
        extra_norm_period: every how many blocks one more norm follows, on the main branch; 0 for never.
    """

    def __init__(
        self, dim, input_resolution, depth, num_heads, window_size, mlp_ratio=4.0, qkv_bias=True, drop=0.0,
        attn_drop=0.0, drop_path=0.0, norm_layer=nn.LayerNorm, downsample=None, use_checkpoint=False,
        pretrained_window_size=0, extra_norm_period=0, policy=None,
    ):  # fmt: skip
        window_size = check_int("window_size", window_size)
        period = check_int("extra_norm_period", extra_norm_period, least=0)
        blocks = [
            SwinTransformerBlockV2(
                dim, input_resolution, num_heads, window_size, shift_size=window_size // 2 if i % 2 else 0,
                mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, drop=drop, attn_drop=attn_drop, drop_path=rate,
                norm_layer=norm_layer, pretrained_window_size=pretrained_window_size,
                extra_norm=period > 0 and (i + 1) % period == 0, policy=policy,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, check_int("depth", depth)))
        ]  # fmt: skip
        super().__init__(dim, input_resolution, blocks, norm_layer, downsample, use_checkpoint)

    def zero_norms(self) -> None:
        """Start every block as the identity: its norms' weights and biases at 0, as the original does."""
        for block in self.blocks:
            for norm in (block.norm1, block.norm2):
                nn.init.zeros_(norm.weight)
                nn.init.zeros_(norm.bias)
