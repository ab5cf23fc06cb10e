"""Argument checks that the modules share."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from ..geometry import to_axes

COUNTS = {2: "both", 3: "all three"}


def check_int(name: str, value: int, least: int = 1) -> int:
    """`value` as it is, if it is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_size(name: str, value: int | Sequence[int], axes: int = 2) -> tuple[int, ...]:
    """`value` as one int per axis, each at least 1; an int means all."""
    size = to_axes(value, axes, name)
    if min(size) < 1:
        raise ValueError(f"{name} must be at least 1 along {COUNTS[axes]} axes, got {size}")
    return size


def check_resolution(value: Sequence[int] | None) -> tuple[int, int] | None:
    """The (H, W) that a module is built for, or None for a module built for no size."""
    return None if value is None else check_size("input_resolution", value)


def check_tokens(
    x: Tensor, dim: int, size: Sequence[int] | None, input_resolution: tuple[int, int] | None
) -> tuple[int, int]:
    """The (H, W) of the map whose tokens x (B, H*W, dim) holds: `size`, or the module's own resolution for None."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    if x.dim() != 3 or x.shape[2] != dim:
        raise ValueError(f"x must be (B, H*W, {dim}), got {tuple(x.shape)}")
    if size is None and input_resolution is None:
        raise ValueError("size must be the (H, W) of the map, got None in a module built for no input_resolution")
    height, width = input_resolution if size is None else check_size("size", size)
    if x.shape[1] != height * width:
        source = "input_resolution (pass size=(H, W) for another map)" if size is None else "size"
        raise ValueError(f"x must hold {height} x {width} = {height * width} tokens by its {source}, got {x.shape[1]}")
    return height, width


def check_map(x: Tensor, dim: int) -> tuple[int, int, int]:
    """The (D, H, W) of a channels-last video map x (B, D, H, W, dim)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    if x.dim() != 5 or x.shape[4] != dim or prod(x.shape[1:4]) < 1:
        raise ValueError(f"x must be (B, D, H, W, {dim}), got {tuple(x.shape)}")
    depth, height, width = x.shape[1:4]
    return depth, height, width
