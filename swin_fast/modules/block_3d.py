"""One block and one stage of a Swin Transformer over time, height and width."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..geometry import to_axes
from .basic_layer import drop_path_rates
from .checks import check_int, check_map, check_size
from .mlp import DropPath, Mlp
from .policy import DEFAULT_3D, to_policy
from .window_attention_3d import WindowAttention3D


class SwinTransformerBlock3D(nn.Module):
    """LayerNorm, (shifted) window attention, residual; LayerNorm, MLP, residual, on a map (B, D, H, W, C).

    Takes the place of Video Swin's ``SwinTransformerBlock3D``: same arguments and state_dict keys.

    Args:
        dim: channels C.
        num_heads: attention heads.
        window_size, shift_size: tokens along (D, H, W), 0 <= shift < window.
        mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, drop_path, act_layer, norm_layer: as in `SwinTransformerBlock`.
        use_checkpoint: recompute the block in the backward instead of keeping its activations.
        policy: a `WindowPolicy` or its name. By default, in every call, an axis at most as long as its window takes the
            axis as window and is not shifted, each axis by itself, and the bias is the one of each offset; "video"
            reads it as Video Swin does.
    """

    def __init__(
        self, dim, num_heads, window_size=(2, 7, 7), shift_size=(0, 0, 0), mlp_ratio=4.0, qkv_bias=True, qk_scale=None,
        drop=0.0, attn_drop=0.0, drop_path=0.0, act_layer=nn.GELU, norm_layer=nn.LayerNorm, use_checkpoint=False,
        policy=None,
    ):  # fmt: skip
        super().__init__()
        self.dim = check_int("dim", dim)
        self.num_heads = num_heads
        self.window_size = check_size("window_size", window_size, 3)
        self.shift_size = to_axes(shift_size, 3, "shift_size")
        if any(not 0 <= s < w for s, w in zip(self.shift_size, self.window_size, strict=True)):
            raise ValueError(
                f"shift_size must be at least 0 and below window_size {self.window_size}, got {self.shift_size}"
            )
        self.mlp_ratio = mlp_ratio
        self.use_checkpoint = use_checkpoint
        self.policy = to_policy(policy, DEFAULT_3D)
        if self.policy.clamp == "original" or self.policy.shift in ("built", "shortest"):
            raise ValueError(f"policy must clamp per axis or not at all, and shift by the map, got {self.policy}")
        if self.policy.shift == "always" and self.policy.clamp != "none":
            raise ValueError(f"policy must not clamp (clamp='none') where it always shifts, got {self.policy}")
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention3D(
            dim, self.window_size, num_heads, qkv_bias, qk_scale, attn_drop, drop, self.policy
        )  # fmt: skip
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> the same shape; the map may be of any size."""
        return checkpoint(self._run, x, use_reentrant=False) if self.use_checkpoint else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        window, shift = self.policy.fit(self.window_size, self.shift_size, check_map(x, self.dim))
        if self.policy.shift == "always":
            shift = self.shift_size
        x = x + self.drop_path(self.attn(self.norm1(x), None, shift, window))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def extra_repr(self) -> str:
        text = (
            f"dim={self.dim}, num_heads={self.num_heads}, window_size={self.window_size}, "
            f"shift_size={self.shift_size}, mlp_ratio={self.mlp_ratio}"
        )
        return text if self.policy == DEFAULT_3D else f"{text}, policy={self.policy}"


class BasicLayer3D(nn.Module):
    """Blocks without and with a shift of half a window in turn, then `downsample`; Video Swin's ``BasicLayer``.

    Args:
        dim, num_heads, window_size, mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, norm_layer, use_checkpoint, policy:
            as in `SwinTransformerBlock3D`.
        depth: number of blocks.
        drop_path: stochastic depth rate, one for all blocks or one each.
        downsample: class called as ``downsample(dim=dim, norm_layer=norm_layer)``, such as `PatchMerging3D`; None for
            no downsampling.
    """

    def __init__(
        self, dim, depth, num_heads, window_size=(1, 7, 7), mlp_ratio=4.0, qkv_bias=False, qk_scale=None, drop=0.0,
        attn_drop=0.0, drop_path=0.0, norm_layer=nn.LayerNorm, downsample=None, use_checkpoint=False, policy=None,
    ):  # fmt: skip
        super().__init__()
        self.dim = check_int("dim", dim)
        self.window_size = check_size("window_size", window_size, 3)
        self.shift_size = tuple(w // 2 for w in self.window_size)
        self.depth = check_int("depth", depth)
        self.blocks = nn.ModuleList(
            SwinTransformerBlock3D(
                dim, num_heads, self.window_size, self.shift_size if i % 2 else 0, mlp_ratio, qkv_bias, qk_scale, drop,
                attn_drop, rate, norm_layer=norm_layer, use_checkpoint=use_checkpoint, policy=policy,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth))
        )  # fmt: skip
        self.downsample = None if downsample is None else downsample(dim=dim, norm_layer=norm_layer)

    def output_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """The map that a map of `size` leaves the stage as."""
        return tuple(size) if self.downsample is None else self.downsample.output_size(size)

    def forward(self, x: Tensor, also_blocks: bool = False):
        """(B, D, H, W, C) -> `downsample`'s shape; with `also_blocks`, also the map from before the downsampling."""
        for block in self.blocks:
            x = block(x)
        out = x if self.downsample is None else self.downsample(x)
        return (out, x) if also_blocks else out

    def extra_repr(self) -> str:
        return f"dim={self.dim}, depth={self.depth}, window_size={self.window_size}"
