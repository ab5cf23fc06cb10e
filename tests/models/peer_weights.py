"""Our parameter names in the tongues of the libraries, to copy weights and to compare gradients.

Each ``to_`` function takes {our name: tensor} of a model and returns {peer's name: tensor}.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")


def without_buffers(named: Tensors) -> Tensors:
    return {k: t for k, t in named.items() if not k.endswith(BUFFERS)}


def to_timm(named: Tensors) -> Tensors:
    """timm downsamples at the start of the next stage, and its head is a module."""

    def rename(name: str) -> str:
        if ".downsample." in name:
            layers, stage, rest = name.split(".", 2)
            return f"{layers}.{int(stage) + 1}.{rest}"
        return name.replace("head.", "head.fc.")

    return {rename(k): t for k, t in without_buffers(named).items()}


def to_torchvision(named: Tensors) -> Tensors:
    """torchvision keeps patch embedding, stages and mergings in turn in one list, and an MLP as Linear at 0 and 3."""

    def rename(name: str) -> str:
        name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
        if name.startswith("layers."):
            _, stage, rest = name.split(".", 2)
            if rest.startswith("downsample."):
                return f"features.{2 * int(stage) + 2}.{rest.removeprefix('downsample.')}"
            rest = rest.removeprefix("blocks.").replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
            return f"features.{2 * int(stage) + 1}.{rest}"
        return name

    return {rename(k): t for k, t in without_buffers(named).items()}


def to_transformers(named: Tensors) -> Tensors:
    """transformers (5.x) has q, k and v apart; `SwinModel` has no head."""
    renames = [
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("layers.", "encoder.layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.o_proj"),
        ("attn.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
    ]
    result = {}
    for name, tensor in without_buffers(named).items():
        if name.startswith("norm."):
            result["layernorm." + name.removeprefix("norm.")] = tensor
            continue
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace(".attn.qkv.", f".attention.{part}_proj.")] = chunk
        else:
            result[name] = tensor
    return result


def to_transformers_v2(named: Tensors) -> Tensors:
    """transformers has the biases of q and v at Linears of their own; `Swinv2Model` has no head."""
    renames = [
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("layers.", "encoder.layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("attn.proj", "attention.output.dense"),
        ("attn.q_bias", "attention.self.query.bias"),
        ("attn.v_bias", "attention.self.value.bias"),
        ("attn.cpb_mlp", "attention.self.continuous_position_bias_mlp"),
        ("attn.logit_scale", "attention.self.logit_scale"),
    ]
    result = {}
    for name, tensor in without_buffers(named).items():
        if name.startswith("norm."):
            result["layernorm." + name.removeprefix("norm.")] = tensor
            continue
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        if name.endswith(".attn.qkv.weight"):
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[name.replace(".attn.qkv.", f".attention.self.{part}.")] = chunk
        else:
            result[name] = tensor
    return result


def join_qkv_bias(named: Tensors) -> Tensors:
    """torchvision's V2 has one bias for q, k and v, whose middle third it sets to zero in every forward."""
    result = {k: t for k, t in named.items() if not k.endswith((".q_bias", ".v_bias"))}
    for key in [k for k in named if k.endswith(".q_bias")]:
        q, v = named[key], named[key.replace(".q_bias", ".v_bias")]
        result[key.replace(".q_bias", ".qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return result


def split_qkv_bias(named: Tensors) -> Tensors:
    """The inverse of `join_qkv_bias`; nothing is in the middle third."""
    result = {k: t for k, t in named.items() if not k.endswith(".qkv.bias")}
    for key in [k for k in named if k.endswith(".qkv.bias")]:
        q, k, v = named[key].chunk(3)
        assert not k.any()
        result |= {key.replace(".qkv.bias", ".q_bias"): q, key.replace(".qkv.bias", ".v_bias"): v}
    return result


def to_torchvision_3d(named: Tensors) -> Tensors:
    """torchvision's video model keeps stages and mergings in turn in one list, and an MLP as Linear at 0 and 3."""
    named = {k: t for k, t in to_torchvision(named).items()}

    def rename(name: str) -> str:
        if name.startswith(("features.0.0.", "features.0.2.")):  # the embedding has a name of its own here
            return name.replace("features.0.0", "patch_embed.proj").replace("features.0.2", "patch_embed.norm")
        if name.startswith("features."):
            _, place, rest = name.split(".", 2)
            return f"features.{int(place) - 1}.{rest}"
        return name

    return {rename(k): t for k, t in named.items()}


def to_monai(named: Tensors) -> Tensors:
    """MONAI counts stages from 1, each in a list of its own."""

    def rename(name: str) -> str:
        if name.startswith("layers."):
            _, stage, rest = name.split(".", 2)
            name = f"layers{int(stage) + 1}.0.{rest}"
        return name.replace("mlp.fc", "mlp.linear")

    return {rename(k): t for k, t in without_buffers(named).items()}
