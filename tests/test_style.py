"""The sources are as ruff and clang-format leave them; both come with the test extra."""

import subprocess
import sys
from pathlib import Path

import clang_format
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    run([sys.executable, "-m", "ruff", *command, "--no-cache", "."])


def test_clang_format():
    files = [file for folder in ("csrc", "tests", "benchmarks") for file in (ROOT / folder).rglob("*")]
    sources = sorted(str(f.relative_to(ROOT)) for f in files if f.suffix in (".c", ".cpp", ".cu", ".cuh", ".h"))
    assert "csrc/module.cpp" in sources
    run([clang_format.get_executable("clang-format"), "--dry-run", "--Werror", *sources])


def run(command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
