"""Weights that show mistakes, and the one measure of closeness that the module and model tests use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Set every parameter far from its initial value, so that no bias, norm or table can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("relative_position_bias_table") or name.endswith("absolute_pos_embed"):
                value = noise * 0.5
            elif name.endswith("logit_scale"):
                value = noise * 0.5 + 2.3  # about log(10), where they start
            elif p.dim() > 1:
                value = noise * p[0].numel() ** -0.5
            else:  # norms are the only vectors called weight
                value = noise * 0.2 + (1.0 if name.endswith("weight") else 0.0)
            p.copy_(value)
    return module


def distance(got: Tensor, want: Tensor) -> float:
    """Largest difference, as a share of the largest value of `want`; inf for another shape, a NaN or an infinity."""
    if got.shape != want.shape or not (torch.isfinite(got).all() and torch.isfinite(want).all()):
        return float("inf")
    if torch.equal(got, want):
        return 0.0
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()  # inf if all of it is zero


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], bound: float) -> None:
    """Every tensor of `want` is in `got`, within `bound` of it by `distance`, and there is no other."""
    assert got.keys() == want.keys()
    far = {name: d for name in want if (d := distance(got[name], want[name])) > bound}
    assert not far, f"further than {bound:.1e}: {far}"


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, by name."""
    return {name: p.grad for name, p in module.named_parameters()}
