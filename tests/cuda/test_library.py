"""Which calls the compiled CUDA library takes, and its words for the others, asked about GPUs that are not here."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from swin_fast import native
from swin_fast.cuda_kernels import MODES
from swin_fast.dispatch import Call, Device

pytestmark = pytest.mark.skipif(
    not native.build_info().get("cuda"),
    reason=f"no CUDA library was built: {native.build_info().get('cuda_reason', 'this is a source tree')}",
)


@pytest.fixture
def loaded():
    if not native.cuda_loaded:
        pytest.skip(native.cuda_reason)


A100, H100 = (13000, 8, 0, 108, 163 << 10, 164 << 10), (13000, 9, 0, 132, 227 << 10, 228 << 10)
SMALL = (*H100[:4], 99 << 10, 100 << 10)


def why_not(dtype=torch.bfloat16, window=(7, 7), grid=(56, 56), heads=3, head_dim=32, batch=64, device=H100) -> str:
    return torch.ops.swin_fast.cuda_why_not(MODES[dtype], batch, grid, window, heads, head_dim, device)


def test_what_is_compiled_in(loaded):
    built = native.build_info()["cuda"]
    for name, device in (("sm_80", A100), ("sm_90a", H100)):
        if name not in built:
            continue
        for dtype in MODES:
            for side in (7, 8, 12, 16):
                for head_dim in (16, 24, 30, 32, 64):
                    if (dtype, side, head_dim, name) != (torch.float32, 16, 64, "sm_80"):
                        assert why_not(dtype, (side, side), head_dim=head_dim, device=device) == ""
        assert why_not(window=(2, 7, 7), grid=(8, 14, 14), device=device) == ""


@pytest.mark.parametrize(
    "given, words",
    [
        ({"window": (17, 16)}, "take windows of at most 256 tokens, and this one has 272"),
        ({"head_dim": 66}, "take a head_dim of at most 64, and this one is 66"),
        ({"device": (13000, 7, 5, 68, 64 << 10, 64 << 10)}, "need compute capability 8.0, and the GPU has 7.5"),
        ({"device": (11080, *H100[1:])}, "built with CUDA [0-9.]+, and the driver knows 11.8 at most"),
        ({"batch": 1 << 26}, "2.31 pairs of window and head"),
        (
            {"dtype": torch.float32, "window": (16, 16), "head_dim": 64, "device": SMALL},
            "would need [0-9]+ bytes of shared memory in a block, and this GPU has 101376",
        ),
    ],
)
def test_what_is_not_is_said_in_words(loaded, given, words):
    if "sm_90a" not in native.build_info()["cuda"]:
        pytest.skip("the words are about a GPU of compute capability 9.0")
    assert re.search(words, why_not(**given))


def test_a_gpu_that_the_library_was_not_built_for(loaded):
    built = native.build_info()["cuda"]
    newer = (13000, 19, 0, 132, 227 << 10, 228 << 10)
    ptx = any(name.startswith("compute_") for name in built)
    assert (why_not(device=newer) == "") == ptx
    if not ptx:
        assert f"was built for {','.join(built)}, and the GPU has compute capability 19.0" in why_not(device=newer)


def test_dispatch_gets_the_same_answer(loaded, monkeypatch):
    from swin_fast import cuda_kernels

    monkeypatch.setattr(cuda_kernels, "device_facts", lambda index: H100)
    call = Call(Device("cuda", 0, "H100", (9, 0)), torch.bfloat16, 2, (56, 56), (7, 7), 3, 32)
    if "sm_90a" in native.build_info()["cuda"]:
        assert cuda_kernels.why_not(call) == ""
    assert "there is no GPU here" in cuda_kernels.why_not(replace(call, device=Device("cuda")))
    assert "272" in cuda_kernels.why_not(replace(call, window_size=(17, 16)))
    assert cuda_kernels.why_not(replace(call, dtype=torch.float64)).endswith("and the tensor is float64")
