"""torchvision, swin_* and swin_v2_* in 2D, swin3d_* in 3D: stages and downsampling lie in turn in one list."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..config import Config, Swin3DConfig
from .format import Format
from .names import Renames, Tensors


class TorchVision(Format):
    """2D: ``features`` starts with the patch embedding; the index is flat, and V2 keeps a bias of k that is zero."""

    name = "torchvision"
    library = "torchvision"
    anchor = "features.1.0.attn.qkv.weight"
    buffers = ("relative_position_index", "relative_coords_table")
    _first = 1  # where the first stage lies in `features`
    _renames = Renames(
        ("^patch_embed.proj", "^features.0.0"),
        ("^patch_embed.norm", "^features.0.2"),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.3"),
    )

    @classmethod
    def of_config(cls, config: Config) -> TorchVision:
        return TorchVision3D() if isinstance(config, Swin3DConfig) else TorchVision()

    def ours(self, key: str) -> str:
        key = self._renames.ours(key)
        match = re.match(r"features\.(\d+)\.", key)
        if not match or int(match[1]) < self._first:
            return key
        stage, merging = divmod(int(match[1]) - self._first, 2)
        return f"layers.{stage}.{'downsample' if merging else 'blocks'}.{key[match.end() :]}"

    def theirs(self, name: str) -> str:
        match = re.match(r"layers\.(\d+)\.(blocks|downsample)\.", name)
        if match:
            place = self._first + 2 * int(match[1]) + (match[2] == "downsample")
            name = f"features.{place}.{name[match.end() :]}"
        return self._renames.theirs(name)

    def join(self, tensors: Tensors) -> Tensors:
        result = {}
        for name, tensor in tensors.items():
            block, _, rest = name.rpartition(".attn.")
            if rest == "qkv.bias" and f"{block}.attn.logit_scale" in tensors and tensor.numel() % 3 == 0:
                # torchvision zeroes k's bias in every forward, whatever the file says
                result[f"{block}.attn.q_bias"], _, result[f"{block}.attn.v_bias"] = tensor.chunk(3)
            elif rest == "relative_position_index" and tensor.dim() == 1:
                side = round(tensor.numel() ** 0.5)
                result[name] = tensor.reshape(side, side) if side**2 == tensor.numel() else tensor
            else:
                result[name] = tensor
        return result

    def split(self, tensors: Tensors) -> Tensors:
        result = {}
        for name, tensor in tensors.items():
            block, _, rest = name.rpartition(".attn.")
            if rest == "q_bias":
                v = tensors[f"{block}.attn.v_bias"]
                result[f"{block}.attn.qkv.bias"] = torch.cat([tensor, torch.zeros_like(v), v])
            elif rest == "relative_position_index":
                result[name] = self._index(tensor)
            elif rest != "v_bias":
                result[name] = tensor
        return result

    def _index(self, index: Tensor) -> Tensor:
        return index.flatten()

    def refusal(self, config: Config, keys: set[str]) -> str:
        if config.out_indices is not None:
            return "torchvision has no norm of its own for each stage"
        if getattr(config, "ape", False):
            return "torchvision has no absolute position embedding"
        if not config.patch_norm:
            return "torchvision always has a norm after the patch embedding"
        if any(".norm3." in key for key in keys):
            return "torchvision has no extra norm on the main branch"
        return ""

    def policy(self, config: Config) -> str:
        return "torchvision"


class TorchVision3D(TorchVision):
    """3D: ``patch_embed`` is called so, and the index is a matrix. Our model, Video Swin's, has no head."""

    anchor = "features.0.0.attn.qkv.weight"
    _first = 0
    _renames = Renames(("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3"))

    def _index(self, index: Tensor) -> Tensor:
        return index

    def spare(self, names: set[str]) -> set[str]:
        return super().spare(names) | {name for name in names if name.startswith("head.")}

    def policy(self, config: Config) -> str:
        return "video"
