"""The benchmarks of this GPU, group after group, so that a stop loses one group and no more."""

from __future__ import annotations

import subprocess
import sys

from .. import gate
from .state import ROOT, State

# shell patterns of groups; those of whole models take minutes to compile, so one of them stands for all
PATTERNS = {
    "core": ("core/swin_[tb]-stage?/b64/bfloat16/*",),
    "latency": ("core/swin_[tb]-stage?/b1/bfloat16/forward",),
    "models": ("model/swin_t/b64/bfloat16", "model/*/b64/bfloat16", "model/*/b1/bfloat16", "model/*/b64/float16"),
    "training": ("training/swin_t/b64/bfloat16", "training/*/b64/bfloat16"),
}
COMPILED = ("core", "latency")
COMPILED_GROUPS = ("model/swin_t/b64/bfloat16", "training/swin_t/b64/bfloat16")


def run_gate(state: State, part: str) -> int:
    """The equality tests without which the runner writes no rows; it remembers that they passed."""
    failing = gate.red()
    for name in failing:
        print(f"fails: {name}")
    return 1 if failing else 0


def main(state: State, part: str) -> int:
    """Runs what an earlier run of the part did not finish, each group in a process of its own."""
    try:
        steps = steps_of(part)
    except ValueError as error:  # a pattern that finds nothing
        print(error)
        return 1
    failed = []
    for name, compiled in steps:
        step = f"{name}{', compiled' if compiled else ''}"
        if step in state.done(part):
            continue
        print(f"-- {step}", flush=True)
        if subprocess.run(command(name, compiled, state), cwd=ROOT, check=False).returncode:
            failed.append(step)
        else:
            state.mark(part, step)
    print(f"{len(steps) - len(failed)} of {len(steps)} timed" + (f"; not {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def steps_of(part: str) -> list[tuple[str, bool]]:
    """(group, whether compiled peers take part), the long ones last. ValueError where a pattern finds no group."""
    from .. import registry

    names = [group.name for pattern in PATTERNS[part] for group in registry.select([pattern], "cuda")]
    steps = [(name, part in COMPILED) for name in dict.fromkeys(names)]
    return steps + [(name, True) for name in COMPILED_GROUPS if (name, False) in steps]


def command(group: str, compiled: bool, state: State) -> list[str]:
    options = ["--device", "cuda", "--csv", str(state.rows)] + ["--compiled"] * compiled
    return [sys.executable, "-m", "benchmarks.run", group, *options]
