"""What PyTorch does to every family of models: half types, autocast, copies, checkpointing, meta, compile, export."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from swin_fast import use_backend

from ..weights import assert_close
from .families import FAMILIES

families = pytest.mark.parametrize("name", ["v2", "3d", "features", "policy"])


def assert_as_good_as_plain_pytorch(run, truth: dict[str, torch.Tensor]) -> None:
    """Distance from float64: at most twice what the formula in PyTorch, in the same dtype, is off, over all tensors.

    A gradient of few numbers (V2 has scales, one a head) can be near or far by luck, so each alone may be eight times
    as far; one that is wrong is further.
    """

    def errors() -> dict[str, float]:
        result = run()
        assert result.keys() == truth.keys()
        return {k: ((t.double() - truth[k]).norm() / truth[k].norm()).item() for k, t in result.items()}

    got = errors()
    with use_backend("reference"):
        plain = errors()
    far = {k: (got[k], plain[k]) for k in truth if not got[k] <= 8 * plain[k] + 1e-3}
    assert not far, far
    assert sum(got.values()) <= 2 * sum(plain.values())


def outputs(found) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def assert_same_bits(got, want) -> None:
    for g, w in zip(outputs(got), outputs(want), strict=True):
        assert torch.equal(g, w) and w.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@families
def test_half_types(name, dtype):
    family = FAMILIES[name]
    model, x = family.build().to(dtype), family.input().to(dtype)
    assert all(y.dtype == dtype for y in outputs(model(x)))
    truth = family.step(copy.deepcopy(model).double(), x.double())
    assert_as_good_as_plain_pytorch(lambda: family.step(model, x), truth)


@families
def test_autocast(name):
    family = FAMILIES[name]
    model, x = family.build(), family.input()

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            return family.step(model, x)

    result = run()
    assert all(t.dtype == torch.float32 for k, t in result.items() if not k.startswith("output"))
    assert_as_good_as_plain_pytorch(run, family.step(copy.deepcopy(model).double(), x.double()))


@families
def test_copies(name):
    family = FAMILIES[name]
    model, x = family.build(use_checkpoint=True).eval(), family.input()
    want = model(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = type(model).from_config(model.config).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert_same_bits(other(x), want)
        assert other.state_dict().keys() == model.state_dict().keys() and other.config == model.config
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}


@families
def test_checkpointing(name):
    family = FAMILIES[name]
    options, x = {"drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.3}, family.input()
    results, calls = [], []
    for use in (False, True):
        model = family.build(**options, use_checkpoint=use)
        for layer in model.layers:
            for block in layer.blocks:
                block.norm1.register_forward_pre_hook(lambda *_, use=use: calls.append(use))
        torch.manual_seed(0)
        results.append(family.step(model, x))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert (calls.count(False), calls.count(True)) == (4, 8)  # each block runs again in the backward


@families
def test_meta_device(name):
    family = FAMILIES[name]
    with torch.device("meta"):
        model = family.build().eval()
    assert all(t.is_meta for t in model.state_dict().values())
    source, x = family.build().eval(), family.input()
    want = source(x)
    assert [y.shape for y in outputs(model(x.to("meta")))] == [y.shape for y in outputs(want)]
    model.load_state_dict(source.state_dict(), assign=True)
    assert_same_bits(model(x), want)


@families
def test_an_empty_batch(name):
    family = FAMILIES[name]
    want = outputs(family.build().eval()(family.input()))
    got = outputs(family.build().eval()(family.input(batch=0)))
    assert [y.shape for y in got] == [(0, *y.shape[1:]) for y in want]


@pytest.mark.parametrize("name", ["v2", "3d", "features"])
def test_compile_for_a_fixed_size(name):
    torch.compiler.reset()
    family = FAMILIES[name]
    model, x = family.build(depths=(2, 1)), family.input()
    want = family.step(model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    family.step(compiled, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        got = family.step(compiled, x)
    assert_close(got, want, 1e-4)  # gradients of V2's scales have the largest rounding
    assert_close(*({k: t for k, t in found.items() if k.startswith("output")} for found in (got, want)), 1e-5)


@pytest.mark.parametrize("name", ["v2", "3d"])
def test_compile_for_another_size(name):
    torch.compiler.reset()
    family = FAMILIES[name]
    model = family.build(depths=(2, 1)).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in (family.size, family.other):
            x = family.input(size)
            assert_close({"y": compiled(x)}, {"y": model(x)}, 1e-5)


@pytest.mark.parametrize("name", ["v2", "3d"])
def test_export(name):
    family = FAMILIES[name]
    model, x = family.build(depths=(2, 1)).eval(), family.input()
    program = torch.export.export(model, (x,))
    called = [str(node.target) for node in program.graph.nodes if "swin_fast" in str(node.target)]
    assert len(called) == 3  # one for each block
    other = family.input()
    with torch.no_grad():
        assert_close({"y": program.module()(other)}, {"y": model(other)}, 1e-5)
