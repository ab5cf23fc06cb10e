"""What the launch decides without a GPU: grids, sizes of buffers, bytes moved."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from swin_fast.triton_kernels.config import ITEM_SIZE, Variant, candidates, default_config, is_whole
from swin_fast.triton_kernels.window_attention import bytes_per_token, plan

SWIN = Variant("bf16", (1, 7, 7), (1, 56, 56), (0, 3, 3), 64, 3, 32, table="bf16", rows=169)
STAGES = {
    f"{name} stage {i + 1}": replace(SWIN, grid=(1, 56 >> i, 56 >> i), heads=heads << i)
    for name, heads in (("Swin-T", 3), ("Swin-B", 4))
    for i in range(4)
}
LARGE = {
    "12x12": replace(SWIN, window=(1, 12, 12), grid=(1, 96, 96), rows=23 * 23),
    "24x24": replace(SWIN, window=(1, 24, 24), grid=(1, 48, 48), rows=47 * 47, heads=16),
    "32x32": replace(SWIN, window=(1, 32, 32), grid=(1, 64, 64), rows=63 * 63, heads=32),
    "8x7x7": replace(SWIN, window=(8, 7, 7), grid=(8, 56, 56), rows=15 * 13 * 13),
}
INDEX = {"7x7 with an index": replace(SWIN, index="i64"), "dropout": replace(SWIN, dropout=True)}
ALL = STAGES | LARGE | INDEX


@pytest.mark.parametrize("dtype", ITEM_SIZE)
@pytest.mark.parametrize("v", STAGES.values(), ids=STAGES)
def test_bytes_of_the_swin_stages_are_the_floor(v, dtype):
    """q, k, v, the output and their gradients once (8 and 14 bytes a channel in 2-byte types), and hardly more."""
    v, channels = replace(v, dtype=dtype), v.heads * v.head_dim
    for backward, parts in ((False, 4), (True, 7)):
        floor = parts * channels * ITEM_SIZE[dtype]
        moved = bytes_per_token(v, default_config(v, backward), backward)
        assert floor <= moved <= 1.06 * floor
        if not backward:
            assert moved == floor


def test_bytes_of_tiles_and_masks():
    v = LARGE["12x12"]
    c = default_config(v, False)
    assert not is_whole(v, c) and c.block_m == 64
    assert bytes_per_token(v, c, False) == 96 * 2 * (2 + 2 * 3)  # three tiles of queries read the keys
    assert bytes_per_token(replace(SWIN, mask="fp32"), default_config(SWIN, False), False) == 8 * 96 + 4 * 49 * 3


@pytest.mark.parametrize("processors", [1, 108, 132, 304])
@pytest.mark.parametrize("v", ALL.values(), ids=ALL)
def test_programs_and_partial_sums_are_bounded_by_the_gpu(v, processors):
    """Buffers for sums over windows grow with the GPU, not with the batch."""
    for batch in (1, 64, 4096):
        v = replace(v, batch=batch)
        for backward in (False, True):
            c = default_config(v, backward)
            p, resident = plan(v, c, backward, multiprocessors=processors), processors * c.programs_per_sm
            tiles = 1 if is_whole(v, c) else prod(-(-v.tokens // b) for b in (c.block_m, c.block_n))
            for step, launch in p.launches.items():
                if step not in ("forward", "backward", "queries", "keys", "bias"):
                    continue
                at_least = tiles if step == "bias" else v.heads
                assert launch.grid[0] <= max(resident, at_least)
            if backward:
                entries = v.tokens**2 if "sum rows" in p.launches else v.rows
                programs = max(resident // tiles, v.heads if tiles == 1 else 1)
                assert p.some_heads * p.groups["bias"] <= programs
                assert 4 * p.some_heads * p.groups["bias"] * entries <= max(16 << 20, 4 * entries)


@pytest.mark.parametrize("v", ALL.values(), ids=ALL)
def test_every_candidate_makes_a_plan(v):
    for backward in (False, True):
        tried = candidates(v, backward)
        assert tried[0] == default_config(v, backward) and len(set(tried)) == len(tried) > 5
        for c in tried:
            for launch in plan(v, c, backward).launches.values():
                assert list(launch.signature) == launch.kernel.arg_names
                assert set(launch.constexprs) == {k for k, kind in launch.signature.items() if kind == "constexpr"}


def test_tensors_that_are_absent_are_constants():
    forward = plan(SWIN, default_config(SWIN, False), False).launches["forward"]
    assert forward.signature["p_qkv"] == "*bf16" and forward.signature["p_mask"] == "constexpr"
    assert forward.constexprs["p_mask"] is None and forward.signature["scale"] == "fp32"
    masked = plan(replace(SWIN, mask="fp32"), default_config(SWIN, False), False).launches["forward"]
    assert masked.signature["p_mask"] == "*fp32"
