"""The rest of the op's contract on a GPU: sizes, layouts, numbers at the edge, autograd, threads, huge maps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import prod

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import swin_fast
from swin_fast.functional import window_attention

from ..weights import assert_close, distance
from .cases import DIFFERENTIABLE, DTYPES, Case, assert_accurate, assert_identical, run
from .gpu import need
from .test_layouts import CASE as FULL
from .test_layouts import CUBE, OF_A_VECTOR, channels_first

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
HALF = torch.bfloat16
THREE = {name: dtype for name, dtype in DTYPES.items() if name != "float64"}
EACH_DTYPE = pytest.mark.parametrize("dtype", THREE.values(), ids=THREE)


@pytest.fixture(params=["triton", "cuda"])
def backend(request) -> str:
    return request.param


SIZES = [
    Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32, bias="none"),
    Case((7, 7), (14, 14), heads=2, head_dim=32, mask="one"),
    Case((7, 7), (14, 14), heads=1, head_dim=2),
    Case((7, 7), (14, 14), heads=5, head_dim=16, shift=3, mask="batch", dropout=0.2),
    Case((8, 8), (16, 8), heads=2, head_dim=24, shift=(4, 0)),
    Case((8, 8), (16, 16), heads=6, head_dim=30, shift=4, pad="attended"),
    Case((8, 8), (16, 16), heads=1, head_dim=128, shift=4),
    Case((7, 7), (7, 14), heads=1, head_dim=256),
    Case((12, 12), (13, 24), heads=2, head_dim=32, shift=6, cosine=True),
    Case((7, 7), (3, 5), heads=2, head_dim=32, pad="attended"),
    Case((7, 7), (7, 7), heads=24, head_dim=32, batch=7),
    Case((1, 1), (3, 5), heads=2, head_dim=16),
    Case((1, 9), (4, 18), heads=2, head_dim=16, shift=(0, 4)),
    Case((16, 16), (16, 16), heads=2, head_dim=32, cosine=True, batch=1),
    Case((32, 32), (32, 33), heads=1, head_dim=32, shift=5, batch=1),
    Case((7, 7, 7), (7, 14, 8), heads=1, head_dim=16, shift=3, batch=1, pad="attended"),
]


@EACH_DTYPE
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_forward_and_gradients(case, dtype, backend):
    tensors = case.tensors(dtype, DEVICE)
    assert_accurate(case, tensors, run(case, tensors, need(backend, case, dtype)))


@EACH_DTYPE
@pytest.mark.parametrize("case", [FULL, Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32)], ids=str)
def test_wide_parameters(case, dtype, backend):
    """Table, padding, mask and logit_scale stay float32, as under autocast."""
    case = Case(**{**vars(case), "wide": True})
    tensors = case.tensors(dtype, DEVICE)
    assert_accurate(case, tensors, run(case, tensors, need(backend, case, dtype)))


PAIRS = [(n, layout) for n in ("qkv", "bias_table", "bias_index", "mask", "grad") for layout in OF_A_VECTOR]
PAIRS += [("qkv", channels_first), ("grad", channels_first)]
PAIRS += [(name, layout) for name in ("pad_qkv", "logit_scale") for layout in OF_A_VECTOR]


@pytest.mark.parametrize("name, layout", PAIRS)
@pytest.mark.parametrize("case", [FULL, CUBE], ids=["2d", "3d"])
def test_layout(case, name, layout, backend):
    """The values decide, not where they lie, nor how they are aligned; nothing around them is read or written."""
    tensors, backend = case.tensors(HALF, DEVICE), need(backend, case, HALF)
    want = run(case, tensors, backend)
    view, buffer = layout(tensors[name])
    view.copy_(tensors[name])
    before = buffer.clone()
    assert_close(run(case, {**tensors, name: view}, backend), want, 4 * torch.finfo(HALF).eps)
    assert torch.equal(buffer.nan_to_num(nan=-7e7), before.nan_to_num(nan=-7e7))


@pytest.mark.parametrize("name", ["qkv", "grad"])
def test_strides_of_zero(name, backend):
    """As `expand` makes them, and the backward of a sum."""
    tensors, backend = FULL.tensors(torch.float32, DEVICE), need(backend, FULL, torch.float32)
    tensors[name] = tensors[name][:1, :1, :1].expand_as(tensors[name])
    assert tensors[name].stride(0) == 0
    want = run(FULL, {k: t.contiguous() for k, t in tensors.items()}, backend)
    assert_close(run(FULL, tensors, backend), want, 1e-5)


@EACH_DTYPE
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_empty_batch(dtype, dropout, backend):
    """Nothing in, nothing out, and a gradient of zeros, not of whatever lay in memory."""
    case = Case((4, 3), (9, 7), shift=1, batch=0, pad="attended", mask="one", cosine=True, dropout=dropout)
    got = run(case, case.tensors(dtype, DEVICE), need(backend, case, dtype))
    assert got["out"].shape == (0, 9, 7, 16) and got["dq"].shape == (0, 9, 7, 16)
    for name in ("d_bias_table", "d_pad_qkv", "d_logit_scale"):
        assert torch.count_nonzero(got[name]) == 0 and got[name].numel()


@EACH_DTYPE
@pytest.mark.parametrize("window", [(4, 3), (7, 7), (16, 16)], ids=str)
@pytest.mark.parametrize("cosine", [False, True], ids=["dot", "cosine"])
def test_queries_without_keys_and_minus_infinity(dtype, window, cosine, backend):
    """Rows of the mask that forbid everything give zeros, and the rest is what the formula says."""
    case = Case(window, window, head_dim=16, mask="one", cosine=cosine)
    tensors, rows = case.tensors(dtype, DEVICE), prod(window) // 2
    drawn = torch.rand(tensors["mask"].shape, generator=torch.Generator().manual_seed(1))
    tensors["mask"][(drawn < 0.4).to(DEVICE)] = -torch.inf
    tensors["mask"][:, :rows] = -torch.inf
    got = run(case, tensors, need(backend, case, dtype))
    assert_accurate(case, tensors, got)
    for name in ("out", "dq"):
        assert torch.count_nonzero(got[name].flatten(1, 2)[:, :rows]) == 0
    assert all(torch.isfinite(t).all() for t in got.values())


@EACH_DTYPE
@pytest.mark.parametrize("where", ["key", "query", "padding"])
def test_cosine_of_a_zero_vector(dtype, where, backend):
    """Padded keys of version 2 are exactly zero; an eps that is zero in float16 makes NaN of them."""
    case = Case((4, 3), (9, 8), shift=1, head_dim=16, cosine=True, pad="attended")
    tensors = case.tensors(dtype, DEVICE)
    if where == "padding":
        tensors["pad_qkv"].zero_()
    else:
        tensors["qkv"][:, 2, 3, 32 * (where == "key") :][..., :32] = 0
    given = {k: t for k, t in tensors.items() if k not in ("grad", "bias_index", "mask")}
    truth = window_attention(**{k: t.double().cpu() for k, t in given.items()}, **case.options).to(DEVICE)
    with swin_fast.use_backend(need(backend, case, dtype)):
        out = window_attention(**given, **case.options)
    share = 4 * torch.finfo(dtype).eps * float(tensors["logit_scale"].max())
    assert torch.isfinite(out).all() and distance(out, truth) <= share


@EACH_DTYPE
@pytest.mark.parametrize("q, k", [(4, 5), (16, 11), (128, 120)], ids=["80", "704", "61440"])
def test_large_logits(dtype, q, k, backend):
    case = Case((4, 3), (8, 6), head_dim=16, bias="none", scale=0.25)
    tensors = case.tensors(dtype, DEVICE)
    tensors["qkv"][..., :32] = q
    tensors["qkv"][..., 32:64] = -k
    tensors["qkv"][:, ::2, :, 32:64] *= 0.5
    got = run(case, tensors, need(backend, case, dtype))
    truth = run(case, {n: t if t is None else t.double() for n, t in tensors.items()}, "reference")
    assert all(torch.isfinite(t).all() for t in got.values())
    for name in ("out", "dv"):
        assert distance(got[name], truth[name]) <= 4 * torch.finfo(dtype).eps, name


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_nan_stays_in_its_window(part, backend):
    case = Case((4, 3), (9, 8), shift=(2, 1), head_dim=16, pad="attended")
    tensors, backend = case.tensors(HALF, DEVICE), need(backend, case, HALF)
    clean = run(case, tensors, backend)
    bad = {**tensors, "qkv": tensors["qkv"].clone()}
    bad["qkv"][1, 4, 5, 32 * "qkv".index(part) + 17] = torch.nan
    got, truth = run(case, bad, backend), run(case, bad, "reference")
    assert torch.equal(got["out"].isnan(), truth["out"].isnan()) and got["out"].isnan().any()
    assert torch.equal(got["out"][0], clean["out"][0]), "the other image"


@pytest.mark.parametrize(
    "wanted", [("qkv",), ("bias_table",), ("pad_qkv",), ("logit_scale",), ("bias_table", "logit_scale"), DIFFERENTIABLE]
)
def test_only_some_inputs_need_a_gradient(wanted, backend):
    """Each subset has the gradients that all of them have, up to the order of sums."""
    tensors, backend = FULL.tensors(torch.float32, DEVICE), need(backend, FULL, torch.float32)
    want = run(FULL, tensors, backend)
    leaves = {k: t.detach().requires_grad_(k in wanted) for k, t in tensors.items() if t.is_floating_point()}
    given = {**tensors, **leaves}
    grad = given.pop("grad").detach()
    with swin_fast.use_backend(backend):
        out = window_attention(**given, **FULL.options)
        found = torch.autograd.grad(out, [leaves[k] for k in wanted], grad)
    for name, gradient in zip(wanted, found, strict=True):
        exact = torch.cat([want[k] for k in ("dq", "dk", "dv")], -1) if name == "qkv" else want[f"d_{name}"]
        assert distance(gradient, exact) <= 1e-5, name


def test_a_backward_can_be_repeated(backend):
    """The graph is kept, and gives the same bits again; another backend's forward is none of its business."""
    tensors, backend = FULL.tensors(HALF, DEVICE), need(backend, FULL, HALF)
    leaves = {k: tensors[k].requires_grad_() for k in DIFFERENTIABLE}
    given = {k: t for k, t in tensors.items() if k != "grad"}
    with swin_fast.use_backend(backend):
        out = window_attention(**given, **FULL.options)
        grads = [torch.autograd.grad(out, leaves.values(), tensors["grad"], retain_graph=True) for _ in range(2)]
    first, second = (dict(zip(leaves, found, strict=True)) for found in grads)
    assert_identical(first, second)


def test_without_gradients_the_output_is_the_same(backend):
    tensors, backend = FULL.tensors(HALF, DEVICE), need(backend, FULL, HALF)
    given = {k: t for k, t in tensors.items() if k != "grad"}
    leaf, outputs = given["qkv"].clone().requires_grad_(), []
    with swin_fast.use_backend(backend):
        outputs.append(window_attention(**{**given, "qkv": leaf}, **FULL.options).detach())
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                outputs.append(window_attention(**given, **FULL.options).clone())
    assert all(torch.equal(outputs[0], out) for out in outputs)


def test_second_derivative_is_refused(backend):
    case = Case((4, 3), (8, 6), head_dim=16)
    tensors = case.tensors(torch.float32, DEVICE)
    qkv = tensors["qkv"].requires_grad_()
    with swin_fast.use_backend(need(backend, case, torch.float32)):
        out = window_attention(qkv, tensors["bias_table"], **case.options)
        (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
        with pytest.raises(RuntimeError, match="window_attention_backward has no derivative"):
            torch.autograd.grad(first.square().sum(), qkv)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_draws_the_same_dropout(reentrant, backend):
    case = Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32, dropout=0.3)
    tensors, grads = case.tensors(HALF, DEVICE), []
    with swin_fast.use_backend(need(backend, case, HALF)):
        for through in (False, True):
            qkv = tensors["qkv"].clone().requires_grad_()

            def attend(qkv):
                return window_attention(qkv, tensors["bias_table"], **case.options)

            torch.manual_seed(3)
            out = checkpoint(attend, qkv, use_reentrant=reentrant) if through else attend(qkv)
            out.backward(tensors["grad"])
            grads.append({"qkv": qkv.grad})
    assert_identical(*grads)


OPCHECK = [
    Case((4, 3), (9, 7), shift=(2, 1), pad="attended", mask="one", bias="index", cosine=True),
    Case((4, 3), (8, 6), bias="none", pad_order="roll_then_pad"),
    Case((2, 2, 2), (3, 4, 2), shift=1, dropout=0.3),
]


@pytest.mark.parametrize("case", OPCHECK, ids=str)
def test_registration(case, backend):
    """PyTorch's own checks of schema, shapes without data and autograd, forward and backward."""
    tensors = case.tensors(torch.float32, DEVICE)
    names = ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")
    shift = [case.shift] * len(case.grid) if isinstance(case.shift, int) else list(case.shift)
    options = [case.heads, list(case.window), shift, 1.0 if case.cosine else case.head_dim**-0.5]
    options += [case.pad_order == "roll_then_pad", -100.0, case.dropout]
    seed = torch.tensor([5], device=DEVICE) if case.dropout else None
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    with swin_fast.use_backend(need(backend, case, torch.float32)):
        for name in DIFFERENTIABLE:
            if tensors[name] is not None:
                tensors[name].requires_grad_()
        given = [tensors[name] for name in names]
        torch.library.opcheck(
            torch.ops.swin_fast.window_attention.default, (*given, seed, *options, False), test_utils=tests
        )
        given = [t if t is None else t.detach() for t in given]
        needs = sum(1 << i for i, k in enumerate(DIFFERENTIABLE) if tensors[k] is not None)
        lse = torch.empty(0, device=DEVICE)
        backward = (tensors["grad"], lse, *given, seed, *options, needs)
        torch.library.opcheck(torch.ops.swin_fast.window_attention_backward.default, backward, test_utils=tests)


def test_threads_on_streams_of_their_own(backend):
    """Four threads at once, each with another call: each gets what it gets alone."""
    cases = [
        Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32, batch=8),
        Case((8, 8), (16, 16), heads=2, head_dim=32, cosine=True, batch=8),
        Case((4, 3), (9, 7), shift=1, pad="attended", batch=8),
        Case((7, 7), (56, 56), shift=3, heads=3, head_dim=32, bias="index"),
    ]
    given = [case.tensors(HALF, DEVICE) for case in cases]
    for case in cases:
        need(backend, case, HALF)

    def step(case, tensors) -> dict[str, torch.Tensor]:
        leaves = {k: t.detach().requires_grad_() for k, t in tensors.items() if k in DIFFERENTIABLE and t is not None}
        rest = {k: t for k, t in tensors.items() if k not in leaves and k != "grad"}
        out = window_attention(**leaves, **rest, **case.options)
        found = dict(zip(leaves, torch.autograd.grad(out, leaves.values(), tensors["grad"]), strict=True))
        return {"out": out.detach(), **found}

    def work(i: int) -> dict[str, torch.Tensor]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                result = step(cases[i], given[i])
        stream.synchronize()
        return result

    with swin_fast.use_backend(backend):  # of the process
        want = [step(*pair) for pair in zip(cases, given, strict=True)]
        torch.cuda.synchronize()
        with ThreadPoolExecutor(4) as pool:
            for got, alone in zip(pool.map(work, range(4)), want, strict=True):
                assert_identical(got, alone)


def test_inference_allocates_its_output_and_no_more(backend):
    case = Case((7, 7), (56, 56), shift=3, heads=3, head_dim=32, batch=32)
    tensors = case.tensors(HALF, DEVICE)
    with swin_fast.use_backend(need(backend, case, HALF)), torch.no_grad():
        out = window_attention(tensors["qkv"], tensors["bias_table"], **case.options)
        size = out.nbytes
        del out
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        window_attention(tensors["qkv"], tensors["bias_table"], **case.options)
        assert torch.cuda.max_memory_allocated() - before <= size + 2**20


def test_mixed_devices_are_refused(backend):
    tensors = FULL.tensors(HALF, DEVICE)
    with swin_fast.use_backend(need(backend, FULL, HALF)):
        for name in ("bias_table", "bias_index", "pad_qkv", "mask", "logit_scale"):
            given = {k: t for k, t in {**tensors, name: tensors[name].cpu()}.items() if k != "grad"}
            with pytest.raises((ValueError, RuntimeError), match="device"):
                window_attention(**given, **FULL.options)


@pytest.mark.slow
@pytest.mark.parametrize("shift, first, size", [(0, 4718, 15), (3, 4714, 14)], ids=["padded", "shifted"])
def test_huge_maps(shift, first, size, backend):
    """Windows beyond element 2**31, with padding after them or between others that a shift has wrapped around."""
    side = first + size if not shift else 4732
    case = Case((7, 7), (side, side), shift=shift, heads=1, head_dim=32, batch=1)
    elements = prod(case.grid) * 96
    assert elements > 2**31 and (first - shift) % 7 == 0
    if torch.cuda.mem_get_info()[0] < 12 * elements:
        pytest.skip("needs more memory")
    table = torch.randn(169, 1, device=DEVICE, dtype=HALF)
    pad = torch.randn(96, device=DEVICE, dtype=HALF)
    options = {"num_heads": 1, "window_size": 7, "pad_qkv": pad}
    part = (slice(None), slice(first, first + size), slice(first, first + size))
    with swin_fast.use_backend(need(backend, case, HALF)):
        qkv = torch.randn(1, *case.grid, 96, device=DEVICE, dtype=HALF, requires_grad=True)
        out = window_attention(qkv, table, shift_size=shift, **options)
        (grad,) = torch.autograd.grad(out, qkv, out)
        alone = qkv[part].detach().requires_grad_()
        want = window_attention(alone, table, **options)
        (want_grad,) = torch.autograd.grad(want, alone, want)
    # whether a map is shifted makes another kernel, which may round elsewhere
    assert distance(out[part], want) <= 2**-6 and distance(grad[part], want_grad) <= 2**-6
