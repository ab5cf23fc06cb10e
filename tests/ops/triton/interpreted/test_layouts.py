"""Strides, empty batches, the saved log-sum-exp, and gradients that nobody asked for."""

from __future__ import annotations

import pytest
import torch

from swin_fast.triton_kernels import window_attention

from ....weights import assert_close
from ...cases import Case, assert_identical, run
from ...test_layouts import LAYOUTS, OF_A_VECTOR

CASE = Case((3, 4), (5, 4), shift=(2, 1), heads=1, pad="attended", mask="batch", bias="index", cosine=True)
SEVERAL = {"qkv": 1, "bias_table": 3, "bias_index": 2, "mask": 5, "grad": 4}  # tensor -> which layout it has


@pytest.mark.parametrize("turn", range(3))
def test_layouts(turn):
    """The values decide, not where they lie; nothing around them is read or written."""
    tensors, views, before = CASE.tensors(torch.float32), {}, []
    want = run(CASE, tensors, "triton")
    for name, t in tensors.items():
        layouts = OF_A_VECTOR if t.dim() == 1 else LAYOUTS
        views[name], buffer = layouts[(SEVERAL.get(name, 0) + turn) % len(layouts)](t)
        views[name].copy_(t)
        before.append((buffer, buffer.clone()))
    assert_close(run(CASE, views, "triton"), want, 1e-5)
    for buffer, copy in before:
        assert torch.equal(buffer.nan_to_num(nan=-7e7), copy.nan_to_num(nan=-7e7))


@pytest.mark.parametrize("tiles", [False, True], ids=["whole", "tiles"])
def test_offsets_of_64_bits(tiles, monkeypatch, request):
    """What an image of 2**31 elements takes gives the same bits on a small one."""
    if tiles:
        request.getfixturevalue("tiled")
    case = Case((3, 6), (2, 7), shift=(1, 2), heads=1, batch=1, pad="attended", mask="image")
    tensors = case.tensors(torch.float32)
    want = run(case, tensors, "triton")
    window_attention._describe.cache_clear()
    monkeypatch.setattr(window_attention, "_reach", lambda _: 2**31)
    seen = []
    plan = window_attention.plan
    monkeypatch.setattr(window_attention, "plan", lambda v, *rest: seen.append(v.large) or plan(v, *rest))
    assert_identical(run(case, tensors, "triton"), want)
    window_attention._describe.cache_clear()
    assert seen == [True, True]


def test_empty_batch():
    case = Case((3, 4), (5, 4), shift=1, batch=0, pad="attended", cosine=True, dropout=0.5)
    got = run(case, case.tensors(torch.float32), "triton")
    assert got["out"].shape == (0, 5, 4, 16) and got["dq"].shape == (0, 5, 4, 16)
    for name in ("d_bias_table", "d_pad_qkv", "d_logit_scale"):
        assert got[name].numel() and torch.count_nonzero(got[name]) == 0


def call(case: Case, dtype=torch.float32) -> tuple:
    """The op's arguments up to the last."""
    t = case.tensors(dtype)
    names = ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")
    options = (case.heads, case.window, (1, 2), 0.5, False, case.mask_value, 0.0)
    return t["grad"], (*(t[k] for k in names), None, *options)


def test_log_sum_exp():
    case = Case((2, 3), (3, 5), heads=2, bias="none", mask="one", batch=1)
    grad, arguments = call(case)
    qkv, mask = arguments[0], arguments[4]
    mask[0, 2] = -torch.inf
    arguments = (*arguments[:9], (0, 0), *arguments[10:])
    _, lse = window_attention.forward(*arguments, True)
    q, k, _ = qkv[0, :2, :3].reshape(6, 3, 2, 8).permute(1, 2, 0, 3)
    want = (q @ k.mT * 0.5 + mask[0]).logsumexp(-1)  # of the first window, (heads, N)
    want[:, 2] = torch.inf
    assert lse.shape == (1, 2, 3, 5)
    torch.testing.assert_close(lse[0, :, :2, :3].flatten(1), want)


@pytest.mark.parametrize("tokens", [(3, 4), (3, 6)], ids=["whole", "tiles"])
def test_gradients_that_are_not_needed_are_empty(tokens, request):
    if tokens == (3, 6):
        request.getfixturevalue("tiled")
    case = Case(tokens, (4, 6), pad="attended", cosine=True, heads=1, batch=1)
    grad, arguments = call(case)
    every = window_attention.backward(grad, None, *arguments, 15)
    assert [t.numel() > 0 for t in every] == [True] * 4
    for needs in (1, 2, 4, 8, 6, 9):
        some = window_attention.backward(grad, None, *arguments, needs)
        for bit, (one, full) in enumerate(zip(some, every, strict=True)):
            assert torch.equal(one, full) if needs >> bit & 1 else one.shape == (0,)
