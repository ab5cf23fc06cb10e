"""One measured figure with all that is needed to read it later, kept as a line of CSV."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import torch

import swin_fast
from swin_fast import native

from .measure import Samples

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """Times are milliseconds per call. `over_floor` is p50 over the floor, `waited` covers samples and ceilings."""

    op: str
    shape: str
    dtype: str
    threads: int
    allocator: str
    candidate: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    best_ms: float
    samples: int
    dropped: int
    waited: float
    floor_ms: float
    over_floor: float
    gflops_ceiling: float
    gbytes_ceiling: float
    device: str
    torch: str
    swin_fast: str
    commit: str
    date: str


def make(
    op, shape, dtype: torch.dtype, threads, allocator, candidate, samples: Samples, floor_s: float, ceilings
) -> Row:
    waited = max(samples.waited, ceilings.waited)
    p20, p50, p80 = (round(samples.quantile(share) * 1e3, 4) for share in (0.2, 0.5, 0.8))
    floor = round(floor_s * 1e3, 4)
    return Row(
        op, shape, str(dtype).removeprefix("torch."), threads, allocator, candidate, p20, p50, p80,
        round(samples.best * 1e3, 4), len(samples.seconds), samples.dropped, round(waited, 3), floor,
        round(p50 / floor, 2), round(ceilings.flops / 1e9, 1), round(ceilings.bandwidth / 1e9, 1), device_name(),
        torch.__version__, swin_fast.__version__, commit(), datetime.date.today().isoformat(),
    )  # fmt: skip


@cache
def device_name() -> str:
    """The processor's own name, its cores and which of our kernels it runs."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = found[1].strip()
    return f"{model}, {os.cpu_count()} cores, {native.cpu_capability()}"


@cache
def commit() -> str:
    """The checked-out commit, "+dirty" where files differ from it; "unknown" outside a checkout."""
    try:
        found = _git("rev-parse", "--short", "HEAD")
        return found + (
            "+dirty"
            if _git("status", "--porcelain", "--", "swin_fast", "csrc", "benchmarks", ":!benchmarks/results")
            else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*args: str) -> str:
    result = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def default_file() -> Path:
    """The file of this device among the kept results."""
    name = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{name}.csv"


def append(file: Path, rows: Iterable[Row]) -> None:
    """Add `rows` to `file`, which gets a heading when it is new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(file: Path) -> list[Row]:
    kinds = {"int": int, "float": float, "str": str}
    with file.open(newline="", encoding="utf-8") as handle:
        return [Row(**{f.name: kinds[f.type](line[f.name]) for f in fields(Row)}) for line in csv.DictReader(handle)]
