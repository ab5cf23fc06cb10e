"""pytest-benchmark is given the samples that were taken in turn, not times of its own."""

import json
import subprocess
import sys

import pytest

from benchmarks import rows

pytest.importorskip("pytest_benchmark")

from benchmarks.test_suites import Replay  # noqa: E402


def test_the_clock_hands_over_exactly_the_samples():
    clock, samples = Replay(), (0.1, 1e-9, 123.456, 0.3, 1e-9)
    clock.load(samples)
    seen = []
    for _ in samples:  # what pytest-benchmark does in a round
        start = clock()
        clock.step()
        seen.append(clock() - start)
    assert tuple(seen) == samples
    with pytest.raises(IndexError):
        clock.step()


def test_the_table_has_them(tmp_path):
    """A group of its own with three samples, through the plugin itself."""
    (tmp_path / "conftest.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(rows.ROOT)!r})
import torch
from benchmarks import conftest, measure, registry, test_suites
from benchmarks.conftest import pytest_addoption, pytest_generate_tests, settings
from benchmarks.group import Candidate, Group, Made

out = {{"out": torch.ones(1, dtype=torch.float64)}}
right, wrong = (Candidate(lambda: 0, lambda value=value: {{"out": torch.full((1,), value)}}) for value in (1.0, 2.0))
found = {{"swin_fast": right, "eager": right, "timm": wrong}}
made = Made(torch.float32, found, (), lambda: out, lambda: out)
group = Group("core/x", "core", "x", "1", torch.float32, lambda device, compiled: list(found), lambda *_: made)
registry.GROUPS.clear()
registry.GROUPS["core/x"] = group
samples = {{"swin_fast": measure.Samples((0.25, 0.5, 1.0), 4), "eager": measure.Samples((2.0, 4.0), 1, 0.5)}}
measure.in_turn = lambda calls, rounds, device: {{name: samples[name] for name in calls}}
"""
    )
    (tmp_path / "test_it.py").write_text("from benchmarks.test_suites import test_group\n")
    options = ["-q", "--benchmark-only", "--groups", "core/*", "--benchmark-json", "found.json"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "2 passed, 1 skipped" in result.stdout, result.stdout + result.stderr
    found = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    assert [b["stats"]["data"] for b in found] == [[0.25, 0.5, 1.0], [2.0, 4.0]]
    assert {b["group"] for b in found} == {"core/x, 1 threads"}
    assert found[1]["extra_info"] == {"dropped": 1, "waited": 0.5}
