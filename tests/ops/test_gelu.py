"""GELU: its error against float64 on every instruction set, layouts, threads, derivatives, and whose kernel runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_fast import reference
from swin_fast.dispatch import use_backend
from swin_fast.functional import gelu
from swin_fast.testing import ALLOWANCE

from .calls import Calls
from .test_capability import ENV, SUPPORTED

OP, IN_PLACE = torch.ops.swin_fast.gelu.default, torch.ops.swin_fast.gelu_.default
DTYPES = {str(d)[6:]: d for d in (torch.float32, torch.bfloat16, torch.float16)}
ENDS = (-20.0, -7.0, -5.6, -5.0, -4.0, -3.0, -2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0, 4.0, 7.0, 20.0)

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@pytest.fixture(params=SUPPORTED)
def capability(request, monkeypatch):
    if not SUPPORTED[request.param]():
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setenv(ENV, request.param)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """Every number of a half type between the ends; for float32 a grid that the kernel's intervals do not divide."""
    if dtype == torch.float32:
        return torch.linspace(ENDS[0], ENDS[-1], 400_009)
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return x[x.abs() <= ENDS[-1]]


@every_dtype
@pytest.mark.usefixtures("capability")
def test_error(dtype):
    """In each interval: the largest error is at most twice that of PyTorch's own, and so is the relative error."""
    x = numbers(dtype)
    truth = reference.gelu(x.double())
    error, plain = ((y.double() - truth).abs() for y in (gelu(x), F.gelu(x)))
    normal = truth.abs() > torch.finfo(dtype).tiny
    for low, high in zip(ENDS, ENDS[1:], strict=False):
        inside = (x >= low) & (x <= high)
        bound = 2 * plain[inside].max() + ALLOWANCE[dtype] * truth[inside].abs().max()
        assert error[inside].max() <= bound, (low, high)
        inside &= normal
        if inside.any():
            share, allowed = ((e[inside] / truth[inside].abs()).max() for e in (error, plain))
            assert share <= 2 * allowed, (low, high)


@pytest.mark.usefixtures("capability")
def test_small_numbers_keep_all_their_digits():
    x = torch.logspace(-35, -3, 2000)
    x = torch.cat((x, -x))
    want = reference.gelu(x.double())
    assert ((gelu(x) - want) / want).abs().max() < 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
@pytest.mark.usefixtures("capability")
def test_the_tail_keeps_digits(dtype, bound):
    """Down to where the result is 0; PyTorch's own has none left at -5."""
    x = numbers(dtype)
    x = x[(x > -5.66) & (x < -3)]
    want = reference.gelu(x.double())
    assert ((gelu(x) - want) / want).abs().max() < bound


@every_dtype
@pytest.mark.usefixtures("capability")
def test_special_numbers(dtype):
    """As PyTorch has them in float64; each in every lane of a vector, and in a rest that fills none."""
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 6e4, -6e4, 2.0**-14], dtype=dtype)
    want = F.gelu(x.double()).to(dtype)
    for copies in (1, 23):
        given = x.repeat_interleave(copies)
        got, rtol = gelu(given), 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(got, want.repeat_interleave(copies), rtol=rtol, atol=0, equal_nan=True)
        assert torch.equal(got[got == 0].signbit(), given[got == 0].signbit())


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


DENSE = {
    "contiguous": lambda normal: normal(3, 5, 7, 4),
    "channels_last": lambda normal: normal(3, 5, 7, 4).to(memory_format=torch.channels_last),
    "reversed axes": lambda normal: normal(3, 5, 7, 4).permute(3, 2, 1, 0),
    "one channel": lambda normal: normal(2, 1, 7, 4).to(memory_format=torch.channels_last),
    "not aligned": lambda normal: normal(1000)[3:],
    "a number": lambda normal: normal(),
    "empty": lambda normal: normal(2, 0, 3),
}
SPARSE = {
    "every third": lambda normal: normal(3, 40)[:, 1::3],
    "a slice": lambda normal: normal(6, 7, 8)[2:5, 1:6, 3:],
    "a slice, axes swapped": lambda normal: normal(5, 8, 7).transpose(1, 2)[..., 1:],
    "expanded": lambda normal: normal(4, 1, 3).expand(4, 5, 3),
}
LAYOUTS = DENSE | SPARSE


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
@every_dtype
def test_layout(make, dtype):
    x = make(lambda *shape: normal(*shape).to(dtype))
    got, want = gelu(x), gelu(x.contiguous().view(-1)).view(x.shape)
    assert torch.equal(got, want) and got.dtype == dtype


def test_strides_of_the_result():
    """Those of a dense x, contiguous for any other; the shape function says the same."""
    for name, make in LAYOUTS.items():
        x = make(normal)
        want = x.stride() if name in DENSE else x.contiguous().stride()
        shape = torch.empty_strided(x.shape, x.stride(), device="meta")
        assert OP(x).stride() == want == OP(shape).stride(), name


@every_dtype
@pytest.mark.usefixtures("capability")
def test_in_place_writes_nothing_else(dtype):
    for n in (0, 1, 15, 16, 17, 1023, 1025):
        buffer = torch.full((n + 128,), torch.nan, dtype=dtype)
        x = buffer[64 : 64 + n]
        want = gelu(x.copy_(torch.randn(n)).clone())
        IN_PLACE(x)
        assert torch.equal(x, want) and buffer.isnan().sum() == 128


def test_in_place_needs_contiguous_memory():
    with pytest.raises(RuntimeError, match="x must be contiguous"):
        IN_PLACE(torch.randn(4, 4).t())


@every_dtype
def test_the_same_bits_for_any_number_of_threads_and_any_place(dtype, threads):
    x = torch.randn(200_003).to(dtype)
    threads(1)
    want = gelu(x)
    for n in (2, 3, 8):
        threads(n)
        assert torch.equal(gelu(x), want)
        y = x.clone()
        IN_PLACE(y)
        assert torch.equal(y, want)
    for start in (1, 7, 1024, 100_001):
        assert torch.equal(gelu(x[start:]), want[start:]) and torch.equal(gelu(x[:start]), want[:start])


def test_derivative():
    """The op's own autograd and the front door's: PyTorch's gradient, and a second one at the front door."""
    x = torch.randn(50, requires_grad=True)
    (want,) = torch.autograd.grad(F.gelu(x).square().sum(), x)
    for function in (gelu, OP):
        (got,) = torch.autograd.grad(function(x).square().sum(), x)
        torch.testing.assert_close(got, want)
    assert torch.autograd.gradgradcheck(gelu, torch.randn(5, dtype=torch.float64, requires_grad=True))


def test_opcheck():
    for name in ("channels_last", "a slice, axes swapped"):
        torch.library.opcheck(OP, (LAYOUTS[name](normal),))
    torch.library.opcheck(OP, (torch.randn(3, 5, requires_grad=True),))
    torch.library.opcheck(IN_PLACE, (torch.randn(3, 5),))


def test_whose_kernel_runs():
    x = torch.randn(40)

    def called(function):
        with Calls() as calls:
            function()
        return [name for name in calls.names if "gelu" in name]

    assert called(lambda: gelu(x)) == called(lambda: gelu(torch.nn.Parameter(x, False))) == ["swin_fast::gelu"]
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert called(lambda: gelu(leaf)) == ["swin_fast::gelu"]
    with torch.inference_mode():
        assert called(lambda: gelu(x)) == ["swin_fast::gelu"]
    assert called(lambda: gelu(leaf)) == called(lambda: gelu(x.double())) == ["aten::gelu"]
    assert called(lambda: gelu(x.to("meta"))) == ["aten::gelu"]
    with use_backend("reference"):
        assert called(lambda: gelu(x)) == ["aten::gelu"]
    with FakeTensorMode() as mode:
        assert called(lambda: gelu(mode.from_tensor(x))) == ["aten::gelu"]


def test_transforms():
    """vmap, and the tangent of both kinds of forward derivative, which a kernel without a formula would lose."""
    x, tangent = torch.randn(3, 40), torch.randn(3, 40)
    want, want_tangent = torch.func.jvp(F.gelu, (x,), (tangent,))
    got, got_tangent = torch.func.jvp(gelu, (x,), (tangent,))
    assert torch.equal(got, want) and torch.equal(got_tangent, want_tangent)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(gelu(dual)).tangent, want_tangent)
    assert torch.equal(torch.vmap(gelu)(x), F.gelu(x))


def test_compiled_exported_and_traced_code_has_pytorchs_own():
    class Gelu(torch.nn.Module):
        def forward(self, x):
            return gelu(x)

    x, seen = torch.randn(40), []

    def backend(graph, _):
        seen.extend(n.target for n in graph.graph.nodes if n.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(gelu, backend=backend, fullgraph=True)(x)
    assert seen == [F.gelu]
    program = torch.export.export(Gelu(), (x,))
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_function"] == ["aten.gelu.default"]
    assert "aten::gelu" in str(torch.jit.trace(Gelu(), x).inlined_graph)


def test_bad_arguments():
    for bad, message in ((3.0, "x must be a Tensor, got float"), (torch.arange(3), "got torch.int64")):
        with pytest.raises(TypeError, match=message):
            gelu(bad)
    with pytest.raises(RuntimeError, match="x must be float32, bfloat16 or float16"):
        OP(torch.zeros(3, dtype=torch.float64))


def test_they_are_different_code(monkeypatch):
    """With and without fused multiply-add, sums are rounded otherwise: the environment's choice reaches this op."""
    x, results = torch.randn(10_000), []
    for name in ("portable", "avx2"):
        if SUPPORTED[name]():
            monkeypatch.setenv(ENV, name)
            results.append(gelu(x))
    assert len(results) < 2 or not torch.equal(*results)
