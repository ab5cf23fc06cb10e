"""The blocks of the original family, which people copy into their own tree, so they are recognised by structure.

Swin-Transformer V1 and V2, the detection code, SwinIR (KAIR) and HAT; Video-Swin's is in `video`. All pad right and
bottom before the roll, where they pad at all; V1, V2, SwinIR and HAT raise where the window does not divide the map,
and here the padded keys are attended as everywhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import bias_index, cosine_attention, softmax_attention, why_not
from .swap import Fused, own_road

ORDER = "pad_then_roll"
SKIPPED = "attn", "attn.attn_drop", "attn.softmax"
LARGEST_LOGIT = float(torch.tensor(100.0, dtype=torch.float32, device="cpu").log())  # the original's is a float32 log


class _Block(Fused):
    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn = module.attn
        window, shift = tuple(attn.window_size), (module.shift_size,) * 2
        if window != (module.window_size,) * 2:
            return f"its attention has windows of {window}, the block of {module.window_size}"
        return why_not(module.dim // attn.num_heads, window, shift, attn.attn_drop)

    def _attend(self, x: Tensor, size: tuple[int, int], index: Tensor | None = None) -> Tensor:
        """x (B, H * W, C) -> (B, H * W, C)"""
        window, shift = (self.window_size,) * 2, (self.shift_size,) * 2
        index = bias_index(self.attn.relative_position_index if index is None else index, window)
        y = x.view(x.shape[0], *size, x.shape[-1])
        if hasattr(self.attn, "logit_scale"):
            y = cosine_attention(self.attn, y, window, shift, index, ORDER, LARGEST_LOGIT)
        else:
            y = softmax_attention(self.attn, y, window, shift, index, ORDER)
        return y.view(x.shape)

    def _rest(self, shortcut: Tensor, x: Tensor) -> Tensor:
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class BlockV1(_Block):
    def forward(self, x: Tensor) -> Tensor:
        if own_road(self, x, SKIPPED, _other_size(self, x)):
            return super().forward(x)
        return self._rest(x, self._attend(self.norm1(x), self.input_resolution))


class BlockV2(_Block):
    what = "cosine window attention"

    def forward(self, x: Tensor) -> Tensor:
        if own_road(self, x, SKIPPED, _other_size(self, x)):
            return super().forward(x)
        x = x + self.drop_path(self.norm1(self._attend(x, self.input_resolution)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


def _other_size(module: nn.Module, x: Tensor) -> str:
    """The original refuses a map of another size, in its own words."""
    height, width = module.input_resolution
    return "" if not isinstance(x, Tensor) or x.shape[1] == height * width else "the map is not of input_resolution"


class DetectionBlock(_Block):
    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        if own_road(self, x, SKIPPED):
            return super().forward(x, mask_matrix)
        return self._rest(x, self._attend(self.norm1(x), (self.H, self.W)))


class RestorationBlock(_Block):
    """SwinIR's."""

    def forward(self, x: Tensor, x_size: tuple[int, int]) -> Tensor:
        if own_road(self, x, SKIPPED):
            return super().forward(x, x_size)
        return self._rest(x, self._attend(self.norm1(x), x_size))


class HybridBlock(_Block):
    """HAT's, with a convolution beside the attention; index and mask come from the model."""

    def forward(self, x: Tensor, x_size: tuple[int, int], rpi_sa: Tensor, attn_mask: Tensor) -> Tensor:
        if own_road(self, x, SKIPPED):
            return super().forward(x, x_size, rpi_sa, attn_mask)
        y = self.norm1(x)
        conv_x = self.conv_block(y.view(x.shape[0], *x_size, -1).permute(0, 3, 1, 2))
        conv_x = conv_x.permute(0, 2, 3, 1).reshape(x.shape)
        x = x + self.drop_path(self._attend(y, x_size, rpi_sa)) + conv_x * self.conv_scale
        return x + self.drop_path(self.mlp(self.norm2(x)))
