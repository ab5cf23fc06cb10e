"""compute-sanitizer over `small_calls`: each tool with each backend, errors counted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from swin_fast import native

from .state import ROOT, State, version

TOOLS = ("memcheck", "racecheck", "synccheck")
ERRORS = re.compile(r"^========= ERROR SUMMARY: (\d+) errors?", re.MULTILINE)
HAZARDS = re.compile(
    r"^========= RACECHECK SUMMARY: (\d+) hazards? displayed \((\d+) errors?, (\d+) warnings?\)", re.MULTILINE
)
REPORT = re.compile(r"^========= (.*)$", re.MULTILINE)
FIRST = re.compile(r"^(?!COMPUTE-SANITIZER|ERROR SUMMARY|RACECHECK SUMMARY|\s|$)")  # begins what is said of one error
SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """`errors` and `warnings` that the tool counted, None where it printed no summary; the first of what it said."""

    errors: int | None
    warnings: int
    said: tuple[str, ...]

    def __str__(self) -> str:
        if self.errors is None:
            return "no summary: the tool did not work or was stopped"
        return f"{self.errors} errors, {self.warnings} warnings"


def read(text: str) -> Verdict:
    """The counts in what a tool printed; the sum where several processes were watched. A hazard is an error."""
    errors = [int(n) for n in ERRORS.findall(text)]
    hazards = [tuple(map(int, found)) for found in HAZARDS.findall(text)]
    said = tuple(line for line in REPORT.findall(text) if FIRST.match(line))[:SHOWN]
    if not errors and not hazards:
        return Verdict(None, 0, said)
    # hazards that are neither are information, of which nothing is hidden by counting them with the warnings
    return Verdict(sum(errors) + sum(e for _, e, _ in hazards), sum(max(w, total - e) for total, e, w in hazards), said)


def command(tool: str, executable: str = "compute-sanitizer") -> list[str]:
    """The tool without its target. API errors are torch's own probing, and a nonzero exit status means an error."""
    options = ["--target-processes", "application-only", "--error-exitcode", "99", "--print-limit", "20"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]
    return [executable, "--tool", tool, *options]


def main(state: State, part: str) -> int:
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not on PATH")
        return 1
    backends = (["triton"] if version("triton") else []) + (["cuda"] if native.cuda_loaded else [])
    if not native.cuda_loaded:
        print(f"note: without cuda: {native.cuda_reason}")
    # a tensor is an allocation of its own, so that one byte too far is seen
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    found = state.found(part)
    for backend in backends:
        for tool in TOOLS:
            step = f"{tool}, {backend}"
            if step in state.done(part):
                print(f"-- {step}: done before, {found[step]['verdict']}")
                continue
            print(f"-- {step}", flush=True)
            target = [sys.executable, "-m", "benchmarks.gpu.small_calls", backend]
            result = subprocess.run(
                [*command(tool), *target], cwd=ROOT, env=environment, text=True, errors="replace", check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            verdict = read(result.stdout)
            ok = verdict.errors == 0 and not verdict.warnings and result.returncode == 0
            found[step] = {"verdict": str(verdict), "passed": ok, "said": verdict.said}
            state.keep(part, found)
            if ok:
                state.mark(part, step)
            else:
                print(result.stdout[-4000:])
            print(f"{step}: {verdict}, exit status {result.returncode}", flush=True)
    return 0 if found and all(entry["passed"] for entry in found.values()) else 1
