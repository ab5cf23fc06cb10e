"""Our parameter names in the tongue of timm, torchvision and transformers, to copy weights and to compare gradients.

Each function takes {our name: tensor} of a `SwinTransformer` and returns {peer's name: tensor}.
"""

from __future__ import annotations

from torch import Tensor

Tensors = dict[str, Tensor]


def without_buffers(named: Tensors) -> Tensors:
    return {k: t for k, t in named.items() if not k.endswith(("relative_position_index", "attn_mask"))}


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
