"""Times groups of the registry: python -m benchmarks.run "core/swin_t-*" "model/*" --csv

A process for each thread count and allocator setting; groups in it one after another, a group's candidates in turn.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from . import allocators, base, child, exported, gate, registry, rows
from .allocators import ALLOCATORS
from .group import COMPILED, Group, dtype_name
from .measure import LEAST
from .rows import Row
from .summary import summary


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    result.add_argument("patterns", nargs="*", metavar="PATTERN", help="groups, as shell patterns; default: a few")
    result.add_argument("--list", action="store_true", help="print the groups and their candidates, and time nothing")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    result.add_argument("--threads", nargs="+", type=int, help="threads (default: 1 2; all of them for a GPU)")
    result.add_argument("--allocator", choices=allocators.CHOICES, help="glibc as is, memory kept (default: both)")
    result.add_argument("--rounds", type=int, default=15, help="samples of each candidate (default: 15)")
    result.add_argument("--compiled", action="store_true", help="every candidate under torch.compile, too")
    result.add_argument(
        "--csv",
        nargs="?",
        type=Path,
        const="",
        metavar="FILE",
        help="append rows to FILE (default: benchmarks/results/<device>.csv); after the patterns",
    )
    result.add_argument("--missing", action="store_true", help="leave out what the --csv file has of this device")
    result.add_argument("--base", metavar="REV", help="compare ours with that commit's instead; writes no rows")
    result.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where something failed."""
    args = parser().parse_args(argv)
    try:
        groups = registry.select(args.patterns or registry.DEFAULT, args.device)
    except ValueError as error:
        return fail(str(error))
    if args.rounds < LEAST:
        return fail(f"--rounds must be at least {LEAST}, got {args.rounds}")
    if args.list:
        for group in groups:
            print(f"{group.name:52} {', '.join(group.names(args.device, args.compiled))}")
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        return fail("--device cuda: PyTorch sees no GPU here")
    threads = args.threads or ([torch.get_num_threads()] if args.device == "cuda" else [1, 2])
    args.threads, args.allocator = threads, allocators.chosen(args.allocator, args.device)
    if args.csv is not None:  # a child has the root as its folder
        args.csv = rows.default_file(args.device) if args.csv == Path() else args.csv.absolute()
    if args.missing and not args.csv:
        return fail("--missing needs --csv")
    if args.child:
        settings = child.Settings(threads[0], args.allocator[0], args.rounds, args.compiled, args.device)
        child.run(groups, settings, args.child, args.csv)
        return 0
    if args.base:
        return base.compare(args.base, groups, args) if not args.csv else fail("--base writes no rows: without --csv")
    if args.csv and (red := gate.red()):
        return fail(f"no rows are written while tests fail: {', '.join(red)}")
    measured, failed = spread(groups, args)
    print(summary(measured))
    return fail("; ".join(f"{name}: {why}" for name, why in failed.items())) if failed else 0


def fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


def spread(groups: list[Group], args: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """All rows, and why a group has none."""
    measured, failed = [], {}
    kept = rows.read(args.csv) if args.missing and args.csv.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.threads:
            for allocator in args.allocator:
                out = Path(folder) / f"{threads}-{allocator}.csv"
                environment = os.environ | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": str(threads)}
                environment |= {exported.FOLDER_VARIABLE: folder, "KINETO_LOG_LEVEL": "99"}
                command = [sys.executable, "-m", "benchmarks.run", *forwarded(args, threads, allocator, out)]
                problems = children(command, environment, missing(groups, kept, args, threads, allocator), out)
                failed |= {f"{name} (T{threads}, {allocator})": why for name, why in problems.items()}
                measured += rows.read(out) if out.exists() else []
    return measured, failed


def missing(
    groups: list[Group], kept: list[Row], args: argparse.Namespace, threads: int, allocator: str
) -> list[Group]:
    """The groups of which `kept` has no rows of this device and setting, or none compiled where that is wanted."""
    if not kept:
        return groups
    device = rows.device_name(args.device)
    here = [r for r in kept if (r.device, r.threads, r.allocator) == (device, threads, allocator)]
    found = {(r.suite, r.op, r.shape, r.dtype, r.candidate.endswith(COMPILED)) for r in here}
    return [
        group for group in groups
        if (group.suite, group.op, group.shape, dtype_name(group.dtype), args.compiled) not in found
    ]  # fmt: skip


def forwarded(args: argparse.Namespace, threads: int, allocator: str, out: Path) -> list[str]:
    options = ["--child", out, "--device", args.device, "--threads", threads, "--allocator", allocator]
    options += ["--rounds", args.rounds] + ["--compiled"] * args.compiled
    return list(map(str, options + (["--csv", args.csv] if args.csv else [])))


def children(command: list[str], environment: dict, groups: list[Group], out: Path) -> dict[str, str]:
    """Run `groups` in one process, and the rest in another where one of them ends it. What failed, and why."""
    crashed: dict[str, str] = {}
    while True:
        done, failed, begun = child.progress(out)
        left = [g.name for g in groups if g.name not in done | failed.keys() | crashed.keys()]
        if not left:
            return failed | crashed
        status = subprocess.run([*command, *left], env=environment, cwd=rows.ROOT).returncode
        done, failed, now_begun = child.progress(out)
        ended_in = [name for name in now_begun[len(begun) :] if name not in done | failed.keys()]
        if not ended_in and status:  # it did not come as far as a group
            return failed | crashed | dict.fromkeys(left, f"the process ended with {_status(status)} before a group")
        crashed |= dict.fromkeys(ended_in, f"the process ended with {_status(status)}")
        for name in ended_in:
            print(f"{name}: {crashed[name]}; the others go on", file=sys.stderr, flush=True)


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


if __name__ == "__main__":
    sys.exit(main())
