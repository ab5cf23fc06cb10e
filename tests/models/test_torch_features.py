"""What PyTorch does to a model: half types, autocast, copies, checkpointing, the meta device, torch.compile."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from swin_fast import SwinTransformer, WindowAttention, use_backend

from ..weights import assert_close, distance, gradients, randomize

SMALL = {"patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5, "window_size": 4}


def small(**options) -> SwinTransformer:
    return randomize(SwinTransformer(img_size=16, **{**SMALL, "drop_path_rate": 0.0, **options}))


def step(model, image) -> dict[str, torch.Tensor]:
    """Output and all gradients of a training step with a fixed loss."""
    model.zero_grad()
    leaf = image.clone().requires_grad_()
    y = model(leaf)
    (y.float() * torch.arange(1, 6)).sum().backward()
    return {"output": y.detach(), "image": leaf.grad} | {k: g.clone() for k, g in gradients(model).items()}


def assert_as_good_as_plain_pytorch(run, truth: dict[str, torch.Tensor]) -> None:
    """Root mean square distance from float64: at most twice what the formula in PyTorch, in the same dtype, is off."""

    def errors() -> dict[str, float]:
        return {k: ((t.double() - truth[k]).norm() / truth[k].norm()).item() for k, t in run().items()}

    got = errors()
    with use_backend("reference"):
        plain = errors()
    far = {k: (got[k], plain[k]) for k in truth if not got[k] <= 2 * plain[k] + 1e-3}
    assert not far, far


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ape", [False, True])
def test_half_types(dtype, ape):
    model = small(ape=ape).to(dtype)
    image = torch.randn(2, 3, 16, 22).to(dtype)
    assert model(image).dtype == dtype
    truth = step(copy.deepcopy(model).double(), image.double())
    assert_as_good_as_plain_pytorch(lambda: step(model, image), truth)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_autocast(qkv_bias):
    model = small(qkv_bias=qkv_bias, ape=True)
    image = torch.randn(2, 3, 16, 22)

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            return step(model, image)

    result = run()
    assert result["output"].dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for k, t in result.items() if k != "output")
    assert_as_good_as_plain_pytorch(run, step(copy.deepcopy(model).double(), image.double()))


def test_copies():
    model = small(ape=True, drop_path_rate=0.1, use_checkpoint=True).eval()
    image = torch.randn(1, 3, 16, 20)
    want = model(image)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = SwinTransformer(img_size=16, **SMALL, ape=True).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(other(image), want)
        assert other.state_dict().keys() == model.state_dict().keys()
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("size", [(16, 16), (11, 22)])
def test_checkpointing(size):
    options, image = {"drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.3}, torch.randn(2, 3, *size)
    results, calls = [], []
    for use_checkpoint in (False, True):
        model = small(**options, use_checkpoint=use_checkpoint)
        for layer in model.layers:
            for block in layer.blocks:
                block.register_forward_pre_hook(lambda *_, use=use_checkpoint: calls.append(use))
        torch.manual_seed(0)
        results.append(step(model, image))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert (calls.count(False), calls.count(True)) == (4, 8)  # each block runs again in the backward


@pytest.mark.parametrize("assign", [True, False])
def test_meta_device(assign):
    with torch.device("meta"):
        model = SwinTransformer(img_size=16, **SMALL, ape=True).eval()
    assert all(t.is_meta for t in model.state_dict().values())
    assert model(torch.empty(2, 3, 16, 22, device="meta")).shape == (2, 5)
    source = small(ape=True).eval()
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict(), assign=assign)
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(model(image), source(image))


def test_attention_made_on_the_meta_device_spoils_no_other():
    with torch.device("meta"):
        WindowAttention(8, (3, 5), 2)
    attention = WindowAttention(8, (3, 5), 2)
    assert not attention.relative_position_index.is_meta
    with use_backend("reference"):
        assert attention(torch.zeros(1, 3, 5, 8)).isfinite().all()


def test_an_empty_batch():
    assert small()(torch.empty(0, 3, 16, 22)).shape == (0, 5)


@pytest.mark.parametrize("training", [False, True])
def test_compile_for_a_fixed_size(training):
    torch.compiler.reset()
    model = small(ape=True).train(training)
    image = torch.randn(2, 3, 16, 22)
    want = step(model, image)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    step(compiled, image)
    with torch._dynamo.config.patch(error_on_recompile=True):
        got = {k.removeprefix("_orig_mod."): t for k, t in step(compiled, torch.randn(2, 3, 16, 22)).items()}
        assert got.keys() == want.keys()
        got = {k.removeprefix("_orig_mod."): t for k, t in step(compiled, image).items()}
    assert_close(got, want, 1e-5)


def test_compile_with_every_dropout_under_autocast():
    torch.compiler.reset()
    model = small(drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.3, use_checkpoint=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        result = step(compiled, torch.randn(2, 3, 16, 20))
    assert result["output"].dtype == torch.bfloat16
    assert all(t.isfinite().all() for t in result.values())


def test_compile_for_any_size():
    torch.compiler.reset()
    model = small(depths=(2, 1), ape=True).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        compiled(torch.randn(1, 3, 32, 40))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for size in [(48, 32), (64, 80), (40, 24), (32, 40), (72, 64)]:  # maps that windows divide and do not
                image = torch.randn(1, 3, *size)
                assert distance(compiled(image), model(image)) < 1e-6
