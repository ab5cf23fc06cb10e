"""The compiled CUDA library as it was installed: registers, spills, shared memory, and what instructions it holds.

Read from its machine code; nothing is compiled and no GPU is needed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import cuda_resources as report
from swin_fast import native

pytestmark = pytest.mark.skipif(bool(report.why_not()), reason=f"nothing to read: {report.why_not()}")
TWO_BYTE = ("bfloat16", "float16")


@pytest.fixture(scope="module", params=["sm_80", "sm_90a"])
def rows(request):
    if request.param not in report.architectures():
        pytest.skip(f"the library was built for {', '.join(report.architectures())}")
    return report.rows(request.param)


def test_every_kernel_is_there(rows):
    found = {(r.direction, r.mode, r.head_dim, r.window) for r in rows}
    modes = ("float32", "tf32", *TWO_BYTE)
    expected = {(d, m, h, w) for d in ("forward", "backward") for m in modes for h in (16, 32, 64) for w in (49, 256)}
    assert found == expected


def test_forward_of_the_swin_stages_spills_nothing_and_fills_a_multiprocessor(rows):
    stages = [r for r in rows if (r.direction, r.head_dim, r.window) == ("forward", 32, 49) and r.mode in TWO_BYTE]
    assert len(stages) == 2
    for row in stages:
        assert row.local_bytes == 0 and row.local == 0, row
        assert row.registers <= 128, row
        if native.cuda_loaded:
            assert row.resident >= 4 and row.shared_bytes <= 48 << 10, row


def test_backward_of_the_swin_stages_copies_ahead_beside_as_many_blocks_as_without(rows):
    stages = [r for r in rows if (r.direction, r.head_dim, r.window) == ("backward", 32, 49) and r.mode in TWO_BYTE]
    assert len(stages) == 2
    for row in stages:
        assert row.local_bytes == 0 and row.local == 0, row
        if native.cuda_loaded:
            one = 4 * 64 * (32 + 8) * 2  # q, k, v and the gradient of the output of one window
            assert row.resident == 3 and row.shared_bytes > 2 * one, row


def test_no_kernel_spills_much_or_outgrows_a_block(rows):
    for row in rows:
        assert row.local_bytes <= 64, row
        if native.cuda_loaded and row.resident == 0:  # refused in words before a launch, see below
            assert row.shared_bytes > report.LIMITS[row.arch][2] - 1024, row


def test_matrix_units_and_16_byte_loads_are_used(rows):
    for row in rows:
        assert (row.matrix > 0) == (row.mode != "float32"), row  # exact float32 has no matrix instruction
        assert row.load_16 > 0 and row.store_16 > 0, row


def test_the_kept_table_is_of_these_kernels(rows):
    """For the nvcc that made it."""
    if not report.kept_file().is_file():
        pytest.skip(f"no table is kept for nvcc {native.build_info()['cuda_toolkit']}")
    kept = [row for row in report.read_table(report.kept_file()) if row.arch == rows[0].arch]
    unknown = {} if native.cuda_loaded else dict.fromkeys(("threads", "shared_bytes", "resident"))
    assert rows == [replace(row, **unknown) for row in kept]


def test_a_table_is_read_as_it_was_written(tmp_path, rows):
    lines = [rows[0], replace(rows[1], threads=None, shared_bytes=None, resident=None)]
    report.write_table(tmp_path / "t.csv", lines)
    assert report.read_table(tmp_path / "t.csv") == lines


def test_resident_blocks():
    """The formula against figures of the CUDA programming guide's own kind, worked out by hand."""
    assert report.resident("sm_80", 32, 1024, 0) == 2  # 64 warps
    assert report.resident("sm_80", 128, 128, 0) == 4  # 4096 registers a warp, 16 warps
    assert report.resident("sm_80", 97, 128, 0) == 4  # rounded up to 3328 a warp, 4 in each part
    assert report.resident("sm_90a", 32, 32, 0) == 32
    assert report.resident("sm_86", 32, 64, 0) == 16
    assert report.resident("sm_80", 32, 128, 40 << 10) == 4  # 41 KiB each of 164
    assert report.resident("sm_86", 255, 512, 0) == 0
