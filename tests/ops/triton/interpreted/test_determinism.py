"""The same bits every run; what a window gets does not depend on which program computes it, or beside what."""

from __future__ import annotations

import pytest
import torch

from swin_fast import reference
from swin_fast.triton_kernels import tuning, window_attention
from swin_fast.triton_kernels.config import Config

from ...cases import Case, assert_accurate, assert_identical, run

CASES = [
    Case((3, 4), (5, 7), shift=(2, 1), head_dim=10, batch=3, pad="attended", cosine=True, mask="image"),
    Case((3, 4), (5, 4), shift=(2, 1), heads=1, head_dim=16, batch=3, bias="index", dropout=0.3),
]
EACH = ("out", "dq", "dk", "dv")  # what is not summed over windows


def with_tiles(monkeypatch, block: int, programs: int) -> None:
    monkeypatch.setattr(tuning, "config", lambda *_: Config(block, block, 1, 1, programs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs(case, dtype):
    tensors = case.tensors(dtype)
    assert_identical(run(case, tensors, "triton"), run(case, tensors, "triton"))


def test_two_runs_in_tiles(monkeypatch):
    with_tiles(monkeypatch, 16, 2)
    case = Case((4, 5), (4, 9), shift=(1, 2), heads=1, batch=1, pad="attended", cosine=True)
    tensors = case.tensors(torch.float32)
    assert_identical(run(case, tensors, "triton"), run(case, tensors, "triton"))


@pytest.mark.parametrize("case", [c for c in CASES if not c.dropout], ids=str)
def test_an_image_does_not_see_its_neighbours(case):
    tensors = case.tensors(torch.float32)
    batch = run(case, tensors, "triton")
    for i in range(case.batch):
        one = run(case, {**tensors, **{k: tensors[k][i : i + 1] for k in ("qkv", "grad")}}, "triton")
        assert_identical({k: one[k][0] for k in EACH}, {k: batch[k][i] for k in EACH})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_number_of_programs(case, monkeypatch):
    """One program for all windows, some for each head, one for each window."""
    tensors, results = case.tensors(torch.float32), []
    for programs in (1, 3, 64):
        with_tiles(monkeypatch, 16, programs)
        results.append(run(case, tensors, "triton"))
        assert_accurate(case, tensors, results[-1])
    for other in results[1:]:
        assert_identical({k: other[k] for k in EACH}, {k: results[0][k] for k in EACH})


@pytest.mark.parametrize("heads_at_a_time", [1, 3])
def test_bias_gradient_of_a_few_heads_at_a_time(heads_at_a_time, monkeypatch):
    """As many heads as the bounded buffer holds; any number gives the same bits."""
    case = Case((3, 6), (3, 6), heads=6, batch=1)
    tensors = case.tensors(torch.float32)
    monkeypatch.setattr(window_attention, "_device", lambda _: ("", 1))
    with_tiles(monkeypatch, 16, 4 * heads_at_a_time)  # a window has four tiles
    some = run(case, tensors, "triton")
    with_tiles(monkeypatch, 16, 64)
    assert_identical({"d": some["d_bias_table"]}, {"d": run(case, tensors, "triton")["d_bias_table"]})


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("window", [(3, 5), (4, 7)], ids=str)
def test_dropout_mask_is_that_of_the_reference(window, block, monkeypatch):
    """With equal weights and v the identity, the output is the mask."""
    with_tiles(monkeypatch, block, 2)
    n, heads, batch, p = window[0] * window[1], 2, 2, 0.3
    qkv = torch.zeros(batch, *window, 3, heads, 32)
    qkv[..., 2, :, :n] = torch.eye(n).view(1, *window, 1, n)
    seed = torch.tensor([0x1234_5678_9ABC])
    out, _ = window_attention.forward(
        qkv.flatten(3), None, None, None, None, None, seed, heads, window, (0, 0), 1.0, False, -100.0, p, False
    )
    weights = out.view(batch, n, heads, 32)[..., :n].transpose(1, 2)
    keep = reference.dropout_keep(seed, batch, heads, n, p)
    torch.testing.assert_close(weights, keep / (n * (1 - p)))
