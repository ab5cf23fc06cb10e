"""Every candidate computes the core, and one that does not is never timed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import peers
from swin_fast import native, testing

SHIFTED = testing.Case("14x21", (14, 21), (7, 7), (3, 3), num_heads=3, head_dim=8, pad="masked")
PLAIN = replace(SHIFTED, name="7x7", grid=(7, 7), shift_size=(0, 0))


@pytest.fixture(autouse=True)
def trace_only(monkeypatch):
    """Without the compiler of generated code, which takes a minute and is not ours."""
    monkeypatch.setattr(peers, "_compile", partial(torch.compile, fullgraph=True, backend="eager"))
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", [SHIFTED, PLAIN], ids=lambda case: case.name)
@pytest.mark.parametrize("backward", [False, True])
def test_every_candidate_is_right(case, backward, dtype):
    found = peers.candidates(case, dtype, backward, compiled=True, on_windows=True)
    assert list(found) == [
        "swin_fast", "eager", "eager on windows", "eager compiled", "eager on windows compiled",
        "sdpa", "sdpa on windows", "sdpa compiled", "sdpa on windows compiled",
    ]  # fmt: skip
    peers.check(case, dtype, found)
    names = {"out", "grad q", "grad k", "grad v", "grad bias_table"} if backward else {"out"}
    assert all(candidate.results().keys() == names for candidate in found.values())


@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_candidate_is_refused(monkeypatch, backward):
    monkeypatch.setattr(peers, "shift_mask", lambda *args: None)
    found = peers.candidates(SHIFTED, torch.float32, backward)
    with pytest.raises(RuntimeError, match="eager is not timed, because it is wrong at 14x21, torch.float32"):
        peers.check(SHIFTED, torch.float32, found)


def test_a_wrong_gradient_is_refused():
    found = peers.candidates(SHIFTED, torch.float32, backward=True)
    (grad,) = found["sdpa"].incoming
    with pytest.raises(RuntimeError, match="sdpa is not timed.*grad k"):
        peers.check(SHIFTED, torch.float32, {"sdpa": replace(found["sdpa"], incoming=(grad * 1.01,))})


def test_inference_keeps_no_graph():
    found = peers.candidates(PLAIN, torch.float32)
    assert all(not out.requires_grad and out.grad_fn is None for c in found.values() for out in c())


def test_a_package_without_kernels_is_not_timed(monkeypatch):
    monkeypatch.setattr(native, "loaded", False)
    monkeypatch.setattr(native, "reason", "the compiled library is missing")
    with pytest.raises(RuntimeError, match="nothing to time: the compiled library is missing"):
        peers.candidates(PLAIN, torch.float32)
