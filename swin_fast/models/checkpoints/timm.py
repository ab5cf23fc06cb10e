"""timm, SwinTransformer and SwinTransformerV2: a stage starts with its downsampling, and the head is a module."""

from __future__ import annotations

from ..config import Config, Swin3DConfig
from .format import Format, stages_of, starts_with_downsampling
from .names import Renames, move_downsample


class Timm(Format):
    name = "timm"
    library = "timm"
    anchor = "layers.0.blocks.0.attn.qkv.weight"
    _renames = Renames(("^head", "^head.fc"))

    @classmethod
    def of_keys(cls, keys: set[str]) -> Timm | None:
        if stages_of(keys, "layers", "downsample"):
            return cls() if starts_with_downsampling(keys, "layers") else None
        return cls() if any(key.startswith("head.fc.") for key in keys) else None

    def ours(self, key: str) -> str:
        return move_downsample(self._renames.ours(key), -1)

    def theirs(self, name: str) -> str:
        return self._renames.theirs(move_downsample(name, 1))

    def refusal(self, config: Config, keys: set[str]) -> str:
        if isinstance(config, Swin3DConfig):
            return "timm has no 3D Swin Transformer"
        if config.out_indices is not None:
            return "timm has no norm of its own for each stage"
        if config.ape:
            return "timm has no absolute position embedding"
        if any(".norm3." in key for key in keys):
            return "timm has no extra norm on the main branch"
        return ""

    def policy(self, config: Config) -> str:
        return "timm"
