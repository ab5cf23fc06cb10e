"""MONAI's Swin (SwinUNETR), 2D and 3D: the block is Video-Swin's, and the layer makes a mask that nobody reads."""

from __future__ import annotations

import sys

from torch import Tensor

from ..geometry import padded_size
from . import video
from .rules import Rule
from .swap import Fused, own_road

MODULE = "monai.networks.nets.swin_unetr"


class Block(video.Block):
    def _mask(self, x: Tensor) -> Tensor:
        window, shift = video.clamp(x.shape[1:-1], self.window_size, self.shift_size)
        size = list(padded_size(x.shape[1:-1], window))
        return sys.modules[MODULE].compute_mask(size, window, shift, x.device)


class Layer(Fused):
    what = "no mask tensor"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C', *grid'), without the (num_windows, N, N) mask, which is larger than the map."""
        if own_road(self, x, ()) or not all(isinstance(block, Block) for block in self.blocks):
            return super().forward(x)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, None)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


RULES = (
    Rule(MODULE, "SwinTransformerBlock", Block, {"attn": "WindowAttention"}),
    Rule(MODULE, "BasicLayer", Layer),
)
