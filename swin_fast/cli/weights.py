"""Reads a checkpoint file and says plainly what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .common import UserError, need

WRAPPERS = ("model", "state_dict")


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth (.pt, .bin) file, no code of the latter is run; all values are finite."""
    file = Path(path)
    if not file.exists():
        raise UserError(f"there is no weights file {path}")
    if not file.is_file():
        raise UserError(f"{path} is not a file")
    if file.suffix == ".safetensors":
        load = need("safetensors.torch", "safetensors").load_file
    elif file.suffix in (".pth", ".pt", ".bin"):

        def load(name):
            return torch.load(name, map_location="cpu", weights_only=True)
    else:
        raise UserError(f"weights must be a .safetensors or .pth file, got {path}")
    try:
        content = load(path)
    except Exception as error:  # a damaged file can raise anything: zip, pickle, JSON and decoding errors
        raise UserError(f"cannot read {path}: truncated, damaged or no weights file: {_line(error)}") from error

    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state_dict: it is {_kind(content)}")
    strange = [repr(k) for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if strange:
        raise UserError(f"{path} holds no state_dict: no tensor under {_some(strange)}")
    broken = [k for k, v in content.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(f"{path} holds NaN or infinite values: {_some(broken)}")
    return content


def load_into(model: nn.Module, state: dict[str, Tensor], path: str, name: str) -> None:
    """``load_state_dict(strict=True)``; a checkpoint of another architecture is one UserError with the first keys."""
    own = model.state_dict()
    known = ("attn_mask", "relative_position_index")  # computed, so their absence says nothing about the architecture
    shapes = [f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}" for k, v in state.items()
              if k in own and v.shape != own[k].shape]  # fmt: skip
    faults = {
        "missing": [k for k in own.keys() - state.keys() if not k.endswith(known)],
        "unknown": [k for k in state.keys() - own.keys() if not k.endswith(known)],
    }
    parts = [f"{len(keys)} keys {what} ({_some(sorted(keys))})" for what, keys in faults.items() if keys]
    if shapes:
        parts.append(f"{len(shapes)} of another shape ({_some(shapes)})")
    if parts:
        raise UserError(f"{path} is not a checkpoint of {name}: {', '.join(parts)}")
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of {name}: {_line(error)}") from error


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _kind(content) -> str:
    return "empty" if isinstance(content, dict) else f"a {type(content).__name__}"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
