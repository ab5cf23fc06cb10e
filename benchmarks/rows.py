"""One measured figure with all that is needed to read it later, kept as a line of CSV."""

from __future__ import annotations

import csv
import datetime
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import Field, astuple, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

import swin_fast
from swin_fast import native

from .measure import Samples

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """Times are milliseconds per call. `over_floor` is p50 over the floor, `waited` covers samples and ceilings.

    `suite` is "core", "layer", "block", "model", "training", "accelerate" or "scaling". `peak_extra_mib` is the most
    memory alive during one call beyond inputs and parameters, results included; nan, an empty cell, where unknown.
    `versions` are the candidate's own library and interpreter.
    """

    suite: str
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
    peak_extra_mib: float
    floor_ms: float
    over_floor: float
    gflops_ceiling: float
    gbytes_ceiling: float
    device: str
    torch: str
    versions: str
    swin_fast: str
    commit: str
    date: str


_MAY_BE_EMPTY = ("peak_extra_mib", "versions")


def make(
    suite: str,
    op: str,
    shape: str,
    dtype: torch.dtype,
    threads: int,
    allocator: str,
    candidate: str,
    samples: Samples,
    floor_s: float,
    ceilings,
    *,
    peak_extra: float = math.nan,
    libraries: Iterable[str] = (),
    device: str = "cpu",
) -> Row:
    """The row of a candidate; `peak_extra` in bytes, `libraries` are the distributions whose versions it depends on."""
    waited = max(samples.waited, ceilings.waited)
    p20, p50, p80 = (round(samples.quantile(share) * 1e3, 4) for share in (0.2, 0.5, 0.8))
    floor = floor_s * 1e3
    return Row(
        suite, op, shape, str(dtype).removeprefix("torch."), threads, allocator, candidate, p20, p50, p80,
        round(samples.best * 1e3, 4), len(samples.seconds), samples.dropped, round(waited, 3),
        round(peak_extra / 2**20, 2), round(floor, 4), round(p50 / floor, 2), round(ceilings.flops / 1e9, 2),
        round(ceilings.bandwidth / 1e9, 2), device_name(device), torch.__version__, versions(libraries, device),
        swin_fast.__version__, commit(), datetime.date.today().isoformat(),
    )  # fmt: skip


def versions(libraries: Iterable[str] = (), device: str = "cpu") -> str:
    """As in "timm 1.0.31; python 3.11.7"; a library that is not installed as a distribution has no version."""
    named = [*libraries] + ["triton"] * (device == "cuda")
    found = [f"{name} {_version(name)}" for name in named] + [f"python {platform.python_version()}"]
    return "; ".join(found + [f"cuda {torch.version.cuda}"] * (device == "cuda"))


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def device_name(device: str = "cpu") -> str:
    """The GPU's own name, or the processor's, its cores and which of our kernels it runs."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = found[1].strip()
    return f"{model}, {os.cpu_count()} cores, {native.cpu_capability()}"


@cache
def commit() -> str:
    """The checked-out commit, "+dirty" where files differ from it; outside a checkout that of SWIN_FAST_COMMIT."""
    try:
        found = _git("rev-parse", "--short", "HEAD")
        return found + (
            "+dirty"
            if _git("status", "--porcelain", "--", "swin_fast", "csrc", "benchmarks", ":!benchmarks/results")
            else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SWIN_FAST_COMMIT", "unknown")


def _git(*args: str) -> str:
    result = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def default_file(device: str = "cpu") -> Path:
    """The file of this device among the kept results."""
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{name}.csv"


def append(file: Path, rows: Iterable[Row]) -> None:
    """Add `rows` to `file`, which gets a heading when it is new; ValueError where it has another heading."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [f.name for f in fields(Row)]
    new = not file.exists() or not file.stat().st_size
    if not new:
        _check_heading(file, columns)
    with file.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerows(["" if value != value else value for value in astuple(row)] for row in rows)


def read(file: Path) -> list[Row]:
    columns = [f.name for f in fields(Row)]
    _check_heading(file, columns)
    with file.open(newline="", encoding="utf-8") as handle:
        return [Row(*(_value(f, line[f.name]) for f in fields(Row))) for line in csv.DictReader(handle)]


def _value(field: Field, text: str) -> int | float | str:
    if not text and field.name not in _MAY_BE_EMPTY:
        raise ValueError(f"{field.name} must not be empty")
    if field.type == "float":
        return float(text) if text else math.nan
    return int(text) if field.type == "int" else text


def _check_heading(file: Path, columns: list[str]) -> None:
    with file.open(newline="", encoding="utf-8") as handle:
        found = next(csv.reader(handle), [])
    if found != columns:
        raise ValueError(f"{file} must have the columns {', '.join(columns)}; it has {', '.join(found)}")
