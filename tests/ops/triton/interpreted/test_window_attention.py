"""The contract of the op on the Triton kernels, forward and every gradient, by the rule of the other backends.

The default run takes the smallest shapes that reach every branch of the kernels; the full lists are marked slow.
"""

from __future__ import annotations

import pytest
import torch

from ...cases import DTYPES, Case, assert_accurate, run
from ...test_window_attention import ALL, WIDE

HALF = {k: DTYPES[k] for k in ("float32", "bfloat16", "float16")}
W, G = (3, 4), (5, 7)
# every option once, most of them together
CASES = [
    Case((7, 7), (7, 14), shift=3, head_dim=32, heads=1, batch=1, wide=True),
    Case((8, 8), (8, 8), heads=1, batch=1, head_dim=30),
    Case(W, G, shift=(2, 1), head_dim=10, pad="attended", pad_order="roll_then_pad", scale=0.3),
    Case(W, G, shift=(1, 2), pad="attended", cosine=True, bias="index", heads=3, batch=1),
    Case(W, G, shift=(2, 3), bias="none", mask="image", mask_value=-torch.inf, batch=1),
    Case(W, G, dropout=0.5, shift=1, mask="batch", heads=1, bias="index"),
    Case(W, (2, 3), shift=(2, 1), pad="attended", pad_order="roll_then_pad", dropout=0.1, cosine=True),
    Case((1, 1), (1, 2), head_dim=2),
    Case((3, 2, 2), (4, 2, 3), shift=(1, 0, 1), pad="attended", mask="one", batch=1),
    Case((1, 2, 3), (2, 2, 4), shift=(0, 1, 2), pad_order="roll_then_pad", batch=1),
    Case(W, (3, 4), head_dim=130, heads=1, batch=1, mask_value=-2.5),
]
TILED = [
    Case((4, 5), (4, 9), shift=(1, 2), heads=1, batch=1, pad="attended", cosine=True, wide=True),
    Case((5, 7), (5, 7), shift=(2, 3), heads=1, batch=1, mask="one", dropout=0.25, bias="index"),
    Case((3, 3, 3), (3, 3, 4), shift=(1, 0, 2), heads=2, batch=1, bias="none", mask_value=-torch.inf),
    Case((3, 6), (2, 6), shift=(0, 1), heads=4, batch=1, dropout=0.5, pad="attended", pad_order="roll_then_pad"),
]


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_gradients(case, dtype):
    tensors = case.tensors(dtype)
    assert_accurate(case, tensors, run(case, tensors, "triton"))


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
@pytest.mark.parametrize("case", TILED, ids=str)
def test_tiles(case, dtype, tiled):
    tensors = case.tensors(dtype)
    assert_accurate(case, tensors, run(case, tensors, "triton"))


def test_more_than_one_tile_by_default():
    case = Case((6, 12), (6, 12), shift=(3, 5), heads=1, batch=1, head_dim=16)
    tensors = case.tensors(torch.float32)
    assert_accurate(case, tensors, run(case, tensors, "triton"))


def test_parameters_of_other_dtypes():
    case = Case(W, G, shift=1, pad="attended", mask="image", cosine=True, bias="index", heads=1)
    tensors = case.tensors(torch.float32)
    for name, dtype in (("bias_table", torch.bfloat16), ("mask", torch.float16), ("logit_scale", torch.float64)):
        tensors[name] = tensors[name].to(dtype)
    tensors["bias_index"] = tensors["bias_index"].int()
    assert_accurate(case, tensors, run(case, tensors, "triton"))


@pytest.mark.parametrize("lowest", [False, True])
def test_query_without_a_key(lowest):
    """All keys at -inf: zeros. All at the lowest number, which is no -inf: a uniform softmax, as PyTorch has it."""
    case = Case(W, (3, 8), mask="one", heads=1, batch=1)
    tensors = case.tensors(torch.float32)
    tensors["mask"][0, 4] = torch.finfo(torch.float32).min if lowest else -torch.inf
    got = run(case, tensors, "triton")
    assert_accurate(case, tensors, got)
    assert bool(torch.count_nonzero(got["out"][0, 1, 0])) == lowest  # query 4 is at row 1, column 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
@pytest.mark.parametrize("case", [*ALL, *WIDE], ids=str)
def test_full_list(case, dtype):
    tensors = case.tensors(dtype)
    assert_accurate(case, tensors, run(case, tensors, "triton"))
