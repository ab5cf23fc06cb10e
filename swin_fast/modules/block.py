"""One Swin Transformer block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..geometry import padded_size
from ..reference import shift_regions
from .checks import check_int, check_size, check_tokens
from .mlp import DropPath, Mlp
from .window_attention import WindowAttention


class SwinTransformerBlock(nn.Module):
    """LayerNorm, (shifted) window attention, residual; LayerNorm, MLP, residual (Liu et al., 2021, equation 3).

    Takes the place of the original ``SwinTransformerBlock``: same arguments, shapes and state_dict keys.

    Args:
        dim: channels C.
        input_resolution: (H, W), the map that the block is built for.
        num_heads: attention heads.
        window_size: side of the window. Where min(H, W) <= window_size, the window becomes min(H, W) and a map of
            `input_resolution` is not shifted along either axis, as in the original.
        shift_size: cyclic shift in tokens, 0 <= shift_size < window_size.
        mlp_ratio: hidden channels of the MLP, as a multiple of `dim`.
        qkv_bias, qk_scale, attn_drop: as in `WindowAttention`.
        drop: dropout after the projection and in the MLP.
        drop_path: stochastic depth rate of both branches.
        act_layer, norm_layer: called as ``act_layer()`` and ``norm_layer(dim)``.
        fused_window_process: has no effect (everything is fused); here so that calls to the original keep working.

    A map of another size is padded to whole windows (padded keys attended) and shifted along each axis that holds more
    than one window. ``attn_mask`` is in the state_dict because the original's is; the kernel takes the mask from
    coordinates, so a state_dict with another one is refused.
    """

    def __init__(
        self, dim, input_resolution, num_heads, window_size=7, shift_size=0, mlp_ratio=4.0, qkv_bias=True,
        qk_scale=None, drop=0.0, attn_drop=0.0, drop_path=0.0, act_layer=nn.GELU, norm_layer=nn.LayerNorm,
        fused_window_process=False,
    ):  # fmt: skip
        super().__init__()
        self.dim = check_int("dim", dim)
        self.input_resolution = check_size("input_resolution", input_resolution)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        window_size = check_int("window_size", window_size)
        if check_int("shift_size", shift_size, least=0) >= window_size:
            raise ValueError(f"shift_size must be below window_size={window_size}, got {shift_size}")
        shortest = min(self.input_resolution)
        clamped = shortest <= window_size
        self.window_size = shortest if clamped else window_size
        self.shift_size = 0 if clamped else shift_size
        self._shift_elsewhere = min(shift_size, self.window_size // 2) if clamped else shift_size

        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, (self.window_size,) * 2, num_heads, qkv_bias, qk_scale, attn_drop, drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        self.register_buffer("attn_mask", self._shift_mask() if self.shift_size else None)  # (num_windows, N, N)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> (B, H*W, C); `size` is (H, W), `input_resolution` if None."""
        size = check_tokens(x, self.dim, size, self.input_resolution)
        y = self.norm1(x).reshape(x.shape[0], *size, self.dim)
        y = self.attn(y, shift_size=self._shift(size)).reshape(x.shape)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _shift(self, size: tuple[int, int]) -> tuple[int, int]:
        """The shift along each axis of a map: none along an axis with one window, the original's at its resolution."""
        own = self.input_resolution
        # the size is compared only where the two rules differ, so that a graph compiled for any size has no such guard
        if min(own) == self.window_size < max(own) and size == own:
            return 0, 0
        height, width = (0 if n <= self.window_size else self._shift_elsewhere for n in size)
        return height, width

    def _shift_mask(self) -> Tensor:
        window, shift = (self.window_size,) * 2, (self.shift_size,) * 2
        regions = shift_regions(padded_size(self.input_resolution, window), window, shift)
        across = regions[:, :, None] != regions[:, None, :]
        return torch.zeros(across.shape, device=across.device).masked_fill(across, -100.0)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        key = prefix + "attn_mask"
        loaded = state_dict.get(key)
        if loaded is not None and self.attn_mask is not None and not loaded.is_meta:
            with torch.device("cpu"):  # the buffer itself may hold nothing yet: a module made on the meta device
                standard = self._shift_mask()
            if loaded.shape == standard.shape and not torch.equal(loaded.cpu().to(standard.dtype), standard):
                raise ValueError(
                    f"{key} must be the shift mask of a {self.input_resolution} map, windows of {self.window_size}, "
                    f"shift {self.shift_size}, with 0 and -100; got another one"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, input_resolution={self.input_resolution}, num_heads={self.num_heads}, "
            f"window_size={self.window_size}, shift_size={self.shift_size}, mlp_ratio={self.mlp_ratio}"
        )
