"""The rule of the CPU's tests on a GPU, for each backend that runs there, and what only a GPU has.

Streams, graphs, several devices, TF32, no waiting for the device, tensors of more than 2**31 elements.
"""

from __future__ import annotations

import warnings
from math import prod

import pytest
import torch
from torch import nn

import swin_fast
from swin_fast.functional import window_attention

from .cases import DIFFERENTIABLE, DTYPES, Case, assert_accurate, assert_identical, run
from .gpu import need

pytestmark = pytest.mark.gpu

HALF = torch.bfloat16
W, G = (4, 3), (9, 8)
CASES = [
    Case((7, 7), (14, 21), shift=3, heads=3, head_dim=32),
    Case((7, 7), (10, 13), shift=(3, 2), head_dim=32, pad="attended"),
    Case((8, 8), (11, 24), shift=(4, 0), head_dim=10, heads=6),
    Case((12, 12), (24, 24), shift=6, head_dim=32, heads=4),
    Case((16, 16), (32, 16), shift=8, head_dim=64),
    Case((24, 24), (24, 25), heads=1, batch=1, shift=3, pad="attended"),
    Case((2, 3, 4), (5, 7, 6), shift=(1, 2, 3), heads=3, head_dim=10),
    Case((8, 7, 7), (8, 14, 14), shift=(4, 3, 3), head_dim=32, batch=1),
    Case(W, G, shift=1, pad="attended", pad_order="roll_then_pad", bias="index", mask="image", cosine=True),
    Case((8, 8), (16, 16), shift=4, head_dim=32, cosine=True),
    Case(W, G, shift=(2, 1), mask_value=-torch.inf, mask="batch", scale=0.7),
    Case(W, G, dropout=0.3, pad="attended", shift=1, wide=True),
]
USUAL = Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32, pad="attended")


@pytest.fixture(params=["triton", "cuda"])
def backend(request) -> str:
    return request.param


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_gradients(case, dtype, backend):
    tensors = case.tensors(dtype, "cuda")
    assert_accurate(case, tensors, run(case, tensors, need(backend, case, dtype)))


@pytest.mark.filterwarnings("ignore:swin_fast. window attention runs as plain PyTorch")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_plain_pytorch(case):
    tensors = case.tensors(torch.float64, "cuda")
    assert_accurate(case, tensors, run(case, tensors))


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs_are_one(case, dtype, backend):
    tensors, name = case.tensors(dtype, "cuda"), need(backend, case, dtype)
    assert_identical(run(case, tensors, name), run(case, tensors, name))


@pytest.mark.parametrize("case", [USUAL, CASES[4]], ids=str)
def test_the_order_of_the_batch_changes_nothing_but_roundings(case, backend):
    """The bias table's gradient is a sum over the batch; everything else belongs to one image."""
    case = Case(**{**vars(case), "batch": 5})
    tensors, name = case.tensors(torch.float32, "cuda"), need(backend, case, torch.float32)
    flipped = {k: t.flip(0) if k in ("qkv", "grad") else t for k, t in tensors.items()}
    one, other = run(case, tensors, name), run(case, flipped, name)
    for key in ("out", "dq", "dk", "dv"):
        assert torch.equal(one[key], other[key].flip(0)), key
    for key in set(one) - {"out", "dq", "dk", "dv"}:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:swin_fast. window attention runs as plain PyTorch")
def test_same_seed_same_dropout_as_on_the_cpu(case, dtype):
    """The mask is a function of the seed alone, so a fixed seed gives one result on both devices."""
    results = []
    for device in ("cpu", "cuda"):
        tensors = case.tensors(dtype, device)
        shift = [case.shift] * len(case.grid) if isinstance(case.shift, int) else list(case.shift)
        out, _ = torch.ops.swin_fast.window_attention(
            *(tensors[k] for k in ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")),
            torch.tensor([12345], device=device), case.heads, list(case.window), shift, 0.5,
            case.pad_order == "roll_then_pad", case.mask_value, case.dropout, False,
        )  # fmt: skip
        results.append(out.cpu())
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_a_fast_backend_runs_and_says_nothing():
    qkv = torch.randn(2, 14, 14, 288, device="cuda", dtype=HALF)
    said = swin_fast.explain(qkv, num_heads=3, window_size=7)
    assert said.backend in ("cuda", "triton"), said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        window_attention(qkv, num_heads=3, window_size=7)


def leaves_of(case: Case, dtype: torch.dtype, device: str = "cuda") -> tuple[dict, torch.Tensor]:
    """Arguments of the call that require gradients where they can, and the gradient of its output."""
    tensors = {k: t for k, t in case.tensors(dtype, device).items() if t is not None}
    grad = tensors.pop("grad")
    return {k: t.requires_grad_() if k in DIFFERENTIABLE else t for k, t in tensors.items()}, grad


def step(case: Case, leaves: dict, grad: torch.Tensor) -> list[torch.Tensor]:
    out = window_attention(**leaves, **case.options)
    return [out, *torch.autograd.grad(out, [leaves[k] for k in DIFFERENTIABLE if k in leaves], grad)]


GRAPHED = [USUAL, CASES[4], Case((4, 3), (9, 8), shift=1, bias="index", mask="image", cosine=True, pad="attended")]


@pytest.mark.parametrize("case", GRAPHED, ids=str)
def test_cuda_graph(case, backend):
    """Forward and backward in one graph, replayed with other values: the same bits as without it."""
    leaves, grad = leaves_of(case, HALF)
    with swin_fast.use_backend(need(backend, case, HALF)):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles the kernels and reads the index, as a capture must not
            for _ in range(2):
                step(case, leaves, grad)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(case, leaves, grad)
        for seed in (3, 4):
            torch.manual_seed(seed)
            with torch.no_grad():
                leaves["qkv"].copy_(torch.randn_like(leaves["qkv"]))
            graph.replay()
            want = step(case, leaves, grad)
            for got, expected in zip(captured, want, strict=True):
                assert torch.isfinite(expected).all() and torch.equal(got, expected)


def test_cuda_graph_draws_dropout_anew():
    case = Case((7, 7), (14, 14), heads=3, head_dim=32, dropout=0.5)
    leaves, _ = leaves_of(case, HALF)
    with torch.no_grad():
        window_attention(**leaves, **case.options)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = window_attention(**leaves, **case.options)
        graph.replay()
        first = out.clone()
        graph.replay()
    assert torch.isfinite(first).all() and not torch.equal(first, out)


def test_cuda_graph_refuses_an_index_it_cannot_read():
    case = Case((4, 3), (8, 6), bias="index")
    leaves, _ = leaves_of(case, HALF)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        window_attention(**leaves, **case.options)
        leaves["bias_index"] = leaves["bias_index"].clone()
        with pytest.raises(RuntimeError, match="bias_index is new in this CUDA graph"), torch.cuda.graph(graph):
            window_attention(**leaves, **case.options)


def test_nothing_waits_for_the_device(backend):
    case = CASES[8]
    leaves, grad = leaves_of(case, HALF)
    with swin_fast.use_backend(need(backend, case, HALF)):
        step(case, leaves, grad)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(case, leaves, grad)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_runs_on_the_current_stream(backend):
    """What it reads is written on the same stream after a long wait, so on any other it would read zeros."""
    source = torch.randn(2, 14, 14, 288, device="cuda", dtype=HALF)
    with swin_fast.use_backend(need(backend, USUAL, HALF)), torch.no_grad():
        want = window_attention(source, num_heads=3, window_size=7)
        qkv = torch.zeros_like(source)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)
            qkv.copy_(source)
            got = window_attention(qkv, num_heads=3, window_size=7)
        stream.synchronize()
    assert torch.equal(got, want)


def test_a_device_that_is_not_the_current_one(backend):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    name = need(backend, USUAL, HALF)
    results = []
    for device in ("cuda:0", "cuda:1"):
        assert torch.cuda.current_device() == 0
        tensors = USUAL.tensors(HALF, device)
        results.append({k: t.cpu() for k, t in run(USUAL, tensors, name).items()})
    assert torch.cuda.current_device() == 0
    assert_identical(*results)


def test_float32_follows_the_tf32_switch(backend):
    """The same rule with TF32 and without, and different results: the switch does something."""
    case, matmul = Case((8, 8), (16, 16), shift=4, head_dim=64, heads=2), torch.backends.cuda.matmul
    tensors, name, before = case.tensors(torch.float32, "cuda"), need(backend, case, torch.float32), matmul.allow_tf32
    results = {}
    try:
        for allowed in (False, True):
            matmul.allow_tf32 = allowed
            results[allowed] = run(case, tensors, name)
            assert_accurate(case, tensors, results[allowed])
    finally:
        matmul.allow_tf32 = before
    assert not torch.equal(results[False]["out"], results[True]["out"])


class Attention(nn.Module):
    """A qkv Linear and the op, as a block has them."""

    def __init__(self, **options):
        super().__init__()
        self.qkv = nn.Linear(96, 288)
        self.bias_table = nn.Parameter(torch.randn(169, 3))
        self.options = {"num_heads": 3, "window_size": 7, "shift_size": 3, **options}

    def forward(self, x):
        return window_attention(self.qkv(x), self.bias_table, pad_qkv=self.qkv.bias, **self.options)


def train(module: nn.Module, function, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and the gradient of every parameter."""
    out = function(x)
    names, leaves = zip(*module.named_parameters(), strict=True)
    return {"out": out.detach(), **dict(zip(names, torch.autograd.grad(out.float().sum(), leaves), strict=True))}


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compile_one_graph(mode):
    module = Attention().cuda()
    compiled = torch.compile(module, fullgraph=True, mode=mode)
    for seed in range(4):  # the third call and later ones replay a graph
        x = torch.randn(2, 10, 14, 96, generator=torch.Generator().manual_seed(seed)).cuda()
        torch.compiler.cudagraph_mark_step_begin()
        got = {k: t.clone() for k, t in train(module, compiled, x).items()}
        torch.testing.assert_close(got, train(module, module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_any_size_once():
    module = Attention().cuda()
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, height, width in ((2, 9, 7), (3, 14, 21), (4, 5, 16)):
            x = torch.randn(batch, height, width, 96, device="cuda")
            torch.testing.assert_close(train(module, compiled, x), train(module, module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [HALF, torch.float16], ids=str)
def test_autocast(dtype):
    """The Linear gives half types, parameters stay float32; as near to float64 as the plain road."""
    module, x = Attention().cuda(), torch.randn(2, 10, 14, 96, device="cuda")
    results = {}
    for name in ("auto", "reference"):
        with swin_fast.use_backend(name), torch.autocast("cuda", dtype):
            results[name] = train(module, module, x)
    with swin_fast.use_backend("reference"):
        exact = train(module.double(), module, x.double())
    assert results["auto"]["out"].dtype == dtype
    for key, value in exact.items():
        got, plain = (float((r[key].double() - value).abs().max()) for r in (results["auto"], results["reference"]))
        assert got <= 2 * plain + 1e-6, key


@pytest.mark.parametrize("backward", [False, True])
def test_the_tuner_times_what_is_right_and_nothing_else(backward, monkeypatch):
    need("triton", USUAL, HALF)
    from swin_fast.triton_kernels import timing, tuning
    from swin_fast.triton_kernels.config import Variant, default_config

    variant = Variant("bf16", (1, 7, 7), (1, 56, 56), (0, 3, 3), 4, 3, 32, table="bf16", rows=169)
    config = default_config(variant, backward)
    assert 1e-6 < timing.time_call(variant, backward, config) < 0.1
    right = timing.run
    monkeypatch.setattr(timing, "run", lambda *arguments: tuple(t * 1.1 for t in right(*arguments)))
    with pytest.raises(tuning.CannotRun, match="is off by"):
        timing.time_call(variant, backward, config)


def test_memory_of_a_training_step(backend):
    """Nothing of the size of N x N is kept or made: forward and backward need their results and little more."""
    case = Case((7, 7), (56, 56), shift=3, heads=3, head_dim=32, batch=32)
    leaves, grad = leaves_of(case, HALF)
    with swin_fast.use_backend(need(backend, case, HALF)):
        del step(case, leaves, grad)[:]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = step(case, leaves, grad)
        torch.cuda.synchronize()
    given = sum(t.nbytes for t in results)
    assert torch.cuda.max_memory_allocated() - before < 1.3 * given


@pytest.mark.slow
def test_a_map_of_more_than_2_to_the_31_elements(backend):
    """The last windows of a huge image, whose offsets do not fit in 32 bits, are what they are alone."""
    case = Case((7, 7), (4732, 4732), heads=1, head_dim=32, batch=1)
    size = prod(case.grid) * 96
    assert size > 2**31
    if torch.cuda.mem_get_info()[0] < 12 * size:
        pytest.skip("needs more memory")
    with swin_fast.use_backend(need(backend, case, HALF)):
        qkv = torch.randn(1, *case.grid, 96, device="cuda", dtype=HALF, requires_grad=True)
        out = window_attention(qkv, num_heads=1, window_size=7)
        (grad,) = torch.autograd.grad(out, qkv, out)
        last = qkv[:, -14:, -14:].detach().requires_grad_()
        want = window_attention(last, num_heads=1, window_size=7)
        (want_grad,) = torch.autograd.grad(want, last, want)
    assert torch.equal(out[:, -14:, -14:], want) and torch.equal(grad[:, -14:, -14:], want_grad)
