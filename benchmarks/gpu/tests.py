"""The tests marked gpu; where there is no pytest, `swin-fast verify` on each backend instead, and a word about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from swin_fast import native

from .state import ROOT, State, version

MARK = re.compile(r"^(?:\s*@|pytestmark = .*)pytest\.mark\.gpu\b", re.MULTILINE)
SLOW = re.compile(r"^\s*@pytest\.mark\.slow\b", re.MULTILINE)
WORKERS = 4  # most of the time goes into compiling Triton kernels, one at a time in a process


def main(state: State, part: str) -> int:
    """The files one after another; those that passed in an earlier run are left out."""
    if not version("pytest"):
        print("note: the package pytest is missing, so swin-fast verify ran in place of the tests marked gpu")
        return smoke(state, part)
    results, failed = state.found(part), False
    for step, file, slow in steps():
        if step in state.done(part):
            continue
        report = state.folder / "tests.xml"
        report.unlink(missing_ok=True)
        status = subprocess.run(command(file, slow, report), cwd=ROOT, check=False).returncode
        if report.is_file():
            results[step] = read(report)
            state.keep(part, results)
        if status:
            failed = True
        else:
            state.mark(part, step)
    for reason, count in skipped(results).items():
        print(f"note: {count} skipped: {reason}")
    return 1 if failed else 0


def steps(folder: Path = ROOT / "tests") -> list[tuple[str, str, bool]]:
    """(name, file, slow) for the files with a test that needs a GPU; a file's slow ones, which need much memory, alone.

    The other files' imports need packages that may be missing here.
    """
    found = []
    for file in sorted(folder.rglob("test_*.py")):
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(folder.parent))
        if MARK.search(text):
            found.append((name, name, False))
            if SLOW.search(text):
                found.append((f"{name}, slow", name, True))
    return found


def command(file: str, slow: bool, report: Path) -> list[str]:
    options = ["-m", f"gpu and {'' if slow else 'not '}slow", "-q", "-rfE", "--tb=short", "--show-capture=no"]
    options += ["-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_logging=no"]
    if version("pytest-xdist") and not slow and (os.cpu_count() or 1) > 2 * WORKERS:
        options += ["-n", str(WORKERS)]
    return [sys.executable, "-m", "pytest", *options, file]


def read(report: Path) -> dict:
    """Counts of a JUnit file, names of what failed, and how many were skipped for each reason."""
    found = {"passed": 0, "failed": [], "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag: child for child in case}
        if "failure" in kinds or "error" in kinds:
            found["failed"].append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            reason = kinds["skipped"].get("message") or "no reason"
            found["skipped"][reason] = found["skipped"].get(reason, 0) + 1
        else:
            found["passed"] += 1
    return found


def skipped(results: dict[str, dict]) -> dict[str, int]:
    """How many tests of all files were skipped for each reason."""
    total = {}
    for found in results.values():
        for reason, count in found["skipped"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def smoke(state: State, part: str) -> int:
    """Exit status of `swin-fast verify` on the GPU, over the backends that are here."""
    statuses = {}
    for backend, preference in (("triton", "triton"), ("cuda", "auto")):
        if backend == "cuda" and not native.cuda_loaded:
            print(f"note: cuda is not verified: {native.cuda_reason}")
            continue
        print(f"-- verify, {backend}", flush=True)
        # "auto" is the CUDA library and, for what it has not compiled in, Triton, which cuda by name would refuse
        environment = os.environ | {"SWIN_FAST_BACKEND": preference}
        line = [sys.executable, "-m", "swin_fast", "verify", "--device", "cuda"]
        statuses[backend] = subprocess.run(line, cwd=ROOT, env=environment, check=False).returncode
    failures = [f"swin-fast verify, {backend}" for backend, status in statuses.items() if status]
    state.keep(part, {"swin-fast verify": {"passed": len(statuses) - len(failures), "failed": failures, "skipped": {}}})
    return 1 if failures else 0
