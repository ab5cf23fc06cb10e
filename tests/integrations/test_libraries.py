"""Every Swin class of the libraries: outputs and gradients before and after, at every kind of size."""

from __future__ import annotations

import copy

import pytest
import torch

import swin_fast

from ..weights import assert_close, distance
from .libraries import MODELS, SIZES
from .stepping import assert_gradients_close, step, tensors

pytestmark = pytest.mark.usefixtures("seed")

EACH = [(name, size) for name, model in MODELS.items() for size in model.sizes if size not in model.crashes]
COSINE = ("timm_v2", "timm_v2_cr", "torchvision_v2", "transformers_swinv2", "transformers_swin2sr")
WHOLE = ("transformers_swin2sr_whole", "monai_unetr")
COMPILED = ("timm_v1", "torchvision_v2", "transformers_swin")


def pair(name: str, drop_path: float = 0.0, **options):
    """The library's model and an accelerated copy."""
    model = MODELS[name].make(drop_path)
    fused = copy.deepcopy(model)
    report = swin_fast.accelerate(fused, strict=True, **options)
    assert len(report.replaced) == MODELS[name].blocks
    return model, fused


def outputs(name, model, x):
    with torch.no_grad():
        return tensors(MODELS[name].call(model.eval(), x))


@pytest.mark.parametrize(
    "name, size", [pytest.param(*e, marks=pytest.mark.slow if e == ("monai_unetr", "not_square") else ()) for e in EACH]
)
def test_outputs_and_gradients(name, size):
    model, fused = pair(name, drop_path=0.3)
    x, call = MODELS[name].image(SIZES[size]), MODELS[name].call
    assert_close(outputs(name, fused, x), outputs(name, model, x), 1e-5)
    (got, got_grads), (want, want_grads) = (step(m.train(), x, call) for m in (fused, model))
    assert_close(got, want, 1e-5)
    assert_gradients_close(got_grads, want_grads, 1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WHOLE])
def test_bfloat16_is_as_exact_as_the_library(name):
    """Root mean square distance from float64: at most twice that of the library in bfloat16."""
    model, fused = pair(name)
    size = next(s for s in ("not_divisible", *MODELS[name].sizes) if s in MODELS[name].sizes)
    x = MODELS[name].image(SIZES[size]).bfloat16()
    truth = outputs(name, copy.deepcopy(model).double(), x.double())
    plain, got = (outputs(name, m.bfloat16(), x) for m in (model, fused))
    for key, t in truth.items():
        assert got[key].dtype == plain[key].dtype
        error, allowed = ((r[key].double() - t).norm() / t.norm() for r in (got, plain))
        assert error <= 2 * allowed + 1e-3, key


@pytest.mark.parametrize("name", COSINE)
def test_a_scale_above_the_clamp(name):
    """At 100, rounding is large in both; ours is at most twice as far from float64, and the gradient above it is 0."""
    model, fused = pair(name)
    for m in (model, fused):
        for key, p in m.named_parameters():
            if key.endswith("logit_scale"):
                p.data.view(-1)[0] = 5.0
    x = MODELS[name].image(SIZES["not_divisible"])
    truth = outputs(name, copy.deepcopy(model).double(), x.double())
    got, plain = outputs(name, fused, x), outputs(name, model, x)
    for key, t in truth.items():
        assert distance(got[key], t) <= 2 * distance(plain[key], t) + 1e-6
    _, grads = step(fused.eval(), x, MODELS[name].call)
    scales = {k: g.view(-1) for k, g in grads.items() if k.endswith("logit_scale")}
    assert scales and all(g[0] == 0 and g[1] != 0 for g in scales.values())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in COMPILED else pytest.mark.slow) for n in MODELS if n not in WHOLE]
)
def test_compiled_in_one_graph(name):
    model, fused = pair(name)
    size = next(s for s in ("not_divisible", *MODELS[name].sizes) if s in MODELS[name].sizes)
    x, call = MODELS[name].image(SIZES[size]), MODELS[name].call
    torch.compiler.reset()
    compiled = torch.compile(lambda y: call(fused, y), fullgraph=True, backend="aot_eager")
    want, want_grads = step(model.eval(), x, call)
    got, got_grads = step(fused.eval(), x, lambda _, y: compiled(y))
    assert_close(got, want, 1e-5)
    assert_gradients_close(got_grads, want_grads, 1e-4)
    with torch.no_grad():
        assert_close(tensors(compiled(x)), outputs(name, model, x), 1e-5)


@pytest.mark.parametrize("name", ["torchvision_v1", "transformers_swin", "timm_v2"])
def test_autocast(name):
    model, fused = pair(name)
    x = MODELS[name].image(SIZES["not_divisible"])
    truth = outputs(name, copy.deepcopy(model).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        got, plain = outputs(name, fused, x), outputs(name, model, x)
    for key, t in truth.items():
        error, allowed = ((r[key].double() - t).norm() / t.norm() for r in (got, plain))
        assert got[key].dtype == plain[key].dtype and error <= 2 * allowed + 1e-3


@pytest.mark.parametrize("name", ["timm_v1", "timm_v2", "torchvision_3d", "transformers_swin", "monai_2d"])
def test_attention_dropout_is_drawn_anew(name):
    _, fused = pair(name)
    drop_attention(fused)
    x, call = MODELS[name].image(SIZES["divisible"]), MODELS[name].call

    def draw(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return list(tensors(call(fused, x)).values())[-1]  # the first of some is before all attention

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_attention_dropout_has_the_same_distribution():
    model, fused = pair("torchvision_v1")
    exact, ours, theirs = (m.features[1][1].attn for m in (copy.deepcopy(model).eval(), fused, model))
    drop_attention(fused), drop_attention(model)
    x = torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        got, want = (torch.stack([attn(x) for _ in range(400)]) for attn in (ours, theirs))
        true = exact(x)
    spread = want.std(0)
    assert (spread.mean() / got.std(0).mean() - 1).abs() < 0.05
    assert ((got.mean(0) - true) / spread).abs().mean() < 2 / 400**0.5  # what is left of the mean of 400 draws


def drop_attention(model) -> None:
    """Attention dropout in training mode, everything else in eval mode."""
    model.eval()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout, module.training = 0.4, True
        if hasattr(module, "attn_drop"):
            module.attn_drop.p, module.attn_drop.training = 0.4, True


@pytest.mark.slow
def test_swin_unetr_3d():
    pytest.importorskip("einops")
    from monai.networks.nets import SwinUNETR

    options = {"feature_size": 12, "depths": (2, 1, 1, 1), "num_heads": (3, 6, 6, 6), "window_size": 7}
    model = SwinUNETR(in_channels=1, out_channels=2, norm_name=("group", {"num_groups": 2}), **options)
    fused = copy.deepcopy(model)
    assert len(swin_fast.accelerate(fused, strict=True).replaced) == 14
    x = torch.randn(1, 1, 64, 32, 32)
    runs = [step(m, t) for m, t in ((fused, x), (model, x), (copy.deepcopy(model).double(), x.double()))]
    for got, want, true in zip(*runs, strict=True):  # outputs, gradients; the deep norms make rounding large in both
        assert got.keys() == want.keys() == true.keys()
        far = {k: (distance(got[k], t), distance(want[k], t)) for k, t in true.items()}
        assert all(ours <= 2 * theirs + 1e-5 for ours, theirs in far.values()), far
