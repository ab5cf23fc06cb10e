"""Numbers at the edge: nothing left to attend to, keys of zero length, large logits, NaN that must not spread."""

from __future__ import annotations

import pytest
import torch

from swin_fast.functional import window_attention

from .cases import ALLOWANCE, DTYPES, Case, assert_accurate, run, up

EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
W = (4, 3)


def forbid(case: Case, dtype: torch.dtype, rows: slice = slice(0, 0)) -> dict:
    """The case's tensors, with a mask that is -inf at random places and for every key of the queries `rows`."""
    tensors = case.tensors(dtype)
    drawn = torch.rand(tensors["mask"].shape, generator=torch.Generator().manual_seed(1))
    tensors["mask"][drawn < 0.4] = -torch.inf
    tensors["mask"][:, rows] = -torch.inf
    return tensors


@EACH_DTYPE
@pytest.mark.parametrize("pad", ["masked", "attended"])
@pytest.mark.parametrize("cosine", [False, True], ids=["dot", "cosine"])
def test_minus_infinity_in_the_mask(dtype, pad, cosine):
    case = Case(W, (9, 8), shift=(2, 1), head_dim=16, mask="image", pad=pad, cosine=cosine, mask_value=-torch.inf)
    tensors = forbid(case, dtype, slice(3, 6))
    got = run(case, tensors)
    assert_accurate(case, tensors, got)
    assert all(torch.isfinite(t).all() for t in got.values())


@EACH_DTYPE
@pytest.mark.parametrize("window", [(4, 3), (7, 7), (16, 16)], ids=str)
def test_a_query_without_keys_gives_zeros(dtype, window):
    """Its output is zero, it pulls on nothing, and the other queries do not notice."""
    case = Case(window, window, head_dim=16, mask="one", batch=2)
    tensors, n = case.tensors(dtype), window[0] * window[1]
    plain = run(case, tensors)
    tensors["mask"][:, : n // 2] = -torch.inf
    got = run(case, tensors)
    out, dq, want = (t.flatten(1, 2) for t in (got["out"], got["dq"], plain["out"]))
    assert torch.count_nonzero(out[:, : n // 2]) == 0 and torch.count_nonzero(dq[:, : n // 2]) == 0
    assert float((out - want)[:, n // 2 :].abs().max()) <= 4 * ALLOWANCE[dtype] * float(want.abs().max())
    tensors["mask"][:] = -torch.inf
    assert all(torch.count_nonzero(t) == 0 for t in run(case, tensors).values())


@EACH_DTYPE
def test_a_mask_that_leaves_one_key_copies_its_value(dtype):
    case = Case(W, (8, 6), head_dim=16, mask="one", bias="table", scale=0.9)
    tensors = case.tensors(dtype)
    tensors["mask"].fill_(-torch.inf)
    tensors["mask"][..., 5] = 0  # row 1, column 2 of each window
    values = tensors["qkv"][..., 64:].unflatten(1, (2, 4)).unflatten(3, (2, 3))[:, :, 1:2, :, 2:3]
    want = values.expand(-1, -1, 4, -1, 3, -1).flatten(3, 4).flatten(1, 2)
    assert torch.equal(run(case, tensors)["out"], want)


@EACH_DTYPE
@pytest.mark.parametrize("where", ["key", "query", "padding"])
def test_cosine_of_a_zero_vector_is_zero(dtype, where):
    """Padded keys of version 2 are exactly zero; an eps that is zero in float16 makes NaN of them."""
    case = Case(W, (9, 8), shift=1, head_dim=16, cosine=True, pad="attended")
    tensors = case.tensors(dtype)
    if where == "padding":
        tensors["pad_qkv"].zero_()
    else:
        tensors["qkv"][:, 2, 3, 32 * (where == "key") :][..., :32] = 0
    exact = {k: t for k, t in up(tensors).items() if k != "grad"}
    out = window_attention(**{k: t for k, t in tensors.items() if k != "grad"}, **case.options)
    assert torch.isfinite(out).all()
    truth = window_attention(**exact, **case.options)
    share = 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
    assert float((out - truth).abs().max()) <= share * float(truth.abs().max()) * float(tensors["logit_scale"].max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("window", [(4, 3), (7, 7)], ids=str)
def test_cosine_of_a_vector_shorter_than_eps(dtype, window):
    """It is divided by the constant 1e-12 instead of its norm, in the backward, too. (float16 has no such vectors.)"""
    case = Case(window, (8, 9), shift=1, head_dim=32, cosine=True)
    tensors = case.tensors(dtype)
    tensors["qkv"][:, 2::3, :, :128] *= 1e-13  # q and k of every third row of the map
    assert_accurate(case, tensors, run(case, tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("window", [(4, 4), (7, 7)], ids=str)
def test_cosine_of_a_norm_beyond_float32(dtype, window):
    """The vector counts as zeros, as in plain PyTorch, and nothing becomes NaN; a key with inf or NaN does."""
    case = Case(window, window, heads=1, head_dim=32, batch=1, bias="none", cosine=True)
    tensors = case.tensors(dtype)
    for at, value in ((0, 3e19), (2, -3e19), (-1, 3e19)):
        tensors["qkv"][:, at, at, :64] = value
    got, plain = run(case, tensors), run(case, tensors, "reference")
    assert all(torch.isfinite(t).all() for t in got.values())
    assert float((got["out"] - plain["out"]).abs().max()) <= 4 * ALLOWANCE[dtype] * float(plain["out"].abs().max())
    for value in (torch.inf, torch.nan):
        tensors["qkv"][:, 1, 1, 32] = value
        assert run(case, tensors)["out"].isnan().all()


@EACH_DTYPE
@pytest.mark.parametrize("q, k", [(4, 5), (16, 11), (128, 120)], ids=["80", "704", "61440"])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_logits(dtype, q, k, sign):
    """Half of the keys are 4 * q * k from zero, the others half as far: no overflow, and no row lost below zero."""
    case = Case(W, (8, 6), head_dim=16, bias="none", scale=0.25)
    tensors = case.tensors(dtype)
    tensors["qkv"][..., :32] = q
    tensors["qkv"][..., 32:64] = sign * k
    tensors["qkv"][:, ::2, :, 32:64] *= 0.5
    got, truth = run(case, tensors), run(case, up(tensors), "reference")
    assert all(torch.isfinite(t).all() for t in got.values())
    for name in ("out", "dv"):
        error = float((got[name] - truth[name]).abs().max())
        assert error <= 4 * torch.finfo(dtype).eps * float(truth[name].abs().max()), name


@EACH_DTYPE
@pytest.mark.parametrize("window", [(3, 3), (4, 3), (7, 7)], ids=str)
def test_an_infinite_key_that_no_query_looks_at(dtype, window):
    """Its weight is zero: the output and the gradient of the values are finite, as in the reference."""
    case = Case(window, window, head_dim=16, bias="none", batch=1)
    tensors = case.tensors(dtype)
    tensors["qkv"][..., :32:16] = 1.0
    tensors["qkv"][:, 1, 1, 32:64:16] = -torch.inf
    got, truth = run(case, tensors), run(case, up(tensors), "reference")
    for name in ("out", "dv"):
        assert torch.isfinite(truth[name]).all()
        error = float((got[name] - truth[name]).abs().max())
        assert error <= 4 * ALLOWANCE[dtype] * float(truth[name].abs().max()), name


@EACH_DTYPE
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_nan_stays_in_its_window(dtype, part):
    """A NaN reaches what the formula says it reaches, and not one number more changes."""
    case = Case(W, (9, 8), shift=(2, 1), head_dim=16, pad="attended")
    tensors = case.tensors(dtype)
    clean = run(case, tensors)
    bad = {**tensors, "qkv": tensors["qkv"].clone()}
    bad["qkv"][1, 4, 5, 32 * "qkv".index(part) + 17] = torch.nan
    got, truth = run(case, bad), run(case, up(bad), "reference")
    for name in ("out", "dq", "dk", "dv"):
        assert torch.equal(got[name].isnan(), truth[name].isnan()), name
        untouched = ~truth[name].isnan().any(-1)
        assert 0 < untouched.sum() < untouched.numel() or name != "out"
        far = torch.ones(case.batch, *case.grid, dtype=torch.bool)
        far[1] = ~truth["dk"][1].isnan().any(-1) & ~truth["out"][1].isnan().any(-1)
        assert torch.equal(got[name][far], clean[name][far]), name


@EACH_DTYPE
def test_nan_in_masked_padding_is_no_concern(dtype):
    """Rows beyond the map that are NaN in the buffer behind it, and a map smaller than its window."""
    case = Case((7, 7), (5, 6), shift=3, head_dim=16)
    tensors = case.tensors(dtype)
    buffer = torch.full((2, 14, 14, 96), torch.nan, dtype=dtype)
    view = buffer[:, 4:9, 3:9]
    view.copy_(tensors["qkv"])
    tensors["qkv"] = view
    assert_accurate(case, tensors, run(case, tensors))
