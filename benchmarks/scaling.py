"""Time and memory against resolution and against batch, until memory ends: python -m benchmarks.scaling

The attention core at stage 1 of Swin-T and a whole Swin-T, ours and peers: pictures of 224 to 2048 pixels a side one at
a time, and 1, 2, 4, ... of 224. Each point is a process of its own that may take --memory-gib beyond torch and its
libraries, so a candidate that runs out ends its own curve (a row of infinite time), and the others go on. On a CPU all
is taken once for each of the `allocators`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from swin_fast import native
from swin_fast.cli.measure import peak_bytes, seconds

from . import allocators, ceilings, roads, rows
from .measure import SAMPLE_S, Samples, keep, waiting
from .peers import OURS
from .roads import CANDIDATES, Point
from .rows import Row

BASE = 224  # pixels a side where the batch grows, and the first resolution
SIDES = (224, 448, 672, 896, 1344, 1792, 2048)
SMALLEST = {"core": 2 * roads.WINDOW * roads.PATCH, "model": BASE}  # a smaller map has smaller windows
BATCHES = {"core": 1024, "model": 64}  # the largest
QUICK = {"sides": (224, 448), "core": 4, "model": 2}
LEAST, MOST, BUDGET_S = 3, 15, 2.0  # samples of a point, and seconds after which LEAST are enough


def plan(parts: Sequence[str], sides: Sequence[int], most: dict[str, int], dtype: str, train: bool) -> list[Point]:
    """Small points first, so that what there is when the time is up is a curve of every candidate."""
    base = min(sides)
    sizes = {part: [(1, side) for side in sides] for part in parts}
    for part, taken in sizes.items():
        taken += [(2**i, base) for i in range(1, most[part].bit_length())]
    points = [Point(p, name, b, s, dtype, train) for p in parts for b, s in sizes[p] for name in CANDIDATES[p]]
    return sorted(points, key=lambda point: (point.tokens, point.batch))


def sample(call: Callable[[], object], device: torch.device, budget_s: float = BUDGET_S) -> Samples:
    """Times of `call`, which has run before; fewer of a long one."""
    repeat = max(1, math.ceil(SAMPLE_S / seconds(call, device)))

    def many() -> None:
        for _ in range(repeat):
            call()

    blocks, start = [], time.perf_counter()
    while len(blocks) < LEAST or (len(blocks) < MOST and time.perf_counter() - start < budget_s):
        before = waiting()
        took = seconds(many, device)
        blocks.append(((waiting() - before) / took, took / repeat))
    return keep(blocks)


def measure(point: Point, device: torch.device, memory_gib: float, checked: bool, budget_s: float = BUDGET_S) -> dict:
    """What the child of one point reports: samples, peak and difference from ours, or that memory was not enough."""
    if checked:
        roads.check(point, device)
    warm = replace(point, batch=1, side=SMALLEST[point.part])
    peak_bytes(roads.road(warm, device), device)  # code and thread pools that the first call loads
    _limit(memory_gib, device)
    try:
        call = roads.road(point, device)
        peak = peak_bytes(call, device)
        samples = sample(call, device, budget_s)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        return {"memory": str(error).partition("\n")[0]}
    found = {"samples": asdict(samples), "peak": peak, "apart": None}
    if point.candidate != OURS:
        try:
            found["apart"] = roads.apart(point, call, device)
        except (MemoryError, RuntimeError) as error:
            if not _of_memory(error):
                raise
    return found


def _limit(gib: float, device: torch.device) -> None:
    if device.type == "cuda":
        share = gib * 2**30 / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
        return
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), resource.RLIM_INFINITY))


def _of_memory(error: Exception) -> bool:
    """PyTorch's CPU allocator raises RuntimeError, oneDNN and our kernels, too, which name what they could not have."""
    words = ("allocate", "memory", "bad_alloc", "could not create a primitive", "aten::new_empty")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def ask(point: Point, args: argparse.Namespace, checked: bool, allocator: str = "default") -> dict:
    """`measure` in a child. A child that a signal ended while its memory was limited has run out of it, too."""
    asked = json.dumps({"point": asdict(point), "memory_gib": args.memory_gib, "checked": checked})
    command = [sys.executable, "-m", "benchmarks.scaling", "--device", args.device, "--threads", str(args.threads)]
    environment = os.environ | allocators.ALLOCATORS[allocator]
    environment |= {"OMP_NUM_THREADS": str(args.threads), "KINETO_LOG_LEVEL": "99"}
    child = subprocess.run([*command, "--child", asked], env=environment, capture_output=True, text=True)
    if child.returncode < 0:
        return {"memory": f"ended by {signal.Signals(-child.returncode).name}"}
    if child.returncode:
        return {"error": (child.stderr.strip().splitlines() or ["no message"])[-1].strip()}
    return json.loads(child.stdout.splitlines()[-1])


def run(args: argparse.Namespace) -> Iterator[Row | str]:
    """Rows as they are measured, and remarks; ends after `args.max_seconds`, of which each allocator has its share."""
    for allocator in args.allocator:
        yield from _curves(args, allocator, args.max_seconds / len(args.allocator))


def _curves(args: argparse.Namespace, allocator: str, max_seconds: float) -> Iterator[Row | str]:
    start, dtype = time.perf_counter(), getattr(torch, args.dtype)
    most = {part: getattr(args, f"most_{part}") for part in CANDIDATES}
    points = plan(args.part, args.side, most, args.dtype, args.train)
    machine = ceilings.meter(dtype, args.device)
    smallest = min(point.tokens for point in points)
    ended: set[tuple] = set()
    took: dict[tuple, float] = {}  # seconds a token, of the whole child, at its last point
    for point in points:
        curve = point.op, point.candidate, point.batch == 1
        name = f"{point.op}, {point.candidate}, {allocator}"
        if curve in ended:
            continue
        left = max_seconds - (time.perf_counter() - start)
        if took.get(curve[:2], 0.0) * point.tokens > left or left <= 0:
            ended.add(curve)
            yield f"{name}: no time for {point.shape} and larger"
            continue
        began = time.perf_counter()
        found = ask(point, args, point.tokens == smallest, allocator)
        took[curve[:2]] = (time.perf_counter() - began) / point.tokens
        if "error" in found:
            ended.add(curve)
            yield f"wrong: {name}, {point.shape}: {found['error']}"
            continue
        if "memory" in found:
            ended.add(curve)
            yield f"{name}: {args.memory_gib:g} GiB end at {point.shape}: {found['memory']}"
        yield _row(point, found, args, allocator, machine.read())


def _row(point: Point, found: dict, args: argparse.Namespace, allocator: str, best: ceilings.Ceilings) -> Row:
    libraries = [point.candidate] if point.candidate in ("timm", "torchvision") else []
    samples = Samples(**found["samples"]) if "samples" in found else Samples((0.0,))
    row = rows.make(
        "scaling", point.op, point.shape, getattr(torch, point.dtype), args.threads, allocator, point.candidate,
        samples, point.floor(best), best, peak_extra=found.get("peak", math.nan), libraries=libraries,
        device=args.device,
    )  # fmt: skip
    if "samples" in found:
        return row
    times = dict.fromkeys(("p20_ms", "p50_ms", "p80_ms", "best_ms", "over_floor"), math.inf)
    limit = f"{row.versions}; out of {args.memory_gib:g} GiB"
    return replace(row, **times, samples=0, versions=limit)


def linear(measured: Sequence[Row]) -> list[str]:
    """Microseconds a token over sizes, one line a curve, and how far the worst is from the curve's median."""
    lines = []
    curves: dict[tuple[str, str, str], list[tuple[int, float, str]]] = {}
    for row in measured:
        if math.isfinite(row.p50_ms):
            curves.setdefault((row.op, row.candidate, row.allocator), []).append(
                (tokens(row.shape), row.p50_ms, row.shape)
            )
    for (op, name, allocator), points in curves.items():
        each = [(1e3 * ms / count, shape) for count, ms, shape in sorted(points)]
        middle = sorted(us for us, _ in each)[len(each) // 2]
        far, where = max((abs(us / middle - 1), shape) for us, shape in each)
        curve = f"{op}, {name}, {allocator}: "
        lines.append(curve + ", ".join(f"{shape} {us:.3f}" for us, shape in each) + " us a token")
        lines.append(f"{curve}largest deviation from the median {far:.0%}, at {where}")
    return lines


def tokens(shape: str) -> int:
    """Of the map after the patch embedding, from a row's shape: BxHxWxC, or Bx3xHxW of a picture."""
    batch, *sides = map(int, shape.split("x"))
    if sides[0] == 3:
        return batch * (sides[1] // roads.PATCH) * (sides[2] // roads.PATCH)
    return batch * sides[0] * sides[1]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--part", nargs="+", choices=tuple(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--side", nargs="+", type=int, help=f"pixels a side (default: {SIDES}); the first for batches")
    for part, most in BATCHES.items():
        parser.add_argument(f"--most-{part}", type=int, help=f"largest batch of the {part} (default: {most})")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--allocator", choices=allocators.CHOICES, help="glibc as is, memory kept (default: both)")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="what a point may take (default: 8)")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="of the whole run (default: 600)")
    parser.add_argument("--quick", action="store_true", help="the smallest points alone")
    parser.add_argument(
        "--csv", nargs="?", type=Path, const=True, help="append the rows to FILE (default: the device's)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.child:
        asked = json.loads(args.child)
        point = Point(**asked["point"])
        print(json.dumps(measure(point, torch.device(args.device), asked["memory_gib"], asked["checked"])))
        return 0
    if not native.loaded:
        print(f"nothing to time: {native.reason}", file=sys.stderr)
        return 1
    args.side = args.side or list(QUICK["sides"] if args.quick else SIDES)
    least = max(SMALLEST[part] for part in args.part)
    if min(args.side) < least:
        parser.error(f"--side must be at least {least}, got {min(args.side)}")
    for part, most in BATCHES.items():
        if getattr(args, f"most_{part}") is None:
            setattr(args, f"most_{part}", QUICK[part] if args.quick else most)
    args.allocator = allocators.chosen(args.allocator, args.device)
    file = rows.default_file(args.device) if args.csv is True else args.csv
    measured, wrong = [], []
    for found in run(args):
        if isinstance(found, str):
            wrong += [found] * found.startswith("wrong")
            print(found, flush=True)
            continue
        if file:
            rows.append(file, [found])
        measured.append(found)
        place = f"{found.op:26} {found.shape:16} {found.allocator:7} {found.candidate:12}"
        print(f"{place} {found.p50_ms:11.3f} ms {found.peak_extra_mib:9.1f} MiB", flush=True)
    print("\n".join(["", *linear(measured)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
