"""Video-Swin's block, and MONAI's (2D and 3D), which was made from it.

An axis no longer than its window becomes the window and is not shifted, each axis by itself; the bias of such a window
is read through ``relative_position_index[:N, :N]``. Zeros are padded after norm1, before the roll.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .attention import bias_index, softmax_attention, why_not
from .swap import Fused, own_road


def clamp(grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and shift of a map of `grid`."""
    pairs = [(g, 0) if g <= w else (w, s) for g, w, s in zip(grid, window, shift, strict=True)]
    return tuple(w for w, _ in pairs), tuple(s for _, s in pairs)


class Block(Fused):
    replaces = ("forward", "forward_part1")

    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn = module.attn
        head_dim = module.dim // attn.num_heads
        return why_not(head_dim, module.window_size, module.shift_size, attn.attn_drop)

    def forward_part1(self, x: Tensor, mask_matrix: Tensor | None) -> Tensor:
        if own_road(self, x, ("attn", "attn.attn_drop", "attn.softmax")):
            return super().forward_part1(x, self._mask(x) if mask_matrix is None else mask_matrix)
        x = self.norm1(x)
        window, shift = clamp(x.shape[1:-1], self.window_size, self.shift_size)
        index = bias_index(self.attn.relative_position_index, window)
        return softmax_attention(self.attn, x, window, shift, index, "pad_then_roll")

    def _mask(self, x: Tensor) -> Tensor | None:
        """What the library's own road needs, where the layer above has left it out: MONAI's `Layer`."""
        return None
