"""No row is written while the package gives wrong results: a short list of equality tests, run once for a tree.

That they passed is remembered by a hash of the sources, the compiled libraries, and the versions they ran with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

import swin_fast

from .rows import ROOT

TESTS = (
    "tests/ops/test_window_attention.py",
    "tests/ops/test_original_attention.py",
    "tests/modules/test_block.py",
    "tests/models/test_swin_transformer.py",
)
GPU_TESTS = ("tests/ops/test_gpu.py", "tests/ops/test_gpu_contract.py")


def sources(root: Path = ROOT) -> list[Path]:
    """What the results depend on, the imported package's compiled libraries included, and the tests themselves."""
    kinds = {".py", ".cpp", ".h", ".cu", ".cuh", ".json", ".so"}
    folders = [root / folder for folder in ("csrc", "tests/ops", "tests/modules", "tests/models")]
    folders.append(Path(swin_fast.__file__).parent)
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in kinds]
    return sorted({*files, *root.glob("tests/*.py")})


def fingerprint(files: Iterable[Path], root: Path = ROOT) -> str:
    found = hashlib.sha256(f"{sys.version} {torch.__version__} {torch.cuda.is_available()}".encode())
    for file in files:
        name = file.relative_to(root) if file.is_relative_to(root) else file
        found.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def cache_file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "swin_fast" / "benchmark_gate.json"


def red() -> list[str]:
    """The gate's failing tests for this tree; [] where they pass, or have passed before."""
    file, tree = cache_file(), fingerprint(sources())
    known = _known(file)
    if tree in known:
        return []
    tests = TESTS + (GPU_TESTS if torch.cuda.is_available() else ())
    print(f"before rows are written: {' '.join(tests)}", file=sys.stderr, flush=True)
    failing = run(tests)
    if not failing:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([*known[-19:], tree]), encoding="utf-8")
    return failing


def _known(file: Path) -> list[str]:
    try:
        return list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def run(tests: Iterable[str]) -> list[str]:
    """The names of those that fail; pytest's own words where it could not run them."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow"]
    result = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        return []
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, re.MULTILINE)
    said = (result.stdout + result.stderr).strip().splitlines()
    return found or [f"pytest ended with status {result.returncode}: {said[-1] if said else 'no output'}"]
