"""Window and map arithmetic shared by the front door, the modules and the reference. Plain integers, no kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch

PAD_ORDERS = ("pad_then_roll", "roll_then_pad")


def to_axes(value: int | Sequence[int], axes: int, name: str) -> tuple[int, ...]:
    """`value` as one int per grid axis: an int is repeated, a sequence must already have `axes` entries."""
    if isinstance(value, bool) or not isinstance(value, (int, Sequence)) or isinstance(value, str):
        raise TypeError(f"{name} must be an int or a sequence of {axes} ints, got {type(value).__name__}")
    if isinstance(value, int):
        return (value,) * axes
    if any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise TypeError(f"{name} must hold ints, got {tuple(value)!r}")
    if len(value) != axes:
        raise ValueError(f"{name} must have one entry per grid axis ({axes}), got {len(value)}: {tuple(value)}")
    return tuple(value)


def num_windows(grid: Sequence[int], window_size: Sequence[int]) -> tuple[int, ...]:
    """Windows along each axis of a map, the last one padded where the window does not divide the map."""
    return tuple(-(-g // w) for g, w in zip(grid, window_size, strict=True))


def padded_size(grid: Sequence[int], window_size: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-g // w) * w for g, w in zip(grid, window_size, strict=True))


def bias_table_size(window_size: Sequence[int]) -> int:
    """Rows of a relative position bias table: the number of distinct offsets inside a window."""
    return prod([2 * w - 1 for w in window_size])


@lru_cache(maxsize=64)
def _relative_position_index(window_size: tuple[int, ...]) -> torch.Tensor:
    axes = [torch.arange(w, device="cpu") for w in window_size]  # it is kept, so not on whatever device is the default
    coords = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    relative = coords[:, :, None] - coords[:, None, :]  # (axes, N, N), offset of query i from key j
    index = torch.zeros_like(relative[0])
    for offset, w in zip(relative, window_size, strict=True):
        index = index * (2 * w - 1) + offset + w - 1
    return index


def relative_position_index(window_size: Sequence[int]) -> torch.Tensor:
    """The row of the bias table that each (query, key) pair reads, (N, N) int64, as in the Swin paper's code."""
    return _relative_position_index(tuple(window_size)).clone()
