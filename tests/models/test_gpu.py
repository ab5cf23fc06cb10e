"""Whole models on a GPU: as near to float64 as on the plain road, training, graphs, torch.compile, checkpointing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swin_fast
from swin_fast import dispatch

from ..weights import assert_close, distance
from .families import FAMILIES

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("seed", "exact_products")]

DEVICE = "cuda"
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
ALONE = pytest.mark.parametrize("family", [FAMILIES[k] for k in ("v1", "v2", "3d")], ids=["v1", "v2", "3d"])


@pytest.fixture
def exact_products():
    """cuDNN's convolutions without TF32; where an operation of PyTorch has no deterministic kernel, it may run."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # put back by the fixture that all tests have
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=["auto", "triton"])
def backend(request) -> str:
    """What a user gets, and Triton where that is not the same; skipped, with the reason, where it does not run."""
    if request.param == "triton" and dispatch.triton_reason():
        pytest.skip(f"triton: {dispatch.triton_reason()}")
    return request.param


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, and the gradients of the input and of every parameter, for one fixed loss."""
    model.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    outputs = model(leaf)
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    weights = torch.Generator().manual_seed(7)
    drawn = (torch.randn(y.shape, generator=weights).to(y.device) for y in outputs)
    sum((y.float() * w).sum() for y, w in zip(outputs, drawn, strict=True)).backward()
    named = {f"output {i}": y.detach() for i, y in enumerate(outputs)} | {"input": leaf.grad}
    return named | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_as_good_as_plain_pytorch(run, truth: dict[str, Tensor], backend: str, allowance: float) -> None:
    """Root mean square distance from float64, against what the formula in PyTorch, in the same dtype, is off.

    At most twice that over all tensors together; a gradient of two numbers may have bad luck, and six times.
    """
    off = []
    for name in (backend, "reference"):
        with swin_fast.use_backend(name):
            found = run()
        assert found.keys() == truth.keys()
        off.append({k: float((t.double().cpu() - truth[k]).norm() / truth[k].norm()) for k, t in found.items()})
    got, plain = off
    far = {k: (got[k], plain[k]) for k in truth if not got[k] <= 6 * plain[k] + allowance}
    assert not far, far
    assert sum(got.values()) <= 2 * sum(plain.values()) + allowance * len(truth)


def truth_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The step in float64 on the CPU, in plain PyTorch."""
    with swin_fast.use_backend("reference"):
        return step(copy.deepcopy(model).cpu().double(), x.cpu().double())


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_training_step(family, dtype, backend):
    model, x = family.build().to(dtype), family.input().to(dtype)
    truth = truth_of(model, x)
    model, x = model.to(DEVICE), x.to(DEVICE)
    allowance = 1e-5 if dtype == torch.float32 else 1e-3
    assert_as_good_as_plain_pytorch(lambda: step(model, x), truth, backend, allowance)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_autocast(family, dtype, backend):
    model, x = family.build(), family.input()
    truth = truth_of(model, x)
    model, x = model.to(DEVICE), x.to(DEVICE)

    def run():
        with torch.autocast(DEVICE, dtype):
            return step(model, x)

    assert_as_good_as_plain_pytorch(run, truth, backend, 1e-3)


@ALONE
def test_float16_training_with_a_scaler_learns(family, backend):
    """As GradScaler is used; after ten steps on one batch the loss is that of the plain road, and much smaller."""
    losses = {}
    for name in (backend, "reference"):
        torch.manual_seed(0)
        model, x = family.build().to(DEVICE), family.input(batch=4).to(DEVICE)
        labels = torch.arange(4, device=DEVICE)
        optimizer, scaler = torch.optim.AdamW(model.parameters(), 2e-3), torch.amp.GradScaler(DEVICE, 128.0)
        losses[name] = []
        with swin_fast.use_backend(name):
            for _ in range(10):
                optimizer.zero_grad()
                with torch.autocast(DEVICE, torch.float16):
                    y = model(x)
                    loss = F.cross_entropy(y if y.dim() == 2 else y.flatten(2).mean(-1), labels)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                losses[name].append(loss.item())
    got, plain = losses[backend], losses["reference"]
    assert got[0] == pytest.approx(plain[0], rel=0.02)
    assert got[-1] < 0.5 * got[0] and abs(got[-1] - plain[-1]) < 0.1 * plain[0], losses


@ALONE
def test_checkpointing_changes_nothing(family, backend):
    x, results = family.input().to(DEVICE), []
    for use_checkpoint in (False, True):
        model = family.build(use_checkpoint=use_checkpoint).to(DEVICE)
        with swin_fast.use_backend(backend):
            results.append(step(model, x))
    assert_close(results[1], results[0], 1e-6)


@ALONE
def test_cuda_graph_of_a_model(family, backend):
    """Captured once, replayed with other pictures: what the model gives without a graph."""
    model, x = family.build().to(DEVICE).eval(), family.input().to(DEVICE)
    with swin_fast.use_backend(backend), torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(x)
        for seed in (3, 4):
            torch.manual_seed(seed)
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert distance(captured, model(x)) <= 1e-6


@pytest.mark.parametrize(("name", "mode"), [("v1", "reduce-overhead"), ("v2", "default"), ("3d", "default")])
def test_compiled_model(name, mode):
    """In one piece, forward and backward."""
    family = FAMILIES[name]
    model = family.build().to(DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for _ in range(3):  # the third call replays a graph
        x = family.input().to(DEVICE)
        torch.compiler.cudagraph_mark_step_begin()
        got = {k.removeprefix("_orig_mod."): t.clone() for k, t in step(compiled, x).items()}
        assert_close(got, step(model, x), 1e-3)
    torch._dynamo.reset()


@EACH
def test_moving_to_the_gpu_and_back(family):
    model, x = family.build().eval(), family.input()
    with torch.no_grad():
        before = step_outputs(model, x)
        on_gpu = step_outputs(model.to(DEVICE), x.to(DEVICE))
        after = step_outputs(model.cpu(), x)
    for one, two, three in zip(before, on_gpu, after, strict=True):
        assert torch.equal(one, three) and distance(two.cpu(), one) <= 1e-4


def step_outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = model(x)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


@pytest.mark.parametrize("size", [224, 250])
def test_swin_t_in_full_size(size, backend):
    """The model people use, a batch of two: bfloat16 logits against float64, and against the plain road."""
    model = swin_fast.swin_t().eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad(), swin_fast.use_backend("reference"):
        truth = model.to(DEVICE).double()(x.to(DEVICE).double())
        model, x = model.bfloat16(), x.to(DEVICE).bfloat16()
        plain = distance(model(x), truth)
    with torch.no_grad(), swin_fast.use_backend(backend):
        assert distance(model(x), truth) <= 2 * plain + 2**-9
