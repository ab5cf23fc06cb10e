"""One Swin Transformer block, of V1 and of V2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..geometry import padded_size, to_axes
from ..reference import shift_regions
from .checks import check_int, check_resolution, check_tokens
from .mlp import DropPath, Mlp
from .policy import DEFAULT_2D, to_policy
from .window_attention import WindowAttention
from .window_attention_v2 import WindowAttentionV2


class ShiftedWindowBlock(nn.Module):
    """What the 2D blocks share: which windows and shifts a map gets, and the buffer of the original's shift mask."""

    def __init__(self, dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, policy):
        super().__init__()
        self.dim = check_int("dim", dim)
        self.input_resolution = check_resolution(input_resolution)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.policy = to_policy(policy)
        window_size = check_int("window_size", window_size)
        if check_int("shift_size", shift_size, least=0) >= window_size:
            raise ValueError(f"shift_size must be below window_size={window_size}, got {shift_size}")
        self._window, self._built_shift = (window_size,) * 2, (shift_size,) * 2
        if self.input_resolution is None:
            if self.policy.shift == "built":
                raise ValueError("input_resolution must be given for the policy shift='built', got None")
        else:
            self._window, self._built_shift = self.policy.fit(self._window, self._built_shift, self.input_resolution)
        self._full_shift = tuple(shift_size if w == window_size else min(shift_size, w // 2) for w in self._window)
        # one int as in the original, two where the axes differ
        self.window_size = self._window[0] if len(set(self._window)) == 1 else self._window
        self.shift_size = self._built_shift[0] if len(set(self._built_shift)) == 1 else self._built_shift

    def register_shift_mask(self) -> None:
        """The original's ``attn_mask``, which the kernel does not read; a block built for no size has none."""
        built = self.input_resolution is not None and any(self._built_shift)
        self.register_buffer("attn_mask", self._shift_mask() if built else None)  # (num_windows, N, N)

    def shift_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The shift along each axis of a map of `size`, by the policy."""
        if self.policy.shift == "always":
            return self._full_shift
        if self.policy.shift == "built":
            return self._built_shift
        if self.policy.shift == "shortest":
            return (0, 0) if min(size) <= min(self._window) else self._full_shift
        own = self.input_resolution
        # the size is compared only where the two rules differ, so that a graph compiled for any size has no such guard
        if own is not None and self.policy.clamp == "original" and min(own) == self._window[0] < max(own):
            if size == own:
                return 0, 0
        height, width = (0 if n <= w else s for n, w, s in zip(size, self._window, self._full_shift, strict=True))
        return height, width

    def attend(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Window attention of the tokens (B, H*W, C) of a map of `size`."""
        return self.attn(x.reshape(-1, *size, self.dim), shift_size=self.shift_of(size)).reshape(x.shape)

    def _shift_mask(self) -> Tensor:
        window, shift = self._window, self._built_shift
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
        text = (
            f"dim={self.dim}, input_resolution={self.input_resolution}, num_heads={self.num_heads}, "
            f"window_size={self.window_size}, shift_size={self.shift_size}, mlp_ratio={self.mlp_ratio}"
        )
        return text if self.policy == DEFAULT_2D else f"{text}, policy={self.policy}"


class SwinTransformerBlock(ShiftedWindowBlock):
    """LayerNorm, (shifted) window attention, residual; LayerNorm, MLP, residual (Liu et al., 2021, equation 3).

    Takes the place of the original ``SwinTransformerBlock``: same arguments, shapes and state_dict keys.

    Args:
        dim: channels C.
        input_resolution: (H, W), the map that the block is built for; None for no size, as in the detection code: then
            the window never shrinks, and there is no ``attn_mask``.
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
        policy: a `WindowPolicy` or its name, for other rules than these.

    A map of another size is padded to whole windows (padded keys attended) and shifted along each axis that holds more
    than one window. ``attn_mask`` is in the state_dict because the original's is; the kernel takes the mask from
    coordinates, so a state_dict with another one is refused.
    """

    def __init__(
        self, dim, input_resolution, num_heads, window_size=7, shift_size=0, mlp_ratio=4.0, qkv_bias=True,
        qk_scale=None, drop=0.0, attn_drop=0.0, drop_path=0.0, act_layer=nn.GELU, norm_layer=nn.LayerNorm,
        fused_window_process=False, policy=None,
    ):  # fmt: skip
        super().__init__(dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, policy)
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, self._window, num_heads, qkv_bias, qk_scale, attn_drop, drop, self.policy)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        self.register_shift_mask()

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> (B, H*W, C); `size` is (H, W), `input_resolution` if None."""
        size = check_tokens(x, self.dim, size, self.input_resolution)
        x = x + self.drop_path(self.attend(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinTransformerBlockV2(ShiftedWindowBlock):
    """Window attention, LayerNorm, residual; MLP, LayerNorm, residual (Liu et al., Swin Transformer V2, 2022).

    Takes the place of the original V2 ``SwinTransformerBlock``: same arguments, shapes and state_dict keys.

    Args:
        dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, drop, attn_drop, drop_path, act_layer,
            norm_layer, policy: as in `SwinTransformerBlock`.
        qkv_bias: as in `WindowAttentionV2`.
        pretrained_window_size: side of the window in pre-training; 0 for none. Two ints for a rectangle.
        extra_norm: one more norm at the end, on the main branch, as in every sixth block of the paper's Swin V2-G.
    """

    def __init__(
        self, dim, input_resolution, num_heads, window_size=7, shift_size=0, mlp_ratio=4.0, qkv_bias=True, drop=0.0,
        attn_drop=0.0, drop_path=0.0, act_layer=nn.GELU, norm_layer=nn.LayerNorm, pretrained_window_size=0,
        extra_norm=False, policy=None,
    ):  # fmt: skip
        super().__init__(dim, input_resolution, num_heads, window_size, shift_size, mlp_ratio, policy)
        pretrained = to_axes(pretrained_window_size, 2, "pretrained_window_size")
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttentionV2(dim, self._window, num_heads, qkv_bias, attn_drop, drop, pretrained, self.policy)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        self.norm3 = norm_layer(dim) if extra_norm else None
        self.register_shift_mask()

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> (B, H*W, C); `size` is (H, W), `input_resolution` if None."""
        size = check_tokens(x, self.dim, size, self.input_resolution)
        x = x + self.drop_path(self.norm1(self.attend(x, size)))
        x = x + self.drop_path(self.norm2(self.mlp(x)))
        return x if self.norm3 is None else self.norm3(x)
