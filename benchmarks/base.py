"""Ours beside the same kernels of another commit: python -m benchmarks.run PATTERN --base REV

Two libraries that define the same ops cannot live in one process. So that commit is built in a folder of its own, and
two processes, one for each, take turns: a block of calls here, a block there. Each pair of blocks gives a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import BASE_VARIABLE
from .group import Group
from .measure import CLEAN, LEAST, Samples
from .rows import ROOT


@dataclass(frozen=True)
class Comparison:
    """Ratios of the other commit's time to ours, block by block: above 1, ours is faster."""

    candidate: str
    here: Samples
    there: Samples
    ratios: Samples

    def __str__(self) -> str:
        p20, p50, p80 = (self.ratios.quantile(share) for share in (0.2, 0.5, 0.8))
        times = f"{self.here.quantile(0.5) * 1e3:9.3f} ms here {self.there.quantile(0.5) * 1e3:9.3f} ms there"
        return f"{self.candidate:18} {times}   there/here {p50:.3f} ({p20:.3f} to {p80:.3f}), {verdict(self.ratios)}"


def verdict(ratios: Samples) -> str:
    """What the middle three fifths of the ratios agree on."""
    if ratios.quantile(0.2) > 1:
        return "faster"
    return "slower" if ratios.quantile(0.8) < 1 else "no difference seen"


def compared(candidate: str, blocks: list[tuple[tuple[float, float], tuple[float, float]]]) -> Comparison:
    """From pairs of (seconds, share waited) here and there; disturbed pairs are dropped while enough are left."""
    clean = [pair for pair in blocks if max(share for _, share in pair) <= CLEAN]
    kept = clean if len(clean) >= LEAST else sorted(blocks, key=lambda p: max(s for _, s in p))[:LEAST]
    here, there = ([pair[i][0] for pair in kept] for i in (0, 1))
    dropped = len(blocks) - len(kept)
    ratios = [t / h for h, t in zip(here, there, strict=True)]
    return Comparison(candidate, *(Samples(tuple(sorted(v)), dropped) for v in (here, there, ratios)))


def compare(revision: str, groups: list[Group], args: argparse.Namespace) -> int:
    """Print a line for each group and candidate; 1 where something failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(revision, Path(folder), args.device)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
            print(f"error: {revision} could not be built: {error} {' '.join(said[-3:])}", file=sys.stderr)
            return 1
        for threads in args.threads:
            for group in groups:
                try:
                    for found in one(group, threads, args, Path(folder)):
                        print(f"{group.name:48} T{threads} {found}", flush=True)
                except RuntimeError as error:
                    failed = 1
                    print(f"error: {group.name}: {error}", file=sys.stderr)
    return failed


def build(revision: str, folder: Path, device: str) -> None:
    """That commit's package in `folder`, compiled in place; without the CUDA library where a CPU is timed."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    environment = os.environ | ({"SWIN_FAST_CUDA": "0"} if device == "cpu" else {})
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)


def one(group: Group, threads: int, args: argparse.Namespace, folder: Path) -> list[Comparison]:
    """Blocks of each of our candidates, in turn here and there."""
    roads = [Road(group, threads, args.device, base) for base in (None, folder)]
    try:
        ready = [road.ask() for road in roads]  # both have built and checked
        names = [name for name in ready[0]["ready"] if name in ready[1]["ready"]]
        blocks: dict[str, list] = {name: [] for name in names}
        for i in range(max(args.rounds, LEAST)):
            for name in names:
                order = (0, 1) if i % 2 == 0 else (1, 0)  # going first is no advantage to either
                pair = {side: tuple(roads[side].ask(name)["block"]) for side in order}
                blocks[name].append((pair[0], pair[1]))
        return [compared(name, taken) for name, taken in blocks.items()]
    finally:
        for road in roads:
            road.close()


class Road:
    """A process that times blocks of a group's candidates when asked. `base` is the folder of another package."""

    def __init__(self, group: Group, threads: int, device: str, base: Path | None):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | ({BASE_VARIABLE: str(base)} if base else {})
        command = [sys.executable, "-m", "benchmarks.base_road", group.name, str(threads), device]
        self.what = f"{group.name} {'there' if base else 'here'}"
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, name: str | None = None) -> dict:
        """The next answer; with `name`, a block of that candidate is asked for."""
        if name is not None:
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.what}: the process ended with status {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
