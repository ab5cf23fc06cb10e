"""The op against outputs and gradients of the original code's WindowAttention, versions 1 and 2."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention

from ..golden import Golden
from ..weights import assert_close

BOTH = pytest.mark.parametrize("backend", ["reference", "auto"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def version1(x, p, mask, window, heads, **options):
    qkv = F.linear(x, p["qkv.weight"], p["qkv.bias"]).unflatten(1, window)  # a window of tokens is a map of one window
    table = p["relative_position_bias_table"]
    out = window_attention(qkv, table, num_heads=heads, window_size=window, mask=mask, **options)
    return F.linear(out.flatten(1, 2), p["proj.weight"], p["proj.bias"])


def version2(x, p, mask, window, heads):
    """Equation 2 of the paper; the bias comes from a small network on log-spaced coordinates, 16 at most."""
    bias = torch.cat([p["q_bias"], torch.zeros_like(p["v_bias"]), p["v_bias"]])
    qkv = F.linear(x, p["qkv.weight"], bias).unflatten(1, window)
    hidden = F.linear(p["relative_coords_table"].flatten(0, 2), p["cpb_mlp.0.weight"], p["cpb_mlp.0.bias"]).relu()
    table = 16 * F.linear(hidden, p["cpb_mlp.2.weight"]).sigmoid()
    largest = torch.tensor(math.log(100), dtype=torch.float32).to(x.dtype)  # the original clamps at a float32 tensor
    scale = torch.minimum(p["logit_scale"], largest).exp().flatten()
    out = window_attention(qkv, table, num_heads=heads, window_size=window, mask=mask, logit_scale=scale)
    return F.linear(out.flatten(1, 2), p["proj.weight"], p["proj.bias"])


def compare(golden: Golden, layer, dtype: torch.dtype, backend: str) -> None:
    p = {k: t.to(dtype) for k, t in golden.under("sd/").items() if t.is_floating_point()}
    leaves = {k: p[k].requires_grad_() for k in golden.under("grad/")}
    x, g = golden["x"].to(dtype).requires_grad_(), golden["g/0"].to(dtype)
    mask = golden.tensors.get("arg/mask")
    options = {"scale": golden.init["qk_scale"]} if "qk_scale" in golden.init else {}
    with use_backend(backend):
        mask = None if mask is None else mask.to(dtype)
        y = layer(x, p, mask, golden.init["window_size"], golden.init["num_heads"], **options)
        y.backward(g)
    stored = "f64/" if dtype == torch.float64 else ""
    want = {"y": golden[f"{stored}y/0"], "grad_x": golden[f"{stored}grad_x"], **golden.under(f"{stored}grad/")}
    got = {"y": y.detach(), "grad_x": x.grad, **{k: t.grad for k, t in leaves.items() if k in want}}
    for name, value in want.items():
        kind = name if name in ("y", "grad_x") else "grad"
        bound = 1e-11 if dtype == torch.float64 else golden.bound(kind)
        assert_close({name: got[name]}, {name: value}, bound)


@BOTH
@DTYPES
@pytest.mark.parametrize("name", ["v1_attention", "v1_attention_rect_mask"])
def test_version_1(name, dtype, backend):
    compare(Golden(name), version1, dtype, backend)


@BOTH
@DTYPES
@pytest.mark.parametrize("name", ["v2_attention_mask_clamp", "v2_attention_mask_leak"])
def test_version_2(name, dtype, backend):
    compare(Golden(name), version2, dtype, backend)
