"""One training step with a fixed seed, and the measure of its gradients."""

from __future__ import annotations

from collections.abc import Callable

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


def step_beside(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradients of `step` where each element of x is one rounding off: how well the model itself knows them."""
    away = 2.0 * torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0)) - 1
    return step(model, x * (1 + torch.finfo(x.dtype).eps * away))[1]


def assert_gradients_close(
    got: dict[str, Tensor], want: dict[str, Tensor], bound: float, beside: Callable[[], dict[str, Tensor]] | None = None
) -> None:
    """As `assert_close`, but a bias is measured by its weight's, too: that of the keys' bias is exactly zero.

    A gradient that is all but cancelled, as behind a saturated sigmoid, may be twice as far as `beside()` is.
    """
    assert got.keys() == want.keys()
    far = {}
    for name, w in want.items():
        weight = want.get(name[: -len("bias")] + "weight", w) if name.endswith("bias") else w
        size = max(w.abs().max().item(), weight.abs().max().item())
        error = (got[name] - w).abs().max().item()
        if not error <= bound * size:
            far[name] = error, size
    if far and beside:
        moved = beside()
        far = {n: f for n, f in far.items() if not f[0] <= 2 * (moved[n] - want[n]).abs().max().item()}
    assert not far, f"further than {bound:.1e} of their size: {far}"
