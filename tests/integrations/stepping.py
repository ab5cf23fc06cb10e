"""One training step with a fixed seed, and the measure of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights import gradients


def tensors(out, prefix: str = "out") -> dict[str, Tensor]:
    """The tensors of an output by their place in it: tuples, lists, dicts and transformers' outputs."""
    if isinstance(out, Tensor):
        return {prefix: out}
    items = out.items() if hasattr(out, "items") else enumerate(out) if isinstance(out, (tuple, list)) else ()
    return {name: t for key, value in items for name, t in tensors(value, f"{prefix}.{key}").items()}


def step(model: nn.Module, x: Tensor, call=None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and the gradient of every parameter and of x, for one fixed loss."""
    torch.manual_seed(1)
    model.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    out = {k: t for k, t in tensors(model(leaf) if call is None else call(model, leaf)).items() if t.requires_grad}
    loss = sum((t.float() * torch.arange(1.0, t.numel() + 1).cos().view(t.shape)).sum() for t in out.values())
    loss.backward()
    grads = {k: g.clone() for k, g in gradients(model).items() if g is not None}
    return {k: t.detach() for k, t in out.items()}, grads | {"x": leaf.grad}


def assert_gradients_close(got: dict[str, Tensor], want: dict[str, Tensor], bound: float) -> None:
    """As `assert_close`, but a bias is measured by its weight's, too: that of the keys' bias is exactly zero."""
    assert got.keys() == want.keys()
    far = {}
    for name, w in want.items():
        beside = want.get(name[: -len("bias")] + "weight", w) if name.endswith("bias") else w
        size = max(w.abs().max().item(), beside.abs().max().item())
        error = (got[name] - w).abs().max().item()
        if not error <= bound * size:
            far[name] = error, size
    assert not far, f"further than {bound:.1e} of their size: {far}"
