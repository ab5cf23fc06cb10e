"""From a file of any library to a config and a state_dict of ours, with every fault of the file named."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...geometry import relative_position_index
from ...modules.policy import WindowPolicy, to_policy
from ...modules.window_attention import FusedAttention
from ..builders import from_config
from ..config import Config
from .files import CheckpointError, read_file, some
from .format import Format, is_computed, stages_of
from .hints import Hints, find_hints
from .infer import infer_config
from .recognise import Found, recognise


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one model, whoever wrote them.

    Attributes:
        path: the file.
        format: the library's name, as `save_checkpoint` takes it.
        config: of the model; its policy is the library's, dropout rates are defaults (no file says them).
        state_dict: our keys, parameters only (index, mask and coordinate table are computed), in the file's dtype.
        left_out: the file's keys that are not in `state_dict` and not computed: other parts of a larger model.
    """

    path: str
    format: str
    config: Config
    state_dict: dict[str, Tensor] = field(repr=False)
    left_out: tuple[str, ...] = ()


def read_checkpoint(
    path: str | os.PathLike,
    *,
    window_size: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained_window_sizes: tuple[int, ...] | None = None,
    prefix: str | None = None,
) -> Checkpoint:
    """Read a .safetensors or .pth file of the original code, timm, torchvision, transformers, mmdet or Video Swin.

    The library is recognised by its keys, the config by shapes (`infer_config` says how). No code in a file is run.

    Args:
        window_size, img_size, pretrained_window_sizes: used only where the file does not say: timm and transformers
            write no window of a Swin V2. A config.json beside the file, or window8_256 in its name, says it, too.
        prefix: what the backbone's keys start with, where a file holds several.

    Raises:
        CheckpointError (a ValueError): no such file; truncated, damaged or with code in it; of another model; keys
            missing, unexpected or of a wrong shape; values that are not finite. It names the file's own keys.
    """
    path = os.fspath(path)
    tensors, metadata = read_file(path)
    found = recognise(tensors, path, prefix)
    joined = found.format.join(found.tensors)
    own = Hints(window_size, img_size, pretrained_window_sizes)
    hints = own.otherwise(find_hints(path, metadata, len(stages_of(set(joined), "layers", "blocks"))))
    config, size_is_known = infer_config(joined, path, found.key, hints)
    config = replace(config, policy=library_policy(found.format, config, size_is_known))
    _check(found, config, path)
    state = {name: tensor for name, tensor in joined.items() if not is_computed(name)}
    _check_finite(found, path)
    return Checkpoint(path, found.format.name, config, state, found.left_out)


def library_policy(format: Format, config: Config, size_is_known: bool = True) -> WindowPolicy:
    """How the library treats windows, for a model that is built for the map at hand where its own size is not known."""
    policy = to_policy(format.policy(config))
    if policy.shift == "built" and (not size_is_known or config.out_indices is not None):
        policy = replace(policy, shift="map")
    return policy


def skeleton(config: Config, path: str) -> nn.Module:
    """The model without memory for its tensors."""
    try:
        with torch.device("meta"):
            return from_config(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is of a model that cannot be built, {config!r}: {error}") from error


def windows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The window of each attention by the module's name."""
    return {name: module.window_size for name, module in model.named_modules() if isinstance(module, FusedAttention)}


def faults(missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    """What is wrong with a set of keys, "" if nothing."""
    parts = [
        f"{len(keys)} keys {what} ({some(sorted(keys))})"
        for what, keys in (("missing", missing), ("unknown", unexpected))
        if keys
    ]
    if shapes:
        parts.append(f"{len(shapes)} of another shape ({some(shapes)})")
    return ", ".join(parts)


def _check(found: Found, config: Config, path: str) -> None:
    """Compare with the model that the config describes, in the file's own terms."""
    model = skeleton(config, path)
    own = found.format.split(model.state_dict())
    wrong = [
        f"{found.key(name)} {tuple(t.shape)} instead of {tuple(own[name].shape)}"
        for name, t in found.tensors.items()
        if name in own and t.shape != own[name].shape and not is_computed(name)
    ]
    text = faults(
        [found.key(name) for name in own if name not in found.tensors and not is_computed(name)],
        [found.key(name) for name in found.tensors if name not in own and not is_computed(name)],
        wrong,
    )
    if text:
        kind = type(model).__name__
        raise CheckpointError(f"{path} is not a whole checkpoint of a {kind} of {found.format.library}: {text}")
    sizes = windows(model)
    for name, tensor in found.tensors.items():
        if not name.endswith(".attn.relative_position_index"):
            continue
        standard = relative_position_index(sizes[name.rpartition(".")[0]])
        if tensor.numel() != standard.numel() or not torch.equal(tensor.reshape(standard.shape).long(), standard):
            raise CheckpointError(f"{path} is not usable: {found.key(name)} is not the index of its window")


def _check_finite(found: Found, path: str) -> None:
    broken = [
        found.key(name)
        for name, tensor in found.tensors.items()
        if not is_computed(name) and tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise CheckpointError(f"{path} holds NaN or infinite values: {some(broken)}")
