"""Every instruction set's code, each forced by the environment, is held to the same rule."""

from __future__ import annotations

import pytest
import torch

from .cases import DTYPES, Case, assert_accurate, run

ENV = "SWIN_FAST_CPU_CAPABILITY"
SUPPORTED = {
    "portable": lambda: True,
    "avx2": torch.cpu._is_avx2_supported,
    "avx512": torch.cpu._is_avx512_supported,
    "avx512_bf16": torch.cpu._is_avx512_bf16_supported,
}
CASES = [
    Case((7, 7), (14, 9), shift=3, heads=2, head_dim=32, pad="attended"),
    Case((7, 7), (14, 7), heads=1, head_dim=96, bias="none"),
    Case((8, 8), (11, 16), shift=(4, 0), heads=1, head_dim=30, mask="one"),
    Case((4, 6), (9, 11), shift=(2, 5), heads=3, head_dim=10, bias="index", mask_value=-torch.inf),
    Case((12, 12), (12, 13), shift=5, heads=1, head_dim=64, batch=1, scale=0.4),
    Case((16, 16), (17, 9), shift=(3, 8), heads=1, head_dim=16, batch=1, pad="attended", pad_order="roll_then_pad"),
    Case((24, 24), (24, 24), shift=12, heads=1, head_dim=8, batch=1, dropout=0.2),
    Case((3, 5), (7, 4), shift=(2, 3), heads=3, head_dim=2, mask="batch"),
    Case((1, 1), (3, 4), head_dim=6),
    Case((8, 8), (16, 8), shift=4, heads=2, head_dim=32, cosine=True),
    Case((2, 3, 4), (5, 7, 6), shift=(1, 2, 3), heads=2, head_dim=18, cosine=True, pad="attended"),
    Case((4, 4), (8, 4), shift=1, heads=1, head_dim=256),
    Case((5, 5), (10, 7), shift=2, heads=2, head_dim=24, wide=True, pad="attended", mask="image"),
]


@pytest.fixture(params=SUPPORTED)
def capability(request, monkeypatch):
    if not SUPPORTED[request.param]():
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setenv(ENV, request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set(case, dtype, capability):
    assert torch.ops.swin_fast.cpu_capability() == capability
    tensors = case.tensors(dtype)
    assert_accurate(case, tensors, run(case, tensors))


def test_they_are_different_code(monkeypatch):
    """Sums of another length are added in another order: the knob does what it says."""
    case = Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32)
    tensors, results = case.tensors(torch.float32), []
    for name in ("portable", "avx2"):
        if SUPPORTED[name]():
            monkeypatch.setenv(ENV, name)
            results.append(run(case, tensors)["dq"])
    assert len(results) < 2 or not torch.equal(*results)


def test_unknown_name_is_refused(monkeypatch):
    case = Case((4, 4), (8, 8))
    monkeypatch.setenv(ENV, "mmx")
    with pytest.raises(RuntimeError, match=f"{ENV}.*mmx"):
        run(case, case.tensors(torch.float32))


def test_missing_instructions_are_refused(monkeypatch):
    missing = [name for name, supported in SUPPORTED.items() if not supported()]
    if not missing:
        pytest.skip("this CPU has every instruction set that there is code for")
    case = Case((4, 4), (8, 8))
    for name in missing:
        monkeypatch.setenv(ENV, name)
        with pytest.raises(RuntimeError, match=f"{ENV}.*{name}"):
            run(case, case.tensors(torch.float32))
