"""The boundary of csrc/cuda: what it makes of tensors before a launch and of results after it, on CPU tensors.

The launches are answered by the formula in float64, so whatever differs is the boundary's doing; the kernels themselves
run in tests/emulation.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch

from swin_fast import functional, native
from tests.ops.cases import DTYPES, Case, assert_accurate, run, up

HALF = (torch.float32, torch.bfloat16, torch.float16)
CASES = [
    Case((7, 7), (14, 14), shift=3),
    Case((4, 6), (9, 13), shift=(1, 2), pad="attended", bias="index", mask="image", wide=True),
    Case((4, 4), (6, 7), shift=1, pad_order="roll_then_pad", cosine=True, mask_value=-float("inf"), batch=3),
    Case((2, 3, 4), (3, 5, 8), shift=(1, 0, 2), pad="attended", cosine=True, wide=True, heads=3, head_dim=6),
    Case((5, 5), (10, 5), dropout=0.3, bias="none", scale=0.7, mask="batch"),
    Case((8,) * 2, (8, 8), bias="none", heads=1, batch=1),
]


@pytest.mark.parametrize("dtype", HALF, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_argument_reaches_the_kernels_and_every_result_comes_back(boundary, case, dtype):
    tensors = case.tensors(dtype)
    exact = run(case, up(tensors), "reference")
    got = run(case, tensors)
    assert [backward for _, backward, _ in boundary.formula.launches] == [False, True]
    assert_accurate(case, tensors, got)
    for name, true in exact.items():  # one rounding to the kernels' dtype, and the float32 of mask and scale
        eps = torch.finfo(dtype if name == "d_pad_qkv" else got[name].dtype).eps
        allowed = (eps + 1e-5) * true.abs().max()
        assert (got[name].double() - true).abs().max() <= allowed, name


@pytest.fixture
def tf32():
    setting = torch.backends.cuda.matmul
    before, setting.fp32_precision = setting.fp32_precision, "tf32"
    yield
    setting.fp32_precision = before


def test_mode_of_each_dtype(boundary):
    case = CASES[0]
    modes = {}
    for name in ("float32", "bfloat16", "float16"):
        run(case, case.tensors(DTYPES[name]))
        modes[name] = {mode for mode, _, _ in boundary.formula.launches}
        boundary.formula.launches.clear()
    assert modes == {"float32": {0}, "bfloat16": {2}, "float16": {3}}


def test_torchs_own_tf32_setting_is_followed(boundary, tf32):
    run(CASES[0], CASES[0].tensors(torch.float32))
    assert {mode for mode, _, _ in boundary.formula.launches} == {1}


def layouts(t: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values in other memory."""
    wide = torch.zeros(*t.shape[:-1], t.shape[-1] + 5, dtype=t.dtype)
    wide[..., 3:-2] = t
    first = t.movedim(-1, 1).contiguous().movedim(1, -1)  # the last axis is not contiguous
    return {"offset": wide[..., 3:-2], "transposed": t.transpose(1, 2).contiguous().transpose(1, 2), "first": first}


@pytest.mark.parametrize("layout", ["offset", "transposed", "first"])
def test_maps_are_read_where_they_lie(boundary, layout):
    case = CASES[0]
    tensors = case.tensors(torch.bfloat16)
    expected = run(case, tensors)
    boundary.formula.launches.clear()
    other = {**tensors, **{name: layouts(tensors[name])[layout] for name in ("qkv", "grad")}}
    for name, value in run(case, other).items():
        assert torch.equal(value, expected[name]), name
    (_, _, forward), (_, _, backward) = boundary.formula.launches
    copied = layout == "first"
    assert (forward.qkv != other["qkv"].data_ptr()) == copied
    assert (backward.grad_out != other["grad"].data_ptr()) == copied
    if not copied:
        assert list(forward.qkv_stride) == [other["qkv"].stride(0), 0, *other["qkv"].stride()[1:3]]
        assert list(backward.grad_out_stride) == [other["grad"].stride(0), 0, *other["grad"].stride()[1:3]]


def test_expanded_gradient(boundary):
    case = CASES[0]
    tensors = case.tensors(torch.float32)
    one = torch.full((1, 1, 1, 1), 0.25)
    expanded = run(case, {**tensors, "grad": one.expand_as(tensors["grad"])})
    for name, value in run(case, {**tensors, "grad": one.expand_as(tensors["grad"]).contiguous()}).items():
        assert torch.equal(value, expanded[name]), name


def arguments(case: Case, tensors: dict, **changes) -> list:
    """The op's own argument list up to dropout_p."""
    options = dict(
        heads=case.heads, window=case.window, shift=(case.shift,) * 2, scale=0.25, roll_then_pad=False,
        mask_value=-100.0, dropout=case.dropout,
    )  # fmt: skip
    names = ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")
    given = {**{name: tensors[name] for name in names}, "seed": None, **options, **changes}
    return list(given.values())


@pytest.mark.parametrize("needs", range(16))
def test_only_the_wanted_gradients_are_made(boundary, needs):
    case = replace(CASES[0], pad="attended", cosine=True, grid=(8, 9))
    tensors = case.tensors(torch.bfloat16)
    call = arguments(case, tensors)
    results = boundary.backward_op(tensors["grad"], torch.empty(0), *call, needs)
    p = boundary.formula.launches[-1][2]
    pointers = (p.grad_qkv, p.grad_bias, p.grad_pad, p.grad_logit_scale)
    sources = ("qkv", "bias_table", "pad_qkv", "logit_scale")
    for bit, (name, result, pointer) in enumerate(zip(sources, results, pointers, strict=True)):
        wanted = bool(needs >> bit & 1)
        assert (pointer is not None) == wanted
        assert result.shape == (tensors[name].shape if wanted else (0,)) and result.dtype == tensors[name].dtype
        assert result.is_contiguous() and not result.isnan().any()


def test_saved_log_sum_exp(boundary):
    case = CASES[0]
    call = arguments(case, case.tensors(torch.float16))
    out, lse = boundary.op(*call, True)
    assert lse.shape == (case.batch, case.heads, *case.grid) and lse.dtype == torch.float32
    assert (lse == 0.5).all() and out.shape == (*call[0].shape[:-1], call[0].shape[-1] // 3)
    out, lse = boundary.op(*call, False)
    assert lse.shape == (0,) and lse.dtype == torch.float32
    assert boundary.formula.launches[-1][2].lse is None


def test_double_small_tensors_are_computed_in_float32(boundary):
    case = replace(CASES[0], cosine=True)
    tensors = case.tensors(torch.float32)
    double = {**tensors, **{name: tensors[name].double() for name in ("bias_table", "logit_scale")}}
    expected, got = run(case, tensors), run(case, double)
    for name in ("d_bias_table", "d_logit_scale"):
        assert torch.equal(got[name], expected[name].double())
    # autograd would convert them on its way
    results = boundary.backward_op(double["grad"], torch.empty(0), *arguments(case, double), 15)
    assert [results[i].dtype for i in (1, 3)] == [torch.float64] * 2


def test_an_empty_batch_launches_nothing_and_its_gradients_are_zero(boundary):
    case = replace(CASES[3], batch=0)
    got = run(case, case.tensors(torch.float16))
    assert not boundary.formula.launches
    assert got["out"].shape == (0, 3, 5, 8, 18) and got["dq"].numel() == 0
    for name in ("d_bias_table", "d_pad_qkv", "d_logit_scale"):
        assert got[name].numel() and (got[name] == 0).all()


def test_the_seed_stays_where_it_is(boundary):
    """On a GPU, reading it would wait for the device, and a captured graph would repeat one mask for ever."""
    case = CASES[4]
    seed = torch.tensor([1234567890123])
    boundary.op(*arguments(case, case.tensors(torch.float32), seed=seed), False)
    assert boundary.formula.launches[-1][2].dropout_seed == seed.data_ptr()


@pytest.fixture
def python_op():
    """Stands for the op in Python that finds another backend; counts its calls."""
    library, calls = torch.library.Library("swin_fast", "IMPL"), []
    forward = torch.ops.swin_fast.window_attention.default
    backward = torch.ops.swin_fast.window_attention_backward.default

    def counted(op):
        def run(*given):
            calls.append(given)
            with torch._C._AutoDispatchBelowAutograd():
                return op(*given)

        return run

    library.impl("window_attention_python", counted(forward), "CPU")
    library.impl("window_attention_backward_python", counted(backward), "CPU")
    yield calls
    library._destroy()


@pytest.mark.parametrize("why", ["asked", "tokens", "head_dim", "float64", "driver", "architecture", "shared"])
def test_a_call_without_a_kernel_is_handed_on_with_every_argument(boundary, python_op, why):
    case = replace(CASES[1], dropout=0.2)
    dtype = torch.float64 if why == "float64" else torch.float32
    if why == "tokens":
        case = replace(case, window=(17, 16), grid=(18, 17), bias="table", mask="none")
    if why == "head_dim":
        case = replace(case, head_dim=66)
    boundary.hand_on(why == "asked")
    changes = {"driver": {"driver": 12080}, "architecture": {"capability": (8, 0)}, "shared": {"per_block": 1000}}
    changes["architecture"]["capability"] = (7, 5)
    boundary.device(**changes.get(why, {}))
    tensors = case.tensors(dtype)
    got = run(case, tensors)
    assert not boundary.formula.launches and len(python_op) == 2
    assert_accurate(case, tensors, got)
    boundary.device()
    boundary.hand_on(False)


def test_a_failed_launch_is_an_error(boundary):
    boundary.answer(lambda *_: 1)
    case = CASES[0]
    with pytest.raises(RuntimeError, match="the launch failed with error 1"):
        boundary.op(*arguments(case, case.tensors(torch.float32)), False)
    assert boundary.library.stand_in_devices_current() == 0  # given back in spite of the error


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"heads": 0}, "num_heads must divide C"),
        ({"heads": 5}, "num_heads must divide C"),
        ({"window": (7,)}, "with a window and a shift for each"),
        ({"shift": (7, 0)}, "the shift below the window"),
        ({"window": (0, 7)}, "must be positive"),
        ({"bias_table": torch.zeros(168, 2)}, "bias_table must have 169 rows, got 168"),
        ({"bias_table": torch.zeros(169, 3)}, "bias_table must be"),
        ({"bias_index": torch.zeros(48, 49, dtype=torch.int64)}, "bias_index must be"),
        ({"pad_qkv": torch.zeros(47)}, "pad_qkv must have"),
        ({"pad_qkv": torch.zeros(48, dtype=torch.float64)}, "pad_qkv must have qkv's dtype"),
        ({"mask": torch.zeros(4, 49, 48)}, "mask must be"),
        ({"logit_scale": torch.zeros(3)}, "logit_scale must have one entry per head"),
        ({"dropout": 0.5}, "dropout needs a seed"),
        ({"qkv": torch.zeros(2, 48)}, "one to three grid axes"),
    ],
)
def test_a_direct_call_cannot_make_a_kernel_read_out_of_bounds(boundary, changes, message):
    case = CASES[0]
    with pytest.raises(RuntimeError, match=message):
        boundary.op(*arguments(case, case.tensors(torch.float32), **changes), False)
    assert not boundary.formula.launches


def test_gradient_of_another_shape_is_refused(boundary):
    case = CASES[0]
    tensors = case.tensors(torch.float32)
    for grad in (tensors["grad"][..., :-1], tensors["grad"].half(), tensors["grad"][0]):
        with pytest.raises(RuntimeError, match="grad must have the output's shape and dtype"):
            boundary.backward_op(grad, torch.empty(0), *arguments(case, tensors), 15)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bias_table", "bias_index", "pad_qkv", "mask", "logit_scale"])
def test_a_tensor_on_another_device_is_refused(name):
    if not native.cuda_loaded:
        pytest.skip(native.cuda_reason)
    case = replace(CASES[1], cosine=True)
    here, there = (case.tensors(torch.float32, device) for device in ("cpu", "cuda"))
    mixed = {**there, name: here[name]}
    with pytest.raises(RuntimeError, match="every tensor must be on qkv's device"):
        torch.ops.swin_fast.window_attention(*arguments(case, mixed, shift=case.shift), False)


def test_two_calls_are_two_launches_with_their_own_results(boundary):
    case = CASES[0]
    tensors = case.tensors(torch.float32)
    first = functional.window_attention(tensors["qkv"], tensors["bias_table"], **case.options)
    kept = first.clone()
    functional.window_attention(tensors["qkv"] * 2, tensors["bias_table"], **case.options)
    assert torch.equal(first, kept)
    assert ctypes.c_void_p(boundary.formula.launches[0][2].out) != boundary.formula.launches[1][2].out


def test_registration(boundary):
    case = replace(CASES[0], batch=1, grid=(7, 7))
    call = arguments(case, case.tensors(torch.float32))
    call[0].requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    assert set(torch.library.opcheck(boundary.op, (*call, False), test_utils=tests).values()) == {"SUCCESS"}
