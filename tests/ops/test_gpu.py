"""The same rule on a CUDA GPU; where there is no kernel for it yet, the op there is plain PyTorch and says so."""

from __future__ import annotations

import pytest
import torch

from .cases import DTYPES, Case, assert_accurate, assert_identical, run

pytestmark = pytest.mark.gpu

W, G = (4, 3), (9, 8)
CASES = [
    Case((7, 7), (14, 21), shift=3, heads=3, head_dim=32),
    Case((7, 7), (10, 13), shift=(3, 2), head_dim=32, pad="attended"),
    Case((8, 8), (11, 24), shift=(4, 0), head_dim=10, heads=6),
    Case((24, 24), (24, 25), heads=1, batch=1, shift=3, pad="attended"),
    Case((2, 3, 4), (5, 7, 6), shift=(1, 2, 3), heads=3, head_dim=10),
    Case(W, G, shift=1, pad="attended", pad_order="roll_then_pad", bias="index", mask="image", cosine=True),
    Case(W, G, shift=(2, 1), mask_value=-torch.inf, mask="batch", scale=0.7),
    Case(W, G, dropout=0.3, pad="attended", shift=1, wide=True),
]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_gradients(case, dtype):
    tensors = case.tensors(dtype, "cuda")
    assert_accurate(case, tensors, run(case, tensors))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs_are_one(case):
    tensors = case.tensors(torch.float32, "cuda")
    assert_identical(run(case, tensors), run(case, tensors))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_seed_same_dropout_as_on_the_cpu(case):
    """The mask is a function of the seed alone, so a fixed seed gives one result on both devices."""
    results = []
    for device in ("cpu", "cuda"):
        tensors = case.tensors(torch.float64, device)
        shift = [case.shift] * len(case.grid) if isinstance(case.shift, int) else list(case.shift)
        out, _ = torch.ops.swin_fast.window_attention(
            *(tensors[k] for k in ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")),
            torch.tensor([12345], device=device), case.heads, list(case.window), shift, 0.5,
            case.pad_order == "roll_then_pad", case.mask_value, case.dropout, False,
        )  # fmt: skip
        results.append(out.cpu())
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
