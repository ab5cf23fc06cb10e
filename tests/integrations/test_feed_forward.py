"""The GELU between the Linears of the libraries' MLPs: which are taken, in place, and when the library's own runs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import swin_fast
from swin_fast.integrations import feed_forward
from swin_fast.integrations.swap import Fused

from ..ops.calls import Calls
from ..weights import assert_close, distance, randomize
from .doubles import classifiers, parts
from .libraries import MODELS, SIZES
from .stepping import assert_gradients_close, step, tensors

pytestmark = pytest.mark.usefixtures("seed")

LIBRARIES = ("timm_v1", "timm_v2", "timm_v2_cr", "torchvision_v2", "torchvision_3d", "monai_2d") + tuple(
    f"transformers_{name}" for name in ("swin", "swinv2", "swin2sr", "maskformer", "donut", "clap")
)


def mlps(report):
    return [e for e in report.entries if e.by == "swin_fast GELU" or "GELU" in e.reason]


def run(name, model):
    """Outputs on a fixed input, and the GELU ops that ran."""
    x = MODELS[name].image(SIZES[MODELS[name].sizes[0]])
    with torch.no_grad(), Calls() as calls:
        out = tensors(MODELS[name].call(model, x))
    return out, [op for op in calls.names if "gelu" in op]


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_mlp_in_place(name):
    """With the attention left alone afterwards, outputs differ by the GELU only, and each one ran in place."""
    model = MODELS[name].make().eval()
    fused = copy.deepcopy(model)
    report = swin_fast.accelerate(fused, strict=True)
    taken = mlps(report)
    for e in taken:
        assert isinstance(fused.get_submodule(e.name), feed_forward.FeedForward)
    for e in report.replaced:
        if e not in taken:
            swin_fast.integrations.swap.swap_back(fused.get_submodule(e.name))
    torch.manual_seed(3)
    want, plain = run(name, model)
    torch.manual_seed(3)
    got, ours = run(name, fused)
    assert_close(got, want, 1e-5)
    assert len(plain) == len(taken) and set(plain) == {"aten::gelu"} and ours == ["swin_fast::gelu_"] * len(taken)
    swin_fast.restore(fused)
    torch.manual_seed(3)
    assert run(name, fused)[1] == plain and not any(isinstance(m, Fused) for m in fused.modules())


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1", "transformers_swin", "monai_2d"])
def test_attention_alone(name):
    fused = MODELS[name].make().eval()
    report = swin_fast.accelerate(fused, fuse="attention", strict=True)
    assert report.replaced and not mlps(report)
    assert set(run(name, fused)[1]) == {"aten::gelu"}
    assert mlps(swin_fast.accelerate(fused))  # and more afterwards
    assert set(run(name, fused)[1]) == {"swin_fast::gelu_"}
    assert not mlps(swin_fast.accelerate(fused, fuse="attention"))


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1", "transformers_swinv2", "monai_2d"])
def test_in_training_the_librarys_own_runs(name):
    model = MODELS[name].make().eval()
    fused = copy.deepcopy(model)
    swin_fast.accelerate(fused, strict=True)
    x = MODELS[name].image(SIZES["divisible"])
    with Calls() as calls:
        got, got_grads = step(fused, x)
    assert not any("swin_fast::gelu" in op for op in calls.names) and "aten::gelu" in calls.names
    want, want_grads = step(model, x)
    assert_close(got, want, 1e-5)
    assert_gradients_close(got_grads, want_grads, 1e-4)


@pytest.mark.parametrize("name", LIBRARIES)
def test_dropout_is_the_librarys(name):
    """Both dropouts of an MLP, in training, with and without gradients."""
    fused = MODELS[name].make()
    mlp = fused.get_submodule(mlps(swin_fast.accelerate(fused))[0].name)
    for module in mlp.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    plain = copy.deepcopy(mlp).train()
    swin_fast.restore(plain)
    x = torch.randn(20, 5, next(mlp.parameters()).shape[1])
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            torch.manual_seed(7)
            want = plain(x)
            torch.manual_seed(7)
            assert distance(mlp.train()(x), want) < 1e-6


class DoubledGELU(nn.GELU):
    def forward(self, x):
        return 2 * super().forward(x)


TANH = "its activation is GELU(approximate='tanh'), not the exact GELU"
OTHER = [
    ("timm_v1", "act", nn.GELU(approximate="tanh"), TANH),
    ("timm_v1", "act", DoubledGELU(), "its activation is DoubledGELU(approximate='none')"),
    ("timm_v1", "act", nn.ReLU(), None),
    ("transformers_maskformer", "intermediate_act_fn", nn.GELU(approximate="tanh"), TANH),
    ("transformers_maskformer", "intermediate_act_fn", nn.SiLU(), None),
]


@pytest.mark.parametrize("name, attribute, act, reason", OTHER)
def test_another_activation_is_left_alone(name, attribute, act, reason):
    model = MODELS[name].make().eval()
    for module in model.modules():
        if hasattr(module, attribute):
            setattr(module, attribute, act)
    fused = copy.deepcopy(model)
    if reason is not None:
        with pytest.raises(RuntimeError, match="strict"):
            swin_fast.accelerate(fused, strict=True)
    report = swin_fast.accelerate(fused)
    assert len(report.replaced) == 4 and len(report.left) == (0 if reason is None else 4)
    assert all(reason in e.reason and e.name.rpartition(".")[2] in ("mlp", "intermediate") for e in report.left)
    x = MODELS[name].image(SIZES["divisible"])
    with torch.no_grad():
        assert_close(tensors(fused(x)), tensors(model(x)), 1e-5)


def test_transformers_gelus():
    """Its own module computes the exact GELU in two ways, and has others."""
    activations = pytest.importorskip("transformers.activations")
    for name, exact in (("gelu", True), ("gelu_python", False), ("gelu_new", False), ("gelu_10", False)):
        model = MODELS["transformers_swin"].make().eval()
        for module in model.modules():
            if hasattr(module, "activation_fn"):
                module.activation_fn = activations.ACT2FN[name]
        assert len(swin_fast.accelerate(model).left) == (0 if exact else 4), name


def test_timms_own_gelu():
    layers = pytest.importorskip("timm.layers.activations")
    model = MODELS["timm_v1"].make().eval()
    for block in model.layers[0].blocks:
        block.mlp.act = layers.GELU()
    swin_fast.accelerate(model, strict=True)
    assert run("timm_v1", model)[1] == ["swin_fast::gelu_"] * 4


def test_an_activation_that_is_exchanged_afterwards():
    model = MODELS["timm_v1"].make().eval()
    fused = copy.deepcopy(model)
    swin_fast.accelerate(fused, strict=True)
    x = torch.randn(1, 3, 16, 16)
    for m in (model, fused):
        m.layers[0].blocks[0].mlp.act = nn.GELU(approximate="tanh")
        m.layers[0].blocks[1].mlp.act = nn.Tanh()
    with torch.no_grad():
        assert distance(fused(x), model(x)) < 1e-5


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1", "transformers_swin", "monai_2d"])
def test_hooks_see_what_the_library_shows_them(name):
    """The first Linear's result is kept by a hook and not written over; the activation's hooks are called."""
    seen = {}
    pair = {"timm": "mlp.fc1 mlp.act", "torchvision": "mlp.0 mlp.1", "transformers": "mlp.fc1 mlp.activation_fn"}
    linear, act = pair.get(name.partition("_")[0], "mlp.linear1 mlp.fn").split()
    model = MODELS[name].make().eval()
    fused = copy.deepcopy(model)
    swin_fast.accelerate(fused, strict=True)
    x = MODELS[name].image(SIZES["divisible"])
    for m in (model, fused):
        for path, module in m.named_modules():
            if path.endswith((linear, act)):

                def keep(module, args, out, key=(m is fused, path)):
                    seen[key] = out

                module.register_forward_hook(keep)
        with torch.no_grad():
            m(x)
    paths = {path for _, path in seen}
    assert paths and len(seen) == 2 * len(paths)
    for path in paths:
        assert distance(seen[True, path], seen[False, path]) < 1e-5


def test_nothing_outside_a_block():
    layers = pytest.importorskip("timm.layers")
    mlp = layers.Mlp(8, 16)
    model = nn.Sequential(mlp, nn.GELU(), MODELS["timm_v1"].make())
    report = swin_fast.accelerate(model)
    assert not isinstance(mlp, Fused) and all(e.name.startswith("2.layers.") for e in report.entries)


def test_an_mlp_of_somebodys_own_is_left_alone():
    timm = pytest.importorskip("timm.layers.mlp")

    class Scaled(timm.Mlp):
        def forward(self, x):
            return 2 * super().forward(x)

    model = MODELS["timm_v1"].make().eval()
    block = model.layers[0].blocks[0]
    block.mlp = Scaled(16, 32)
    report = swin_fast.accelerate(model)
    (entry,) = report.left
    assert entry.name == "layers.0.blocks.0.mlp" and entry.reason == "Scaled.forward is not timm's own"
    block.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    assert not swin_fast.accelerate(model).left and not isinstance(block.mlp, Fused)


class ScaledMlp(parts.Mlp):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_copied_mlp_is_compared_before():
    block = randomize(classifiers.SwinTransformerBlock(16, (8, 8), 2, 4, 2, 2.0))
    block.mlp = ScaledMlp(16, 32)
    (entry,) = swin_fast.accelerate(block).left
    assert entry.name == "mlp" and entry.reason == "it computes something else than a two-layer MLP"
    block.mlp = parts.Mlp(16, 32)
    block.mlp.act = nn.GELU(approximate="tanh")
    (entry,) = swin_fast.accelerate(block).left
    assert entry.reason == "its activation is GELU(approximate='tanh'), not the exact GELU"
    block.mlp = parts.Mlp(16, 32)
    other, x = copy.deepcopy(block), torch.randn(2, 64, 16)
    swin_fast.restore(other)
    swin_fast.accelerate(block, strict=True)
    with torch.no_grad(), Calls() as calls:
        assert distance(block(x), other(x)) < 1e-5
    assert [op for op in calls.names if "gelu" in op] == ["swin_fast::gelu_", "aten::gelu"]


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1", "transformers_swin"])
def test_compiled_exported_and_traced_code_has_the_librarys_own(name):
    fused = MODELS[name].make().eval()
    mlp = fused.get_submodule(mlps(swin_fast.accelerate(fused, strict=True))[0].name)
    x, seen = torch.randn(2, 5, 16), []

    def backend(graph, _):
        seen.extend(str(n.target) for n in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(mlp, backend=backend, fullgraph=True)(x)
        program = torch.export.export(mlp, (x,))
        traced = str(torch.jit.trace(mlp, x).inlined_graph)
    for code in (" ".join(seen), str(program.graph), traced):
        assert "gelu" in code and "swin_fast::gelu" not in code and "swin_fast.gelu" not in code
