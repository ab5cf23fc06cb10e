"""Runs a benchmark once per thread count and allocator setting, each in a process of its own, and compares the rows.

glibc gives large blocks back to the system when they are freed and has them zeroed again in the next call, which costs
code that allocates much (the peers) dearly. So everything is timed with glibc as it is and with its memory kept, and a
peer is credited with the better of the two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import torch

from . import rows
from .measure import CLEAN
from .peers import OURS
from .rows import Row

ALLOCATORS = {"default": {}, "retain": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="samples of each candidate (default: 15)")
    parser.add_argument("--allocator", choices=(*ALLOCATORS, "both"), default="both", help="glibc as is, memory kept")
    default = rows.default_file()
    parser.add_argument(
        "--csv", nargs="?", type=Path, const=default, metavar="FILE",
        help=f"append the rows to FILE (default: {default.relative_to(rows.ROOT)})",
    )  # fmt: skip
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)


def run(module: str, parser: argparse.ArgumentParser, argv: Sequence[str], body: Callable[..., Iterable[Row]]) -> None:
    """`body(args)` yields the rows of one thread count and one allocator setting."""
    args = parser.parse_args(argv)
    if args.child is None:
        print(summary(_spread(module, list(argv), args)))
        return
    torch.set_num_threads(args.threads[0])
    for row in body(args):
        rows.append(args.child, [row])
        kept = f"{row.samples} samples, {row.dropped} dropped{_busy([row])}"
        times = f"{row.p20_ms:9.3f} {row.p50_ms:9.3f} {row.p80_ms:9.3f} ms  {row.over_floor:6.2f}x floor"
        place = f"{row.op:26} {row.shape:12} {row.dtype:8} T{row.threads} {row.allocator:7}"
        print(f"{place} {row.candidate:26} {times}  {kept}", flush=True)


def _spread(module: str, argv: list[str], args: argparse.Namespace) -> list[Row]:
    collected = []
    for threads in args.threads:
        for allocator in ALLOCATORS if args.allocator == "both" else [args.allocator]:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "rows.csv"
                command = [sys.executable, "-m", module, *argv, "--threads", str(threads), "--allocator", allocator]
                environment = os.environ | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": str(threads)}
                if status := subprocess.run([*command, "--child", str(file)], env=environment).returncode:
                    sys.exit(status)  # the child has said why
                measured = rows.read(file)
            if args.csv:
                rows.append(args.csv, measured)
            collected += measured
    return collected


def summary(collected: list[Row]) -> str:
    """Ours as the allocator is, the best peer of each kind with its better allocator, and peer over ours."""
    head = ["op", "shape", "dtype", "T", "ours ms", "kept", "best peer", "ms", "ratio", "by min"]
    head += ["best compiled peer", "ms", "ratio", "by min", "floor ms", "over"]
    lines = [head]

    def place(row: Row):
        return row.op, row.shape, row.dtype, row.threads

    order = list(dict.fromkeys(place(row) for row in collected))
    for key, group in groupby(sorted(collected, key=lambda row: order.index(place(row))), place):
        group = list(group)
        ours = {row.allocator: row for row in group if row.candidate == OURS}
        own = ours.get("default") or next(iter(ours.values()))
        line = [*map(str, key), f"{own.p50_ms:.3f}", f"{ours['retain'].p50_ms:.3f}" if "retain" in ours else "-"]
        peers, shown = [row for row in group if row.candidate != OURS], [own]
        for compiled in (False, True):
            kind = [row for row in peers if row.candidate.endswith("compiled") == compiled]
            if not kind:
                line += ["-"] * 4
                continue
            peer, least = min(kind, key=lambda row: row.p50_ms), min(row.best_ms for row in kind)
            shown.append(peer)
            ratios = peer.p50_ms / own.p50_ms, least / own.best_ms
            line += [
                f"{peer.candidate} ({peer.allocator})",
                f"{peer.p50_ms:.3f}",
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
        lines.append([*line, f"{own.floor_ms:.3f}", f"{own.over_floor:.2f}{_busy(shown)}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(["", *text])


def _busy(shown: list[Row]) -> str:
    """A remark where others had too much of the machine."""
    waited = max(row.waited for row in shown)
    return f" (busy: up to {waited:.0%} lost)" if waited > CLEAN else ""
