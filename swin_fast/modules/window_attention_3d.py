"""Window attention over time, height and width, in windows that may be smaller than those of the bias table."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from .checks import check_size
from .policy import DEFAULT_3D
from .window_attention import WindowAttention


class WindowAttention3D(WindowAttention):
    """Multi-head self-attention inside 3D windows, with a relative position bias (Liu et al., Video Swin, 2022).

    Takes the place of Video Swin's ``WindowAttention3D``: same arguments, shapes and state_dict keys. No attention
    matrix is stored.

    Args:
        dim, num_heads, qk_scale, attn_drop, proj_drop: as in `WindowAttention`.
        window_size: (Wd, Wh, Ww), the tokens of a window; an int means all three.
        qkv_bias: give the qkv Linear a bias.
        policy: a `WindowPolicy` or its name, for clamped_bias, pad_order, padding and mask_value.
    """

    axes = 3
    default_policy = DEFAULT_3D

    def __init__(
        self, dim, window_size, num_heads, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0, policy=None
    ):
        super().__init__(dim, window_size, num_heads, qkv_bias, qk_scale, attn_drop, proj_drop, policy)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        shift_size: int | Sequence[int] = 0,
        window_size: Sequence[int] | None = None,
    ) -> Tensor:
        """As `WindowAttention.forward`, on windows (num_windows * B, N, C) or a channels-last map (B, D, H, W, C).

        `window_size` is the window to use instead of the module's own, no larger along any axis; the bias table stays,
        and the policy's clamped_bias says how it is read.
        """
        window = self.window_size if window_size is None else check_size("window_size", window_size, 3)
        if any(w > own for w, own in zip(window, self.window_size, strict=True)):
            raise ValueError(f"window_size must be at most {self.window_size}, that of the bias table, got {window}")
        return self.attend(x, mask, shift_size, window)

    def position_bias(self, window: tuple[int, ...]) -> dict[str, Tensor]:
        table, own = self.relative_position_bias_table, self.window_size
        if window == own:
            return {"bias_table": table}
        if self.policy.clamped_bias == "sliced":
            tokens = prod(window)
            return {"bias_table": table, "bias_index": self.relative_position_index[:tokens, :tokens]}
        table = table.unflatten(0, [2 * w - 1 for w in own])
        for axis, (w, o) in enumerate(zip(window, own, strict=True)):
            table = table.narrow(axis, o - w, 2 * w - 1)  # offsets 1 - w to w - 1
        return {"bias_table": table.flatten(0, 2)}
