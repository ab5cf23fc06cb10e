"""From a video or a volume to a map of tokens, and from a map to one of half the size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .checks import check_int, check_map, check_size

# which token of a 2 x 2 x 2 group comes when, as offsets (D, H, W)
MERGING_ORDERS = {
    "space": ((0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)),  # Video Swin: time is left as it is
    "monai": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),  # "merging"
    "monai_v2": tuple(product((0, 1), repeat=3)),  # "mergingv2"
}


class PatchEmbed3D(nn.Module):
    """Cut a video into patches and project each one to a token; Video Swin's arguments and state_dict keys.

    Args:
        patch_size: frames and pixels (D, H, W) of a patch, an int means all three.
        in_chans: channels of the video.
        embed_dim: channels C of a token.
        norm_layer: called as ``norm_layer(embed_dim)``; None for no norm.

    A video that the patch does not divide is padded with zeros at the end of each axis.
    """

    def __init__(self, patch_size=(2, 4, 4), in_chans=3, embed_dim=96, norm_layer=None):
        super().__init__()
        self.patch_size = check_size("patch_size", patch_size, 3)
        self.in_chans = check_int("in_chans", in_chans)
        self.embed_dim = check_int("embed_dim", embed_dim)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = None if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, D, H, W) -> (B, Pd, Ph, Pw, C), channels last (Video Swin's own has them first)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        if x.dim() != 5 or x.shape[1] != self.in_chans or prod(x.shape[2:]) < 1:
            raise ValueError(f"x must be a video (B, {self.in_chans}, D, H, W), got {tuple(x.shape)}")
        end, bottom, right = (-n % p for n, p in zip(x.shape[2:], self.patch_size, strict=True))
        if end or bottom or right:
            x = F.pad(x, (0, right, 0, bottom, 0, end))
        x = self.proj(x).permute(0, 2, 3, 4, 1)
        return x.contiguous() if self.norm is None else self.norm(x)


class PatchMerging3D(nn.Module):
    """Join groups of tokens, norm, and project to twice the channels; Video Swin's ``PatchMerging``.

    Args:
        dim: channels C of a token.
        norm_layer: called as ``norm_layer(4 * dim)``, or 8 for groups of 2 x 2 x 2.
        order: which tokens make a group, and in which order. "space" (Video Swin): 2 x 2 of one frame. "monai" and
            "monai_v2": 2 x 2 x 2, in the orders of MONAI's "merging" and "mergingv2".

    A map with an odd side is padded with zeros at the end of each axis that is halved.
    """

    def __init__(self, dim, norm_layer=nn.LayerNorm, order="space"):
        super().__init__()
        self.dim = check_int("dim", dim)
        if order not in MERGING_ORDERS:
            raise ValueError(f"order must be one of {tuple(MERGING_ORDERS)}, got {order!r}")
        self.order = order
        tokens = len(MERGING_ORDERS[order])
        self.reduction = nn.Linear(tokens * dim, 2 * dim, bias=False)
        self.norm = norm_layer(tokens * dim)

    def output_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """The map that a map of `size` becomes."""
        depth, height, width = size
        return depth if self.order == "space" else (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, ceil(H/2), ceil(W/2), 2*C), or ceil(D/2) for groups of 2 x 2 x 2."""
        depth, height, width = check_map(x, self.dim)
        step = 1 if self.order == "space" else 2
        if depth % step or height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2, 0, depth % step))
        x = torch.cat([x[:, d::step, h::2, w::2] for d, h, w in MERGING_ORDERS[self.order]], -1)
        return self.reduction(self.norm(x))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, order={self.order!r}"
