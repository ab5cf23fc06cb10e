"""From an image to tokens, and from a map of tokens to one of half the size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .checks import check_int, check_resolution, check_size, check_tokens


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each one to a token; the original's arguments and state_dict keys.

    Args:
        img_size: pixels (H, W) that `patches_resolution` is for, an int means both. Other sizes work too.
        patch_size: pixels (H, W) of a patch, an int means both.
        in_chans: channels of the image.
        embed_dim: channels C of a token.
        norm_layer: called as ``norm_layer(embed_dim)``; None for no norm.

    An image that the patch does not divide is padded with zeros at the right and the bottom.
    """

    def __init__(self, img_size=224, patch_size=4, in_chans=3, embed_dim=96, norm_layer=None):
        super().__init__()
        self.img_size = check_size("img_size", img_size)
        self.patch_size = check_size("patch_size", patch_size)
        self.in_chans = check_int("in_chans", in_chans)
        self.embed_dim = check_int("embed_dim", embed_dim)
        self.patches_resolution = self.output_size(self.img_size)
        self.num_patches = self.patches_resolution[0] * self.patches_resolution[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = None if norm_layer is None else norm_layer(embed_dim)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(Ph, Pw), the patches along each axis of an image of `size` pixels."""
        (height, width), (ph, pw) = size, self.patch_size
        return (height + ph - 1) // ph, (width + pw - 1) // pw

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, Ph * Pw, C)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        if x.dim() != 4 or x.shape[1] != self.in_chans or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(f"x must be an image (B, {self.in_chans}, H, W), got {tuple(x.shape)}")
        bottom, right = (-n % p for n, p in zip(x.shape[2:], self.patch_size, strict=True))
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.proj(x).flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)


class PatchMerging(nn.Module):
    """Join each 2 x 2 group of tokens, norm, and project to twice the channels; the original's arguments and keys.

    Args:
        input_resolution: (H, W), the map that the module is built for; None for no size.
        dim: channels C of its tokens.
        norm_layer: called as ``norm_layer(4 * dim)``.

    A map with an odd side is padded with zeros at the right and the bottom.
    """

    def __init__(self, input_resolution, dim, norm_layer=nn.LayerNorm):
        super().__init__()
        self.input_resolution = check_resolution(input_resolution)
        self.dim = check_int("dim", dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """The map that a map of `size` becomes."""
        return (size[0] + 1) // 2, (size[1] + 1) // 2

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> (B, ceil(H/2) * ceil(W/2), 2*C); `size` is (H, W), `input_resolution` if None."""
        return self.reduction(self.norm(self._groups(x, size)))

    def _groups(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        """(B, H*W, C) -> (B, ceil(H/2) * ceil(W/2), 4*C), the tokens of each group side by side."""
        height, width = check_tokens(x, self.dim, size, self.input_resolution)
        x = x.reshape(-1, height, width, self.dim)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        rows, columns = self.output_size((height, width))
        x = x.reshape(-1, rows, 2, columns, 2, self.dim).permute(0, 1, 3, 4, 2, 5)  # in a group, columns before rows
        return x.reshape(-1, rows * columns, 4 * self.dim)

    def extra_repr(self) -> str:
        return f"input_resolution={self.input_resolution}, dim={self.dim}"


class PatchMergingV2(PatchMerging):
    """The merging of Swin V2: as `PatchMerging`, but projected first; ``norm_layer(2 * dim)`` comes after."""

    def __init__(self, input_resolution, dim, norm_layer=nn.LayerNorm):
        super().__init__(input_resolution, dim, norm_layer)
        self.norm = norm_layer(2 * dim)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, H*W, C) -> (B, ceil(H/2) * ceil(W/2), 2*C); `size` is (H, W), `input_resolution` if None."""
        return self.norm(self.reduction(self._groups(x, size)))
