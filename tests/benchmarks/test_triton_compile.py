"""The Triton kernels as machine code for GPUs that are not here: spills, shared memory, matrix instructions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="Triton compiles the kernels, and it is not installed")

from benchmarks import triton_compile as report  # noqa: E402

WAYS = ("forward", "backward")
MATRIX = {
    "sm_80": "mma.sync",
    "sm_90": "wgmma.mma_async|mma.sync",
    "sm_100": "tcgen05.mma|mma.sync",
    "gfx942": "v_mfma",
}
# what the default run compiles: every target for the Swin stages, then each kernel and option once
QUICK = [
    *((name, "bf16", tuple(report.TARGETS)) for name in ("stage 1, plain", "stage 1, shifted")),
    ("stage 1, shifted", "fp16", ("sm_80", "gfx942")),
    ("stage 1, shifted", "tf32", ("sm_80",)),
    ("16x16", "bf16", ("sm_90", "gfx942")),
    ("24x24", "bf16", ("sm_80",)),
    ("8x7x7", "fp16", ("sm_100",)),
    ("head_dim 10", "bf16", ("sm_90",)),
    ("head_dim 30", "fp16", ("sm_80",)),
    ("head_dim 64", "bf16", ("sm_100",)),
    ("V2, 8x8", "bf16", ("sm_90",)),
    ("dropout", "bf16", ("sm_80",)),
    ("padding attended, roll first", "bf16", ("sm_90",)),
    ("window layout, mask", "bf16", ("sm_80",)),
    ("bias index", "bf16", ("gfx942",)),
]


def compiled(case: str, dtype: str, targets: Iterable[str]) -> list[report.Row]:
    return report.compile_case(case, report.cases()[case], dtype, targets)


def assert_sound(rows: list[report.Row]) -> None:
    """Shared memory fits, attention kernels use matrix units, the forward of the Swin stages does not spill."""
    assert {row.direction for row in rows} == set(WAYS)
    for row in rows:
        assert row.shared_bytes <= report.SHARED_LIMIT[row.target] and row.resident >= 1, row
        if row.kernel.startswith("window_attention"):
            # NVIDIA has no matrix instruction for float32 that keeps all its bits
            exact = row.dtype == "fp32" and row.target != "gfx942"
            wrong = [name for name in row.matrix.split("+") if not re.fullmatch(MATRIX[row.target], name)]
            assert row.matrix == "" if exact else not wrong, row
        if row.case.startswith("stage") and row.direction == "forward" and row.dtype in ("bf16", "fp16"):
            assert row.local_bytes == 0, f"registers are spilled: {row}"


@pytest.mark.parametrize(("case", "dtype", "targets"), QUICK, ids=lambda v: v if isinstance(v, str) else "")
def test_compiled_code(case, dtype, targets):
    assert_sound(compiled(case, dtype, targets))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", report.DTYPES)
@pytest.mark.parametrize("case", report.cases())
def test_compiled_code_of_everything(case, dtype):
    assert_sound(compiled(case, dtype, report.TARGETS))


def test_the_kept_table_is_of_these_kernels():
    """For the Triton that made it: the table is whole, and a few rows are compiled again and compared."""
    if not report.kept_file().is_file():
        pytest.skip(f"no table is kept for Triton {report.triton.__version__}")
    kept = report.read_table(report.kept_file())
    known = {(*what, target, way) for what in report.kept() for target in report.TARGETS for way in WAYS}
    there = {(row.case, row.dtype, row.target, row.direction) for row in kept}
    assert there == known
    for case, dtype, target in (("stage 1, shifted", "bf16", "sm_90"), ("16x16", "bf16", "gfx942")):
        there = [row for row in kept if (row.case, row.dtype, row.target) == (case, dtype, target)]
        assert compiled(case, dtype, [target]) == there


def test_a_kept_table_exists():
    assert list(report.FOLDER.glob("triton-*.csv"))


def test_rows_come_back_from_a_file(tmp_path):
    row = report.Row("a, b", "bf16", "forward", "k", "sm_90", "64x64", 4, 1, 200, 0, 16384, 2, "mma.sync", "3.9.0")
    report.write_table(tmp_path / "t.csv", [row, replace(row, matrix="")])
    assert report.read_table(tmp_path / "t.csv") == [row, replace(row, matrix="")]
    assert "16384" in report.table([row]) and report.table([replace(row, matrix="")]).endswith("-")


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "programs"),
    [
        ("sm_90", 4, 32, 0, 16),  # 64 warps
        ("sm_90", 1, 32, 0, 32),  # 32 programs
        ("sm_90", 4, 128, 0, 4),  # 128 registers x 128 threads x 4
        ("sm_90", 4, 129, 0, 3),  # 136 registers a thread are given
        ("sm_80", 4, 64, 40 * 1024, 4),  # 41 KiB with what the system keeps, of 164
        ("gfx942", 4, 128, 0, 4),
        ("gfx942", 4, 129, 0, 3),
        ("gfx942", 4, 32, 32 * 1024, 2),
    ],
)
def test_resident_programs(target, warps, registers, shared, programs):
    assert report.resident(target, warps, registers, shared) == programs


def test_the_cases_are_what_their_names_say():
    cases = report.cases()
    for n, (size, heads, channels) in enumerate(((56, 3, 96), (28, 6, 192), (14, 12, 384), (7, 24, 768)), 1):
        variant = cases[f"stage {n}, plain"]
        assert variant.grid == (1, size, size) and variant.heads == heads and heads * variant.head_dim == channels
    assert "stage 4, shifted" not in cases and cases["stage 3, shifted"].shifted
    assert {v.head_dim for k, v in cases.items() if k.startswith("head_dim")} == {8, 10, 16, 30, 64}
    assert all(v.padded == ("padding" in k) for k, v in cases.items())
    assert {v.tokens for v in cases.values()} == {49, 64, 144, 256, 343, 392, 576}
