"""The same bits whatever the number of threads, the run, or the images beside one in the batch."""

from __future__ import annotations

import pytest
import torch

from .cases import DTYPES, Case, assert_identical, run

CASES = [
    Case((7, 7), (14, 21), shift=3, heads=3, head_dim=32, batch=3),
    Case((4, 3), (9, 13), shift=(2, 1), heads=5, head_dim=10, batch=2, pad="attended", cosine=True, mask="image"),
    Case((4, 3), (9, 13), shift=(2, 1), heads=1, head_dim=16, batch=5, bias="index", dropout=0.3),
    Case((16, 16), (32, 16), shift=8, heads=1, batch=1, head_dim=30),
    Case((2, 3, 4), (5, 7, 6), shift=1, heads=3, head_dim=8, pad="attended", pad_order="roll_then_pad"),
]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_number_of_threads(case, dtype, threads):
    tensors = case.tensors(dtype)
    threads(1)
    alone = run(case, tensors)
    for n in (2, 3, 8):
        threads(n)
        assert_identical(run(case, tensors), alone)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs(case, dtype):
    tensors = case.tensors(dtype)
    assert_identical(run(case, tensors), run(case, tensors))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", [c for c in CASES if not c.dropout], ids=str)
def test_an_image_does_not_see_its_neighbours(case, dtype):
    """Each image alone gives the bits it gives in the batch, so any order of the batch does, too."""
    tensors = case.tensors(dtype)
    batch = run(case, tensors)
    for i in range(case.batch):
        one = run(case, {**tensors, **{k: tensors[k][i : i + 1] for k in ("qkv", "grad")}})
        names = ("out", "dq", "dk", "dv")
        assert_identical({k: one[k][0] for k in names}, {k: batch[k][i] for k in names})
