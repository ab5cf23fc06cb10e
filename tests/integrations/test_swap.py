"""Everything that one may do to a model keeps working on an accelerated one."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import swin_fast
from swin_fast.integrations import Report, swap
from swin_fast.integrations.swap import Fused

from ..weights import assert_close, distance, randomize
from .doubles import classifiers
from .libraries import MODELS, SIZES
from .stepping import assert_gradients_close, step, tensors

pytestmark = pytest.mark.usefixtures("seed")

NAMES = ("timm_v1", "torchvision_v2", "transformers_swin", "transformers_maskformer", "monai_2d")


def make(name):
    model = MODELS[name].make().eval()
    return model, copy.deepcopy(model)


def run(model, x):
    with torch.no_grad():
        return tensors(model(x))


def same(got, want):
    return got.keys() == want.keys() and all(torch.equal(t, want[k]) for k, t in got.items())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_stay_and_restore_gives_everything_back(name):
    model = MODELS[name].make().eval()
    call, x = MODELS[name].call, MODELS[name].image(SIZES[MODELS[name].sizes[0]])

    def state():
        objects = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {k: id(t) for k, t in objects.items()}, {k: t.clone() for k, t in model.state_dict().items()}

    def attributes():
        return [(type(m), {k: v for k, v in vars(m).items() if not k.startswith("_")}) for m in model.modules()]

    with torch.no_grad():
        want = tensors(call(model, x))  # also lets transformers set the windows of its layers
        before, classes = state(), attributes()
        report = swin_fast.accelerate(model)
        assert isinstance(report, Report) and all(
            isinstance(model.get_submodule(e.name), Fused) for e in report.replaced
        )
        between = state()
        assert not same(tensors(call(model, x)), want) or name == "monai_unetr"
        swin_fast.restore(model)
        after = state()
        for ids, tensors_ in (between, after):
            assert ids == before[0] and list(tensors_) == list(before[1])
            assert all(torch.equal(t, before[1][k]) for k, t in tensors_.items())
        assert attributes() == classes
        assert same(tensors(call(model, x)), want)


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name):
    _, fused = make(name)
    swin_fast.accelerate(fused)
    x = MODELS[name].image(SIZES["divisible"])
    want, kinds = run(fused, x), [type(m) for m in fused.modules()]
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for other in (
        copy.deepcopy(fused), copy.copy(fused), pickle.loads(pickle.dumps(fused)), torch.load(file, weights_only=False)
    ):  # fmt: skip
        assert [type(m) for m in other.modules()] == kinds and same(run(other, x), want)
    other = copy.deepcopy(fused)
    swin_fast.restore(other)
    assert not any(isinstance(m, Fused) for m in other.modules()) and any(isinstance(m, Fused) for m in fused.modules())


def test_a_pickle_loads_in_a_new_process(tmp_path):
    pytest.importorskip("timm")
    _, fused = make("timm_v1")
    swin_fast.accelerate(fused)
    x = torch.randn(1, 3, 16, 16)
    torch.save({"model": fused, "x": x, "y": run(fused, x)["out"]}, tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "from tests.peers import define_torchvision_operators\n"
        "define_torchvision_operators()\n"
        "kept = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad(): y = kept['model'](kept['x'])\n"
        "assert (y - kept['y']).abs().max() < 1e-5\n"
        "print(type(kept['model'].layers[0].blocks[0])._swin_fast_mixin.__module__)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (os.getcwd(), *sys.path) if p)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.pt")], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "swin_fast.integrations.timm", done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_twice_is_once(name):
    _, fused = make(name)
    first = swin_fast.accelerate(fused)
    kinds = [type(m) for m in fused.modules()]
    second = swin_fast.accelerate(fused, strict=True)
    assert [type(m) for m in fused.modules()] == kinds
    assert [(e.name, e.kind, e.by) for e in second.entries] == [(e.name, e.kind, e.by) for e in first.entries]
    swin_fast.restore(fused)
    swin_fast.restore(fused)
    assert not any(isinstance(m, Fused) for m in fused.modules())


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_made_before_goes_on(name):
    model, fused = make(name)
    x = MODELS[name].image(SIZES["not_divisible"])
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3) for m in (model, fused)]
    swin_fast.accelerate(fused)
    for _ in range(2):
        for m, optimizer in zip((model, fused), optimizers, strict=True):
            step(m, x)
            optimizer.step()
    got, want = run(fused, x), run(model, x)
    assert_close(got, want, 1e-3)
    fresh = MODELS[name].make()
    fresh.load_state_dict(fused.state_dict(), strict=True)  # into the library's own model
    assert_close(run(fresh.eval(), x), got, 1e-5)


@pytest.mark.parametrize("name", ["timm_v1", "transformers_swin", "transformers_donut"])
def test_gradient_checkpointing(name):
    model, fused = make(name)
    x = MODELS[name].image(SIZES["not_square"])
    swin_fast.accelerate(fused)
    want, want_grads = step(fused.train(), x)
    calls = {model: 0, fused: 0}
    norm = "norm1" if name == "timm_v1" else "layernorm_before"
    for m in calls:
        block = next(m for _, m in m.named_modules() if hasattr(m, norm))

        def count(*_, m=m):
            calls[m] += 1

        block.get_submodule(norm).register_forward_hook(count)
        if name == "timm_v1":
            m.set_grad_checkpointing(True)
        else:
            m.gradient_checkpointing_enable()
        got, got_grads = step(m.train(), x)
    assert calls[fused] == calls[model] >= 2  # the block runs again in the backward, as often as in the library
    assert_close(got, want, 1e-6)
    assert_gradients_close(got_grads, want_grads, 1e-5)


@pytest.mark.parametrize("name", ["timm_v2", "torchvision_v1", "transformers_swinv2"])
def test_hooks(name):
    """Hooks on the replaced module and its Linears are called; one inside the attention gets the library's road."""
    model, fused = make(name)
    swin_fast.accelerate(fused)
    swap._said.clear()
    block = {"timm_v2": "layers.0.blocks.1", "torchvision_v1": "features.1.1.attn"}.get(
        name, "swinv2.encoder.layers.0.blocks.1"
    )
    inner = {"timm_v2": "attn.proj", "transformers_swinv2": "attention.self.query"}.get(name)
    x, seen = MODELS[name].image(SIZES["not_divisible"]), []
    hooked = [fused.get_submodule(block)] + ([fused.get_submodule(f"{block}.{inner}")] if inner else [])
    for module in hooked:
        module.register_forward_hook(lambda m, *_: seen.append(m))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(fused, x)
    assert len(set(map(id, seen))) == len(hooked)
    if name == "torchvision_v1":
        return
    weights = {"timm_v2": "attn.softmax", "transformers_swinv2": "attention.self.dropout"}[name]
    kept = []
    for m in (fused, model):
        m.get_submodule(f"{block}.{weights}").register_forward_hook(lambda m, args, out: kept.append(out))
    with pytest.warns(UserWarning, match=f"{weights} is hooked"):
        run(fused, x)
    run(model, x)
    assert kept[0].shape[-1] == 16 and distance(*kept) < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(fused, x)  # said once


def test_a_hook_that_changes_the_output_does_so():
    model, fused = make("timm_v1")
    swin_fast.accelerate(fused)
    x = torch.randn(1, 3, 16, 16)
    for m in (model, fused):
        m.layers[0].blocks[1].attn.proj.register_forward_hook(lambda module, args, out: out * 2)
    assert_close(run(fused, x), run(model, x), 1e-5)


def test_a_forward_put_on_an_instance_is_respected():
    model, fused = make("timm_v1")
    swin_fast.accelerate(fused)
    x = torch.randn(1, 3, 16, 16)
    for m in (model, fused):
        m.layers[0].blocks[1].attn.forward = lambda x, mask=None: x * 2
    with pytest.warns(UserWarning, match="attn is hooked"):
        assert_close(run(fused, x), run(model, x), 1e-5)


def test_subclasses():
    timm = pytest.importorskip("timm.models.swin_transformer")

    class Other(timm.SwinTransformerBlock):
        def _attn(self, x):
            return x

    class Named(timm.SwinTransformerBlock):
        pass

    class OtherAttention(timm.WindowAttention):
        def forward(self, x, mask=None):
            return x

    for kind, reason in ((Other, "Other._attn is not timm's own"), (Named, "")):
        block = kind(16, (8, 8), 2, window_size=4)
        report = swin_fast.accelerate(block)
        assert isinstance(block, Fused) == (not reason) and report.entries[0].reason == reason
        assert isinstance(block, kind) and type(block).__name__ == kind.__name__
    block = timm.SwinTransformerBlock(16, (8, 8), 2, window_size=4)
    block.attn = OtherAttention(16, 2, window_size=4)
    (entry,) = swin_fast.accelerate(block).left
    assert entry.reason == "attn is a OtherAttention, not timm's own WindowAttention"


def test_unsupported_options_are_reported():
    timm = pytest.importorskip("timm.models.swin_transformer")
    for options, reason in (
        ({"head_dim": 5}, "head_dim 5 is not an even number"),
        ({"window_size": 33, "input_resolution": (66, 66)}, "more than 1024 tokens"),
        ({"attn_drop": 1.0}, "drops all attention weights"),
    ):
        block = timm.SwinTransformerBlock(
            16, **{"input_resolution": (8, 8), "num_heads": 2, "window_size": 4, **options}
        )
        (entry,) = swin_fast.accelerate(block).left
        assert reason in entry.reason and not isinstance(block, Fused)
    block = timm.SwinTransformerBlock(16, (8, 8), 2, window_size=4)
    nn.utils.parametrize.register_parametrization(block.attn, "relative_position_bias_table", nn.Tanh())
    (entry,) = swin_fast.accelerate(block).left
    assert "is a ParametrizedWindowAttention" in entry.reason or "parametrized" in entry.reason
    block = timm.SwinTransformerBlock(16, (8, 8), 2, window_size=4).eval()
    nn.utils.parametrizations.weight_norm(block.attn.qkv)
    other = copy.deepcopy(block)
    swin_fast.accelerate(block, strict=True)
    x = torch.randn(1, 8, 8, 16)
    assert distance(block(x), other(x)) < 1e-5


def test_timm_with_another_window_and_another_size():
    model, fused = make("timm_v1")
    swin_fast.accelerate(fused)
    for m in (model, fused):
        m.set_input_size(img_size=(24, 40), window_size=(5, 3))
    x = torch.randn(1, 3, 24, 40)
    assert_close(run(fused, x), run(model, x), 1e-5)


def test_timm_with_a_kept_mask_refuses_what_timm_refuses():
    timm = pytest.importorskip("timm.models.swin_transformer")
    block = randomize(timm.SwinTransformerBlock(16, (8, 8), 2, window_size=4, shift_size=2)).eval()
    swin_fast.accelerate(block, strict=True)
    with pytest.warns(UserWarning, match="kept for another map"), pytest.raises(RuntimeError):
        block(torch.randn(1, 12, 12, 16))


def test_tracing_records_the_librarys_road():
    torchvision = pytest.importorskip("torchvision")
    from torchvision.models.feature_extraction import create_feature_extractor

    model, fused = make("torchvision_v1")
    swin_fast.accelerate(fused)
    x = torch.randn(1, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extracted = create_feature_extractor(fused, ["features.1"])
        traced = torch.jit.trace(fused, x, check_trace=False)
    assert torchvision and distance(extracted(x)["features.1"], fused.features[:2](x)) < 1e-5
    assert distance(traced(x), model(x)) < 1e-5 and "swin_fast" not in str(traced.inlined_graph)


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1"])
def test_export(name):
    model, fused = make(name)
    swin_fast.accelerate(fused)
    x = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        program = torch.export.export(fused, (x,))
        assert any("swin_fast.window_attention" in str(node.target) for node in program.graph.nodes)
        assert distance(program.module()(x), model(x)) < 1e-5


def test_compiled_before_and_for_changing_sizes():
    model, fused = make("torchvision_v1")
    compiled = torch.compile(fused, backend="eager", fullgraph=True, dynamic=True)
    swin_fast.accelerate(compiled, strict=True)
    assert any(isinstance(m, Fused) for m in fused.modules())
    with torch.no_grad():
        for size in ((24, 40), (32, 48), (20, 44)):
            x = torch.randn(1, 3, *size)
            assert distance(compiled(x), model(x)) < 1e-5


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, without a network."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.usefixtures("one_process")
def test_wrapped_in_ddp(when):
    from torch.nn.parallel import DistributedDataParallel

    model, fused = make("transformers_swin")
    x = MODELS["transformers_swin"].image(SIZES["not_divisible"])
    if when == "before":
        swin_fast.accelerate(fused)
    wrapped = DistributedDataParallel(fused)
    report = swin_fast.accelerate(wrapped, strict=True)
    assert report.entries[0].name.startswith("module.")
    got, grads = step(wrapped, x)
    want, want_grads = step(model, x)
    assert_close(got, want, 1e-5)
    assert_gradients_close({k.removeprefix("module."): g for k, g in grads.items()}, want_grads, 1e-4)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("unit", ["block", "attention"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.usefixtures("one_process")
def test_sharded_by_fsdp(when, unit):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, fused = make("timm_v1")
    mesh = init_device_mesh("cpu", (1,))
    x = torch.randn(2, 3, 20, 20)
    if when == "before":
        swin_fast.accelerate(fused, strict=True)
    for block in fused.layers[0].blocks:
        fully_shard(block if unit == "block" else block.attn, mesh=mesh)
    fully_shard(fused, mesh=mesh)
    if when == "after":
        assert len(swin_fast.accelerate(fused).replaced) == 8
    swap._said.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, grads = step(fused, x)
    want, want_grads = step(model, x)
    assert_close(got, want, 1e-5)
    grads = {k: g.full_tensor() if hasattr(g, "full_tensor") else g for k, g in grads.items()}
    assert_gradients_close(grads, want_grads, 1e-4)
    # an attention that is gathered by a hook of its own has to be called
    assert any("attn is hooked" in str(w.message) for w in said) == (unit == "attention")
    if when == "before" and unit == "block":
        with pytest.raises(RuntimeError, match="was put on top of it"):
            swin_fast.restore(fused)
    elif when == "after":
        swin_fast.restore(fused)
        assert not any(isinstance(m, Fused) for m in fused.modules())


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        swin_fast.accelerate(3)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        swin_fast.restore([])
    with pytest.raises(ValueError, match="fuse must be one of"):
        swin_fast.accelerate(nn.Linear(2, 2), fuse="everything")
    with pytest.raises(TypeError, match="verify must be"):
        swin_fast.accelerate(nn.Linear(2, 2), verify="yes")
    with pytest.raises(RuntimeError, match="no Swin attention"):
        swin_fast.accelerate(nn.Linear(2, 2), strict=True)
    assert str(swin_fast.accelerate(nn.Linear(2, 2))) == "no Swin attention that swin_fast knows"


def test_importing_us_imports_no_library():
    code = "import sys, torch, swin_fast; swin_fast.accelerate(torch.nn.Linear(2, 2)); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"timm", "torchvision", "transformers", "monai", "mmcv"} & set(modules)


def test_strict_changes_nothing_when_it_raises():
    block = classifiers.SwinTransformerBlock(16, (8, 8), 2, 4, 2, 2.0)
    odd = classifiers.SwinTransformerBlock(6, (8, 8), 2, 4, 2, 2.0)
    model = nn.Sequential(block, odd)
    with pytest.raises(RuntimeError, match="head_dim 3"):
        swin_fast.accelerate(model, strict=True)
    assert not any(isinstance(m, Fused) for m in model.modules())
