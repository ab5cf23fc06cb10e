"""Renaming state_dict keys from one library's tongue to another's and back, and what is apart in one of them."""

from __future__ import annotations

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

# computed from the sizes of the model, so a file may hold them or not
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")


class Renames:
    """Pairs (ours, theirs) of dotted parts of keys, applied in turn; each side is replaced only as a whole part.

    A "^" at the start of both sides holds them to the start of the key.
    """

    def __init__(self, *pairs: tuple[str, str]):
        self._theirs = [_rule(ours, theirs) for ours, theirs in pairs]
        self._ours = [_rule(theirs, ours) for ours, theirs in pairs]

    def theirs(self, key: str) -> str:
        return _apply(self._theirs, key)

    def ours(self, key: str) -> str:
        return _apply(self._ours, key)


def _rule(source: str, target: str) -> tuple[re.Pattern, str]:
    start = "^" if source.startswith("^") else r"(?:^|(?<=\.))"
    return re.compile(start + re.escape(source.lstrip("^")) + r"(?=\.|$)"), target.lstrip("^")


def _apply(rules: list[tuple[re.Pattern, str]], key: str) -> str:
    for pattern, target in rules:
        key = pattern.sub(target, key)
    return key


def move_downsample(key: str, by: int) -> str:
    """Give ``layers.I.downsample`` the number I + `by`: some libraries start a stage with it, others end one."""
    match = re.fullmatch(r"layers\.(\d+)\.(downsample\..+)", key)
    return f"layers.{int(match[1]) + by}.{match[2]}" if match else key


def join_qkv(tensors: Tensors) -> Tensors:
    """attn.q, attn.k and attn.v become attn.qkv; where k has no bias (V2), attn.q_bias and attn.v_bias.

    What lacks its partner stays as it is.
    """
    result = dict(tensors)
    for key in tensors:
        if not key.endswith((".attn.q.weight", ".attn.q.bias")):
            continue
        attn, _, what = key.rsplit(".", 2)
        names = [f"{attn}.{part}.{what}" for part in "qkv"]
        q, k, v = (tensors.get(name) for name in names)
        if v is None or (k is None and what == "weight"):
            continue
        if k is None:
            result |= {f"{attn}.q_bias": q, f"{attn}.v_bias": v}
        elif q.shape == k.shape == v.shape:
            result[f"{attn}.qkv.{what}"] = torch.cat([q, k, v])
        else:
            continue
        for name in names:
            result.pop(name, None)
    return result


def split_qkv(tensors: Tensors) -> Tensors:
    """The reverse of `join_qkv`."""
    result = {}
    for key, tensor in tensors.items():
        attn, _, rest = key.rpartition(".attn.")
        if rest in ("qkv.weight", "qkv.bias"):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{attn}.attn.{part}.{rest[4:]}"] = chunk
        elif rest in ("q_bias", "v_bias"):
            result[f"{attn}.attn.{rest[0]}.bias"] = tensor
        else:
            result[key] = tensor
    return result
