"""Argument checks that the modules share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..geometry import to_axes


def check_int(name: str, value: int, least: int = 1) -> int:
    """`value` as it is, if it is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_size(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """`value` as (height, width), each at least 1; an int means both."""
    height, width = to_axes(value, 2, name)
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be at least 1 along both axes, got {(height, width)}")
    return height, width


def check_tokens(x: Tensor, dim: int, size: Sequence[int] | None, input_resolution: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of the map whose tokens x (B, H*W, dim) holds: `size`, or the module's own resolution for None."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    if x.dim() != 3 or x.shape[2] != dim:
        raise ValueError(f"x must be (B, H*W, {dim}), got {tuple(x.shape)}")
    height, width = input_resolution if size is None else check_size("size", size)
    if x.shape[1] != height * width:
        source = "input_resolution (pass size=(H, W) for another map)" if size is None else "size"
        raise ValueError(f"x must hold {height} x {width} = {height * width} tokens by its {source}, got {x.shape[1]}")
    return height, width
