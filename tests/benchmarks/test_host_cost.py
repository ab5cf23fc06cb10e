"""The comparison of host-side costs runs both roads to their launches."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ONCE = """
from benchmarks import host_cost
def once(function):
    function()
    return 2.0
host_cost.per_call = once
host_cost.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or find_spec("triton") is None, reason="needs Triton for NVIDIA GPUs")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_both_roads_reach_their_launches():
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", ONCE], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = re.findall(r"^(bfloat16|float32), (.+?) +2\.0 +2\.0 +1\.0$", result.stdout, re.MULTILINE)
    assert len(lines) == 8 and {what for _, what in lines} >= {"forward, op", "forward, call", "backward, op"}
