"""transformers, Swin and Swinv2: q, k and v apart, and the classifier beside the backbone."""

from __future__ import annotations

import re

from ..config import Config, Swin3DConfig, SwinV2Config
from .format import Format
from .names import Renames, Tensors, join_qkv, split_qkv

_SHARED = (
    ("^patch_embed.proj", "^embeddings.patch_embeddings.projection"),
    ("^patch_embed.norm", "^embeddings.norm"),
    ("^absolute_pos_embed", "^embeddings.position_embeddings"),
    ("^layers", "^encoder.layers"),
    ("^norm", "^layernorm"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
)
_OLD = Renames(
    *_SHARED,
    ("attn.q", "attention.self.query"),
    ("attn.k", "attention.self.key"),
    ("attn.v", "attention.self.value"),
    ("attn.proj", "attention.output.dense"),
    ("attn.cpb_mlp", "attention.self.continuous_position_bias_mlp"),
    ("attn", "attention.self"),  # what is left: tables, scale and index
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)
_NEW = Renames(
    *_SHARED,
    ("attn.q", "attention.q_proj"),
    ("attn.k", "attention.k_proj"),
    ("attn.v", "attention.v_proj"),
    ("attn.proj", "attention.o_proj"),
    ("attn", "attention.relative_position_bias"),
)


class Transformers4(Format):
    """The names of transformers 4.x, which are those of the files on the Hub and of the files that 5.x saves, too."""

    name = "transformers4"
    library = "transformers"
    anchor = "encoder.layers.0.blocks.0.attention.self.query.weight"
    outer = (("head", "classifier"), *((f"norm{i}", f"hidden_states_norms.stage{i + 1}") for i in range(8)))
    _renames = _OLD

    def __init__(self, prefix: str = ""):
        self.prefix = prefix

    @classmethod
    def of_config(cls, config: Config) -> Transformers4:
        v2 = isinstance(config, SwinV2Config)
        prefix = ("swinv2." if v2 else "swin.") if getattr(config, "num_classes", 0) else ""
        return Transformers4(prefix) if v2 else cls(prefix)

    def ours(self, key: str) -> str:
        return self._renames.ours(key)

    def theirs(self, name: str) -> str:
        return self._renames.theirs(name)

    def join(self, tensors: Tensors) -> Tensors:
        return join_qkv(tensors)

    def split(self, tensors: Tensors) -> Tensors:
        return split_qkv(tensors)

    def spare(self, names: set[str]) -> set[str]:
        backbone = any(re.match(r"norm\d+\.", name) for name in names)  # which has the model's last norm without use
        return super().spare(names) | (names & {"norm.weight", "norm.bias"} if backbone else set())

    def refusal(self, config: Config, keys: set[str]) -> str:
        if isinstance(config, Swin3DConfig):
            return "transformers has no 3D Swin Transformer"
        if config.out_indices is not None:
            return "transformers' backbone has one norm more"
        if config.ape and isinstance(config, SwinV2Config):
            return "transformers' Swinv2 has a position embedding of another length"
        if not config.patch_norm:
            return "transformers always has a norm after the patch embedding"
        if any(".norm3." in key for key in keys):
            return "transformers has no extra norm on the main branch"
        return ""

    def policy(self, config: Config) -> str:
        return "transformers_v2" if isinstance(config, SwinV2Config) else "transformers"


class Transformers5(Transformers4):
    """The names of Swin's modules in transformers 5.x, where Swinv2 keeps the old ones."""

    name = "transformers"
    anchor = "encoder.layers.0.blocks.0.attention.q_proj.weight"
    _renames = _NEW
