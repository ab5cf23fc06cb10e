"""From a model or a checkpoint of ours to a file of any library."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from ..base import SwinModel
from ..builders import from_config
from ..config import Config, Swin3DConfig, SwinConfig, SwinV2Config
from .files import CheckpointError, check_target, write_file
from .format import Format, is_computed
from .hints import to_metadata
from .names import COMPUTED, Tensors
from .read import Checkpoint, skeleton, windows
from .recognise import FORMATS

CONFIGS = (SwinConfig, SwinV2Config, Swin3DConfig)


def save_checkpoint(model: SwinModel | Checkpoint, path: str | os.PathLike, format: str = "original") -> None:
    """Write a model's weights, or those of a checkpoint, as a library names and lays them out.

    The file is written whole or not at all, its tensors in the dtype that they have. A .safetensors file also notes
    the image and window size, so that `read_checkpoint` finds them where the library's own keys do not say.

    Args:
        path: ends with .safetensors, or .pth, .pt or .bin for torch.save.
        format: "original" (also the detection code and Video Swin), "timm", "torchvision", "transformers" (the names of
            Swin's modules in 5.x), "transformers4" (those of files, which both 4.x and 5.x load with from_pretrained)
            or "mmdet" (also mmseg and mmpretrain).

    Raises:
        CheckpointError (a ValueError): the path cannot be written to, or the library has no such model.
        ValueError: an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {tuple(FORMATS)}, got {format!r}")
    check_target(path)
    if not isinstance(model, (SwinModel, Checkpoint)):
        raise TypeError(f"model must be a model of swin_fast.models or a Checkpoint, got {type(model).__name__}")
    state = model.state_dict() if isinstance(model, SwinModel) else model.state_dict
    tongue = FORMATS[format].of_config(model.config)
    unknown = "no library has files of it" if type(model.config) not in CONFIGS else ""
    refusal = unknown or tongue.refusal(model.config, set(state))
    if refusal:
        raise CheckpointError(f"cannot write {path} as {format}: {refusal}")
    write_file(
        to_format(_with_buffers(state, model.config, tongue, path), tongue),
        path,
        tongue.wrapper,
        to_metadata(model.config),
    )


def to_format(state: Tensors, tongue: Format) -> Tensors:
    """A whole state_dict of ours under the keys and in the layout of a library."""
    dropped = set(COMPUTED) - set(tongue.buffers)
    state = {name: t for name, t in state.items() if name.rpartition(".")[2] not in dropped}
    return {_key(name, tongue): tensor for name, tensor in tongue.split(state).items()}


def _key(name: str, tongue: Format) -> str:
    for ours, theirs in tongue.outer:
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return tongue.prefix + tongue.theirs(name)


def _with_buffers(state: Tensors, config: Config, tongue: Format, path: str | os.PathLike) -> Tensors:
    """The weights, and index, coordinates and mask as the library that will read them computes them."""
    target = replace(config, policy=tongue.policy(config))
    before, after = (windows(skeleton(c, os.fspath(path))) for c in (config, target))
    for name, window in before.items():
        if after[name] != window:
            raise CheckpointError(
                f"cannot write {path} as {tongue.name}: {name} has windows of {window}, and {tongue.library} has "
                f"{after[name]} with img_size={config.img_size}: load it for a larger img_size"
            )
    own = skeleton(target, os.fspath(path)).state_dict()
    if tongue.buffers:
        with torch.random.fork_rng(devices=[]):
            own = from_config(target).state_dict()
    return {name: own[name] if is_computed(name) else state[name] for name in own}
