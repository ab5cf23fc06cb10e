"""From a file of any library to a model of ours, its tables fitted to other windows where that is asked for."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import replace

import torch
from torch import nn

from ..base import SwinModel
from ..builders import from_config
from ..config import Config, SwinV2Config
from .files import CheckpointError
from .format import is_computed
from .names import Tensors
from .read import Checkpoint, faults, library_policy, read_checkpoint, skeleton, windows
from .recognise import FORMATS
from .resize import RESIZES, resize_positions

_TABLE, _POSITIONS = "relative_position_bias_table", "absolute_pos_embed"


def load_checkpoint(
    path: str | os.PathLike,
    model: SwinModel | None = None,
    *,
    resize: str | None = None,
    new_head: bool = False,
    prefix: str | None = None,
    **config,
) -> SwinModel:
    """Read a checkpoint of any library (`read_checkpoint`) into a model.

    Args:
        path: the file.
        model: where the weights go; a new model in evaluation mode where none is given.
        resize: how tables go over to another window or image size: "bicubic" as the original code and mmdet do it,
            "geometric" as timm does (position embeddings are bicubic in both); None refuses. V2 has no tables: its
            offsets stay divided by the file's window, as ``pretrained_window_sizes`` of the new model.
        new_head: leave the model's own head as it is, for another number of classes.
        prefix: see `read_checkpoint`.
        config: fields of the new model's config other than the file's, such as img_size=384, window_size=12,
            num_classes=10, out_indices=(0, 1, 2, 3), policy="original".

    A classifier's file goes into a backbone (`out_indices`), too; norms that the file does not have stay as they are,
    with a warning.

    Raises:
        CheckpointError (a ValueError): the file is bad or does not fit; the model is unchanged. It says what to do.
    """
    if resize is not None and resize not in RESIZES:
        raise ValueError(f"resize must be one of {(*RESIZES, None)}, got {resize!r}")
    if model is not None and not isinstance(model, SwinModel):
        raise TypeError(f"model must be a model of swin_fast.models, got {type(model).__name__}")
    if model is not None and config:
        raise ValueError(f"{', '.join(config)} cannot be given together with a model, which has a config already")
    said = vars(model.config) if model is not None else config
    names = ("window_size", "img_size", "pretrained_window_sizes")
    checkpoint = read_checkpoint(path, prefix=prefix, **{name: said[name] for name in names if name in said})
    if model is None:
        with torch.random.fork_rng(devices=[]):
            model = from_config(_target(checkpoint, config)).eval()
    state = fit(checkpoint, model, resize, new_head)
    model.load_state_dict(state, strict=True)
    return model


def fit(
    checkpoint: Checkpoint, model: SwinModel, resize: str | None = None, new_head: bool = False, name: str = ""
) -> Tensors:
    """The checkpoint's weights as a whole state_dict of `model`, which messages call by `name`.

    The other arguments, and errors, are those of `load_checkpoint`.
    """
    path, own = checkpoint.path, model.state_dict()
    if type(checkpoint.config) is not type(model.config):
        kinds = type(skeleton(checkpoint.config, path)).__name__, type(model).__name__
        raise CheckpointError(f"{path} is of a {kinds[0]}, and cannot be loaded into a {kinds[1]}")
    if isinstance(model.config, SwinV2Config) and len(model.config.depths) == len(checkpoint.config.depths):
        _check_divisors(checkpoint, model)
    state = dict(checkpoint.state_dict)
    if model.config.out_indices is not None:
        _as_backbone(state, own, path)
    else:
        _fit_head(state, own, path, new_head)
    _fit_positions(state, checkpoint.config, model, path, resize)
    text = faults(
        [k for k in own if k not in state and not is_computed(k)],
        [k for k in state if k not in own],
        [f"{k} {tuple(t.shape)} instead of {tuple(own[k].shape)}" for k, t in state.items()
         if k in own and t.shape != own[k].shape],
    )  # fmt: skip
    if text:
        raise CheckpointError(f"{path} is not a checkpoint of {name or repr(model.config)}: {text}")
    return {k: state.get(k, own[k]) for k in own}


def _target(checkpoint: Checkpoint, changes: dict) -> Config:
    """The file's config with the caller's changes."""
    config = checkpoint.config
    new = replace(config, **changes)
    if isinstance(config, SwinV2Config) and "pretrained_window_sizes" not in changes:
        if (new.window_size, new.img_size) != (config.window_size, config.img_size):
            new = replace(new, pretrained_window_sizes=_divisors(skeleton(config, checkpoint.path)))
    if "policy" in changes or (new.out_indices is None) == (config.out_indices is None):
        return new
    return replace(new, policy=library_policy(FORMATS[checkpoint.format].of_config(new), new))


def _divisors(model: nn.Module) -> tuple[int, ...]:
    """The window by which each stage of a V2 divides its offsets."""
    windows = (layer.blocks[0].attn.window_size for layer in model.layers)
    return tuple(p or max(w) for p, w in zip(model.config.pretrained_window_sizes, windows, strict=False))


def _check_divisors(checkpoint: Checkpoint, model: SwinModel) -> None:
    theirs, ours = _divisors(skeleton(checkpoint.config, checkpoint.path)), _divisors(model)
    if theirs != ours:
        raise CheckpointError(
            f"{checkpoint.path} does not fit: its offsets are divided by windows of {theirs}, the model's by {ours}: "
            f"give pretrained_window_sizes={theirs}"
        )


def _as_backbone(state: Tensors, own: Tensors, path: str) -> None:
    """Norms that the model does not put out are left; a classifier's has no place in it, nor its head."""
    for name in [k for k in state if re.match(r"norm\d+\.", k) and k not in own]:
        del state[name]
    if "norm.weight" not in state:
        return
    for name in ("norm.weight", "norm.bias", "head.weight", "head.bias"):
        state.pop(name, None)
    fresh = [name for name in own if name.startswith("norm") and name not in state]
    if fresh:
        warnings.warn(f"{path} is of a classifier: {', '.join(fresh)} keep the values they have", stacklevel=4)
    state.update({name: own[name] for name in fresh})


def _fit_head(state: Tensors, own: Tensors, path: str, new_head: bool) -> None:
    ours, theirs = own.get("head.weight"), state.get("head.weight")
    if ours is None or new_head:
        state.pop("head.weight", None)
        state.pop("head.bias", None)
        state.update({name: own[name] for name in ("head.weight", "head.bias") if name in own})
    elif theirs is None:
        raise CheckpointError(
            f"{path} has no head.weight, and the model is for {len(ours)} classes: give num_classes=0 for features, or "
            "new_head=True for a head that is not trained"
        )
    elif len(ours) != len(theirs):
        raise CheckpointError(
            f"{path} does not fit: head.weight is for {len(theirs)} classes, the model for {len(ours)}: give "
            f"num_classes={len(theirs)}, or new_head=True for a head that is not trained"
        )


def _fit_positions(state: Tensors, config: Config, model: nn.Module, path: str, resize: str | None) -> None:
    """Tables and position embeddings of the model's windows and maps."""
    own, source = model.state_dict(), skeleton(config, path)
    theirs, ours = windows(source), windows(model)
    for name, tensor in state.items():
        part = name.rpartition(".")[0]
        if name.endswith(f".{_TABLE}") and part in ours:
            before, after = theirs[part], ours[part]
            if before == after:
                continue
            what = f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}, "
            what += f"windows of {_text(before)} instead of {_text(after)}"
            if len(before) == 3:
                raise CheckpointError(f"{path} does not fit: {what}: give window_size={before}, 3D has no resizing")
            _ask(resize, path, what, f"window_size={before[0]}")
            state[name] = RESIZES[resize](tensor, before, after)
        elif name == _POSITIONS and name in own and tensor.shape != own[name].shape:
            before, after = source.patches_resolution, model.patches_resolution
            if before != after:
                what = f"{name} is for a map of {_text(before)}, the model's is {_text(after)}"
                _ask(resize, path, what, f"img_size={config.img_size}")
            state[name] = resize_positions(tensor, before, after, grid=own[name].dim() == 4)


def _ask(resize: str | None, path: str, what: str, instead: str) -> None:
    if resize is None:
        raise CheckpointError(
            f"{path} does not fit: {what}: give resize='bicubic' (as the original code) or 'geometric' (as timm), or "
            f"{instead}"
        )


def _text(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
