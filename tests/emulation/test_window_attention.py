"""The CUDA kernels, executed on a CPU, against float64: the output and every gradient, over shapes and options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ..ops.cases import DIFFERENTIABLE, Case, assert_identical
from .cases import ALL, LONG_RUNS, MANY_WINDOWS, SHAPES, WIDE
from .modes import MODES, check
from .window_attention import CROWDED, FULL, Limits

every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
@pytest.mark.parametrize("case", ALL, ids=str)
def test_forward_and_gradients(kernels, case, mode):
    check(kernels, case, mode)


@pytest.mark.parametrize("mode", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_half_map_with_float32_parameters(kernels, case, mode):
    check(kernels, case, mode)


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_half_parameters_of_a_float32_map(kernels, case):
    tensors = case.tensors(torch.float32)
    for name in ("bias_table", "logit_scale"):
        if tensors[name] is not None:
            tensors[name] = tensors[name].bfloat16()
    check(kernels, case, "float32", tensors)


@every_mode
@pytest.mark.parametrize("case", [SHAPES[1], SHAPES[7], WIDE[1]], ids=str)
def test_the_same_bits_whatever_runs_first(kernels, case, mode, monkeypatch):
    dtype, rounded = MODES[mode]
    tensors = case.tensors(dtype)
    results = []
    for seed in range(3):
        monkeypatch.setenv("SWIN_FAST_EMULATION_SEED", str(seed))
        results.append(kernels.run(case, tensors, tf32=rounded))
    for other in results[1:]:
        assert_identical(other, results[0])


@pytest.mark.parametrize("multiprocessors", [2, 3, 132])
@pytest.mark.parametrize("case", [SHAPES[0], WIDE[0], SHAPES[7]], ids=str)
def test_any_number_of_multiprocessors(kernels, case, multiprocessors):
    check(kernels, case, "bfloat16", limits=Limits(multiprocessors))


@every_mode
@pytest.mark.parametrize("case", MANY_WINDOWS, ids=str)
def test_windows_copied_ahead(kernels, case, mode):
    check(kernels, case, mode, limits=FULL)


@pytest.mark.parametrize("limits", [CROWDED, FULL], ids=["forward", "backward"])
@pytest.mark.parametrize("case, mode", [*((LONG_RUNS[0], mode) for mode in MODES), (LONG_RUNS[1], "bfloat16")], ids=str)
def test_long_runs_of_windows_copied_ahead(kernels, case, mode, limits):
    check(kernels, case, mode, limits=limits)


LAYOUTS = {
    "a slice of more channels": lambda t: torch.cat([t, t[..., :8]], -1)[..., : t.shape[-1]],
    "a slice whose rows are not aligned": lambda t: torch.cat([t[..., :1], t, t[..., :2]], -1)[..., 1:-2],
    "a slice of 4-byte alignment": lambda t: torch.cat([t[..., :2], t, t[..., :2]], -1)[..., 2:-2],
    "batch in the middle": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "transposed map": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "every second row": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "expanded over the batch": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_alignments(kernels, layout, mode):
    case = Case((7, 7), (8, 9), shift=(3, 2), head_dim=16, heads=2, pad="attended")
    tensors = case.tensors(MODES[mode][0])
    for name in ("qkv", "grad"):
        tensors[name] = LAYOUTS[layout](tensors[name])
    assert not tensors["qkv"].is_contiguous()
    check(kernels, case, mode, tensors)


@pytest.mark.parametrize("wanted", [[name] for name in DIFFERENTIABLE], ids=str)
def test_only_some_gradients(kernels, wanted):
    case = replace(WIDE[1], seed=3)
    tensors = case.tensors(torch.bfloat16)
    everything = kernels.run(case, tensors)
    got = kernels.run(case, tensors, gradients=wanted)
    names = {"out", "dq", "dk", "dv"} if wanted == ["qkv"] else {"out", f"d_{wanted[0]}"}
    assert got.keys() == names
    assert_identical(got, {name: everything[name] for name in names})
