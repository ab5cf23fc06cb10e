"""Runs a model on a stored case of the original code and compares outputs and gradients with the stored ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..golden import Golden
from ..weights import assert_close, distance, gradients

# the parameters that attention has for itself
OWN = ("attn.qkv", "attn.proj", "_bias_table", "q_bias", "v_bias", "logit_scale", "cpb_mlp")


def run(name: str, build: Callable[..., nn.Module], dtype: torch.dtype = torch.float32, **options):
    """(the case, outputs, gradients by name, taps), of the model with the case's weights, in eval mode.

    `build` gets the keywords that the original got, and `options`.
    """
    golden = Golden(name)
    model = build(**golden.init, **options).eval()
    state = golden.under("sd/")
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state, strict=True)
    model.to(dtype)
    taps = {}
    for tap in golden.under("tap/"):
        model.get_submodule(tap).register_forward_hook(lambda m, i, out, tap=tap: taps.update({tap: out.detach()}))
    x, *rest = (golden[key].to(dtype) for key in golden.call)
    x.requires_grad_()
    outputs = model(x, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [golden[f"g/{i}"].to(dtype) for i in range(len(outputs))]
    assert f"g/{len(outputs)}" not in golden.tensors
    torch.autograd.backward(outputs, cotangents)
    grads = {"grad_x": x.grad} | {f"grad/{k}": g for k, g in gradients(model).items()}
    return golden, {f"y/{i}": y.detach() for i, y in enumerate(outputs)}, grads, taps


def assert_equals_float32(name: str, build: Callable[..., nn.Module], **options) -> None:
    """Outputs to 1e-5 of their largest value and gradients to 1e-4; and closer still, to the original's own error."""
    golden, outputs, grads, taps = run(name, build, **options)
    want = {k: t for k, t in golden.tensors.items() if k.startswith(("y/", "grad"))}
    assert (outputs | grads).keys() == want.keys()
    assert_close(outputs, {k: want[k] for k in outputs}, min(golden.bound("y"), 1e-5))
    assert_close(taps, golden.under("tap/"), 1e-5)  # before the pooling, which the bound is for
    assert distance(grads["grad_x"], want["grad_x"]) <= min(golden.bound("grad_x"), 1e-4)
    grads.pop("grad_x")
    assert_close(grads, {k: want[k] for k in grads}, min(golden.bound("grad"), 1e-4))
    own = [k for k in grads if any(part in k for part in OWN)]
    assert own
    assert_close({k: grads[k] for k in own}, {k: want[k] for k in own}, min(golden.bound("grad_attention"), 1e-4))


def assert_equals_float64(name: str, build: Callable[..., nn.Module], bound: float = 1e-11, **options) -> None:
    golden, outputs, grads, _ = run(name, build, torch.float64, **options)
    want = golden.under("f64/")
    assert want.keys() >= {"y/0", "grad_x"}
    got = outputs | grads
    assert_close({k: got[k] for k in want}, want, bound)
