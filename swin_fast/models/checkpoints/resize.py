"""Relative position bias tables and position embeddings for another window or map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_bicubic(table: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """A table ((2*Wh-1)*(2*Ww-1), heads) for windows of `after`, by bicubic interpolation of its offsets.

    As the original code (``load_pretrained``) and mmdet do it: the table is an image of (2*Wh-1, 2*Ww-1) pixels, whose
    corners are not aligned. Raises ValueError for a table of 3D windows.
    """
    image = _image(table, before)
    image = F.interpolate(image.float(), size=[2 * w - 1 for w in after], mode="bicubic", align_corners=False)
    return image[0].flatten(1).T.to(table.dtype)


def resize_geometric(table: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """The same by linear interpolation between places at geometrically growing distances.

    As timm's ``resize_rel_pos_bias_table`` (after BEiT's): along an axis the old offsets 0, 1, 2 ... are put at 0, 1,
    1 + q, 1 + q + q**2 ... of the new ones, with the q in (1.01, 1.5) that brings the last one to the new last one.
    Beyond the outermost places their values go on. Raises ValueError for a table of 3D windows.
    """
    image = _image(table, before).float()[0]  # (heads, rows, columns)
    if tuple(before) != tuple(after):
        for axis, (old, new) in enumerate(zip(before, after, strict=True), start=1):
            image = _interpolate(image, axis, _places(old, new), new)
    return image.flatten(1).T.to(table.dtype)


def _places(old: int, new: int) -> Tensor:
    """Where the 2 * old - 1 offsets of one axis lie among the 2 * new - 1 of another window."""
    low, high, ratio = 1.01, 1.5, 1.0
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old - 1)) / (1 - ratio) > new - 1:
            high = ratio
        else:
            low = ratio
    steps = torch.tensor([ratio**i for i in range(old - 1)], dtype=torch.float64)
    right = steps.cumsum(0)
    return torch.cat([-right.flip(0), right.new_zeros(1), right]).float()


def _interpolate(image: Tensor, axis: int, places: Tensor, new: int) -> Tensor:
    """Values at the offsets 1 - new ... new - 1 of one axis; the outermost ones go on."""
    if len(places) == 1:
        return image.expand(*(2 * new - 1 if i == axis else -1 for i in range(image.dim())))
    offsets = torch.arange(1 - new, new).float().clamp(places[0], places[-1])
    right = torch.searchsorted(places, offsets).clamp(1, len(places) - 1)
    share = (offsets - places[right - 1]) / (places[right] - places[right - 1])
    share = share.view([-1 if i == axis else 1 for i in range(image.dim())])
    return torch.lerp(image.index_select(axis, right - 1), image.index_select(axis, right), share)


RESIZES = {"bicubic": resize_bicubic, "geometric": resize_geometric}


def resize_positions(embedding: Tensor, before: Sequence[int], after: Sequence[int], grid: bool) -> Tensor:
    """A position embedding (1, Ph*Pw, C) or (1, C, Ph, Pw) for a map of `after`, bicubic as in the original code.

    Returns:
        (1, C, Ph, Pw) if `grid`, else (1, Ph*Pw, C).
    """
    if embedding.dim() == 3:
        embedding = embedding.transpose(1, 2).unflatten(2, tuple(before))
    if tuple(before) != tuple(after):
        resized = F.interpolate(embedding.float(), size=tuple(after), mode="bicubic", align_corners=False)
        embedding = resized.to(embedding.dtype)
    return embedding if grid else embedding.flatten(2).transpose(1, 2)


def _image(table: Tensor, window: Sequence[int]) -> Tensor:
    """(T, heads) as (1, heads, 2*Wh-1, 2*Ww-1)."""
    if len(window) != 2:
        raise ValueError(f"a table can be resized for 2D windows only, got one of {tuple(window)}")
    sides = [2 * w - 1 for w in window]
    if table.dim() != 2 or len(table) != prod(sides):
        raise ValueError(f"table must be ({prod(sides)}, heads) for windows of {tuple(window)}, got {table.shape}")
    return table.T.reshape(1, -1, *sides)
