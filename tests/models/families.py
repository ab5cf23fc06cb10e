"""A small model of each family with an input, for what PyTorch does to models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swin_fast import SwinTransformer, SwinTransformer3D, SwinTransformerV2

from ..weights import gradients, randomize

IMAGE = {"img_size": 16, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}
VIDEO = {"patch_size": (1, 2, 2), "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "patch_norm": True}


@dataclass(frozen=True)
class Family:
    """`options` beside those that every family has; `size` and `other` of an input, neither a multiple of windows."""

    model: type[nn.Module]
    options: dict
    size: tuple[int, ...] = (16, 22)
    other: tuple[int, ...] = (20, 14)

    def build(self, **options) -> nn.Module:
        return randomize(self.model(**{"drop_path_rate": 0.0, **self.options, **options}))

    def input(self, size: tuple[int, ...] | None = None, batch: int = 2) -> Tensor:
        return torch.randn(batch, 3, *(size or self.size))

    def step(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Outputs and all gradients of a training step with a fixed loss."""
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        outputs = model(leaf)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = torch.Generator().manual_seed(7)
        sum((y.float() * torch.randn(y.shape, generator=weights)).sum() for y in outputs).backward()
        named = {f"output {i}": y.detach() for i, y in enumerate(outputs)} | {"input": leaf.grad}
        return named | {k.removeprefix("_orig_mod."): g.clone() for k, g in gradients(model).items()}


FAMILIES = {
    "v1": Family(SwinTransformer, {**IMAGE, "window_size": 4, "ape": True}),
    "v2": Family(SwinTransformerV2, {**IMAGE, "window_size": 4, "ape": True}),
    "3d": Family(SwinTransformer3D, {**VIDEO, "window_size": (2, 4, 4)}, (3, 10, 14), (2, 18, 6)),
    "features": Family(SwinTransformer, {**IMAGE, "window_size": 4, "features_only": True}),
    "policy": Family(SwinTransformerV2, {**IMAGE, "window_size": 4, "policy": "timm"}),
}
