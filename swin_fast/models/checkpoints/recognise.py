"""Which library wrote a file, told by its keys."""

from __future__ import annotations

from dataclasses import dataclass

from .files import CheckpointError, some
from .format import Format
from .mmdet import MMDet
from .names import Tensors
from .original import Original
from .timm import Timm
from .torchvision import TorchVision, TorchVision3D
from .transformers import Transformers4, Transformers5

_READ: tuple[type[Format], ...] = (
    Timm, Original, TorchVision, TorchVision3D, Transformers5, Transformers4, MMDet,
)  # fmt: skip

FORMATS: dict[str, type[Format]] = {
    cls.name: cls for cls in (Original, Timm, TorchVision, Transformers5, Transformers4, MMDet)
}

# what else looks like a Swin Transformer: a part of a key -> whose it is
_OTHERS = {
    "attn.meta_mlp.fc1.weight": "timm's SwinTransformerV2Cr",
    "residual_group.blocks.0.attn.qkv.weight": "SwinIR",
    "residual_group.blocks.0.attn.relative_position_bias_table": "SwinIR",
    "layers1.0.blocks.0.attn.qkv.weight": "MONAI's SwinUNETR",
    "overlap_attn.relative_position_bias_table": "HAT",
}


@dataclass(frozen=True)
class Found:
    """A file in some library's tongue.

    Attributes:
        format: the library's.
        tensors: by name (`Format`), those of `keys`.
        keys: name -> the file's own key.
        left_out: the file's keys that belong to another part of a larger model, or to none here.
    """

    format: Format
    prefix: str
    tensors: Tensors
    keys: dict[str, str]
    left_out: tuple[str, ...]

    def key(self, name: str) -> str:
        """The key that `name` has or would have in the file."""
        if name in self.keys:
            return self.keys[name]
        for ours, theirs in self.format.outer:
            if name.startswith(f"{ours}."):
                return _parent(self.prefix) + theirs + name.removeprefix(ours)
        return self.prefix + self.format.theirs(name)


def recognise(tensors: Tensors, path: str, prefix: str | None = None) -> Found:
    """Find the Swin Transformer in a file; it may be the backbone of a larger model.

    Args:
        prefix: which one, where the file holds several.
    """
    found = {}
    for cls in _READ:
        for key in tensors:
            if key != cls.anchor and not key.endswith(f".{cls.anchor}"):
                continue
            start = key.removesuffix(cls.anchor)
            format = cls.of_keys({k.removeprefix(start) for k in tensors if k.startswith(start)})
            if format is not None:
                found.setdefault(start, format)
    if not found:
        raise CheckpointError(f"{path} is not a checkpoint of a Swin Transformer known here: {_unknown(tensors)}")
    if prefix is None and len(found) > 1:
        raise CheckpointError(
            f"{path} holds {len(found)} Swin Transformers: choose one with prefix= one of {sorted(found)}"
        )
    if prefix is not None and prefix not in found:
        raise CheckpointError(f"{path} has no Swin Transformer behind prefix={prefix!r}, but behind {sorted(found)}")
    start = next(iter(found)) if prefix is None else prefix
    return _sorted_out(tensors, found[start], start)


def _sorted_out(tensors: Tensors, format: Format, prefix: str) -> Found:
    keys, left_out = {}, []
    for key in tensors:
        name = _outer_name(key, format, _parent(prefix))
        if name is None and key.startswith(prefix):
            name = format.ours(key.removeprefix(prefix))
        if name is None:
            left_out.append(key)
        else:
            keys[name] = key
    spare = format.spare(set(keys))
    left_out += [keys.pop(name) for name in sorted(spare)]
    return Found(format, prefix, {name: tensors[key] for name, key in keys.items()}, keys, tuple(left_out))


def _outer_name(key: str, format: Format, parent: str) -> str | None:
    for ours, theirs in format.outer:
        start = f"{parent}{theirs}."
        if key.startswith(start):
            return f"{ours}.{key.removeprefix(start)}"
    return None


def _parent(prefix: str) -> str:
    """What the module around the one behind `prefix` stands behind."""
    head = prefix.removesuffix(".").rpartition(".")[0]
    return f"{head}." if head else ""


def _unknown(tensors: Tensors) -> str:
    for part, owner in _OTHERS.items():
        if any(part in key for key in tensors):
            return f"it is one of {owner}, for which there is no reader"
    anchors = ", ".join(f"{cls.anchor} ({cls.library})" for cls in _READ if cls not in (Timm, TorchVision3D))
    return f"it has {some(tensors)}, and none of {anchors}"
