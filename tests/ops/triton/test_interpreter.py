"""Runs the folder `interpreted` in processes of their own, with Triton's interpreter in place of a GPU.

Triton decides at its import whether kernels are interpreted, and by then another test may have imported it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swin_fast

pytest.importorskip("triton", reason="Triton is not installed")

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = sorted(p.stem for p in (HERE / "interpreted").glob("test_*.py"))


def run(module: str, mark: str, folder: Path) -> str:
    """pytest's output for one module, run outside the source tree with the swin_fast that is tested here."""
    path = [str(Path(swin_fast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-q", "-p", "no:cacheprovider", "-m", mark]
    command = [sys.executable, "-m", "pytest", *options, str(HERE / "interpreted" / f"{module}.py")]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def passed(output: str) -> int:
    assert "skipped" not in output.splitlines()[-1], output
    return int(re.search(r"(\d+) passed", output)[1])


@pytest.mark.parametrize("module", MODULES)
def test_interpreted(module, tmp_path):
    assert passed(run(module, "not slow", tmp_path)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("module", ["test_window_attention", "test_property"])
def test_interpreted_full_lists(module, tmp_path):
    assert passed(run(module, "slow", tmp_path)) > 0
