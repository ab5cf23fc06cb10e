"""Figures of the kept rows, as SVG and PNG for the README: python -m benchmarks.plot

This file picks the numbers, `charts` draws them. A digest of the numbers is in each file, so that a test can tell
whether a figure is older than the rows. A figure whose rows are missing is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from . import charts
from .group import is_ours
from .peers import OURS
from .places import OWN_COMPILED, Place, Timed, ceilings, columns, largest_batch, newest, results
from .rows import ROOT, Row
from .suites.core import CASES

FOLDER = ROOT / "benchmarks" / "figures"
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
PATCH = 4


@dataclass(frozen=True)
class Figure:
    """`data(places, rows)` is what `draw` gets, in numbers and words; empty where rows are missing."""

    name: str
    alt: str
    data: Callable[[dict[Place, Timed], list[Row]], list | dict]
    draw: Callable


def _most_threads(found: dict[Place, Timed], *suites: str) -> dict[Place, Timed]:
    chosen = {p: t for p, t in found.items() if p.suite in suites and t.own}
    most = max((p.threads for p in chosen), default=0)
    return {p: t for p, t in chosen.items() if p.threads == most}


def _on(timed: Timed) -> str:
    return f", {timed.threads} thread{'s' * (timed.threads > 1)}" if timed.threads else ""


def core_speedup(found: dict[Place, Timed], rows: list[Row]) -> list[dict]:
    """A panel a dtype and direction: how many times as long as ours each peer takes at each stage of Swin-T."""
    panels = {}
    batch = largest_batch(found)
    for place, timed in _most_threads(found, "core").items():
        if not place.label.startswith("swin_t-") or not place.shape.startswith(batch):
            continue
        title = f"{place.op.removeprefix('attention ')}, {place.dtype}{_on(timed)}"
        panel = panels.setdefault(title, {"title": title, "places": [], "bars": {}})
        stage = place.label.partition("-")[2].replace("stage", "stage ")
        panel["places"].append(f"{stage}\n{place.shape.partition('x')[2]}")
        for name, ratio in columns(timed, timed.ratio, merged=False).items():
            panel["bars"].setdefault(name, {})[panel["places"][-1]] = round(ratio, 3)
    return list(panels.values())


def model_speedup(found: dict[Place, Timed], rows: list[Row]) -> list[dict]:
    """A panel a dtype: the same for whole models and training steps against each library."""
    panels = {}
    chosen = _most_threads(found, "model", "training").items()
    for place, timed in sorted(chosen, key=lambda item: _swin_t_first(item[0])):
        title = f"{place.dtype}{_on(timed)}"
        panel = panels.setdefault(title, {"title": title, "places": [], "bars": {}})
        model, kind = place.op.split()[:2]
        name = f"{model}\n{'training, ' * (kind == 'training')}B {place.shape.partition('x')[0]}"
        panel["places"].append(name)
        for column, ratio in columns(timed, timed.ratio).items():
            panel["bars"].setdefault(column, {})[name] = round(ratio, 3)
    return list(panels.values())


def _swin_t_first(place: Place) -> tuple:
    model, kind = place.op.split()[:2]
    return kind == "training", model != "swin_t", model, int(place.shape.partition("x")[0])


def roofline(found: dict[Place, Timed], rows: list[Row]) -> dict:
    """Operations a byte of the attention forward, and the rate that ours and the best peer reach."""
    chosen = {p: t for p, t in _most_threads(found, "core").items() if p.op == "attention forward" and p.label in CASES}
    points = []
    lines = {}
    for place, timed in chosen.items():
        case = CASES[place.label]
        sizes = list(map(int, place.shape.split("x")))
        operations, window = 4 * prod(sizes) * prod(case.window_size), "x".join(map(str, case.window_size))
        for kind, row in ((OURS, timed.own), ("best peer", timed.best())):
            if row:
                rate = operations / row.p50_ms / 1e6
                points.append(
                    [kind, place.dtype, window, prod(case.window_size) / ITEMSIZE[place.dtype], round(rate, 2)]
                )
        lines[place.dtype] = ceilings(found)[place.dtype, place.threads]
    return {"points": points, "ceilings": lines, "title": f"attention forward{_on(timed)}"} if points else {}


def memory_places(found: dict[Place, Timed]) -> dict[Place, Timed]:
    """The float32 places, one of a kind, whose peak memory is shown: with ours and at least one peer known."""
    wanted = (
        "attention forward",
        "attention forward+backward",
        "block forward+backward",
        "swin_t inference",
        "swin_t training",
    )
    chosen = {}
    for op in wanted:
        known = {
            p: t for p, t in found.items()
            if p.op.startswith(op) and "," not in p.op and (op != wanted[0] or p.op == op) and p.suite != "scaling"
            and p.dtype == "float32" and t.own and t.own.peak_extra_mib > 0
            and any(not is_ours(name) and row.peak_extra_mib > 0 for name, row in t.items())
        }  # fmt: skip
        if known:
            swin_t = {p: t for p, t in known.items() if "swin_t" in f"{p.label} {p.op}"} or known
            place = max(swin_t, key=lambda p: (prod(map(int, p.shape.split("x"))), p.threads))
            chosen[place] = found[place]
    return chosen


def memory_bars(found: dict[Place, Timed]) -> dict[Place, dict[str, float]]:
    """MiB of ours and of each kind of peer."""
    bars = {}
    for place, timed in memory_places(found).items():
        peers = columns(timed, lambda row: row.peak_extra_mib, merged=place.suite != "core")
        bars[place] = {OURS: timed.own.peak_extra_mib} | {n: mib for n, mib in peers.items() if n != OWN_COMPILED}
    return bars


def memory(found: dict[Place, Timed], rows: list[Row]) -> list[dict]:
    return [
        {"title": f"{place.op}\n{place.shape}, {place.dtype}", "bars": bars}
        for place, bars in memory_bars(found).items()
    ]


def scaling(op: str) -> Callable[[dict[Place, Timed], list[Row]], dict]:
    """Microseconds a token and peak MiB of `op` against resolution (batch 1) and batch (the smallest picture)."""

    def data(found: dict[Place, Timed], rows: list[Row]) -> dict:
        taken = {p: t for p, t in found.items() if p.suite == "scaling" and p.op == op}
        if not taken:
            return {}
        dtype, threads = max((p.dtype, p.threads) for p in taken)
        points, limits = [], set()
        for place, timed in taken.items():
            if (place.dtype, place.threads) != (dtype, threads):
                continue
            batch, side, tokens = _sizes(place.shape)
            for name, row in timed.items():
                ended = math.isinf(row.p50_ms)
                limits |= {row.versions.partition("out of ")[2]} if ended else set()
                each = None if ended else round(1e3 * row.p50_ms / tokens, 5)
                mib = None if ended or row.peak_extra_mib != row.peak_extra_mib else row.peak_extra_mib
                points.append([name, batch, side, each, mib])
        base = min(side for _, _, side, _, _ in points)
        curves = {
            "pixels a side, batch 1": sorted([n, s, e, m] for n, b, s, e, m in points if b == 1),
            f"batch, {base} x {base} pixels": sorted([n, b, e, m] for n, b, s, e, m in points if s == base),
        }
        end = " or ".join(sorted(limits)) or "memory"
        return {"title": f"{op}, {dtype}{_on(timed)}", "curves": curves, "end": f"{end} ends after"}

    return data


def _sizes(shape: str) -> tuple[int, int, int]:
    """Batch, pixels a side and tokens, from BxHxWxC of a map or Bx3xHxW of a picture."""
    batch, *rest = map(int, shape.split("x"))
    side = rest[1] if rest[0] == 3 else PATCH * rest[0]
    return batch, side, batch * (side // PATCH) ** 2


FIGURES = [
    Figure("core", "attention core, time over ours", core_speedup, charts.speedup),
    Figure("models", "whole models, time over ours", model_speedup, charts.speedup),
    Figure("roofline", "roofline of the attention forward", roofline, charts.roofline),
    Figure("memory", "peak memory", memory, charts.memory),
    *(
        Figure(f"scaling-{name}", f"scaling: {op}", scaling(op), charts.scaling)
        for name, op in {
            "core": "attention forward", "core-backward": "attention forward+backward",
            "model": "swin_t inference", "model-training": "swin_t training",
        }.items()
    ),
]  # fmt: skip


def slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def drawn(rows: list[Row]) -> dict[str, tuple[Figure, list | dict]]:
    """Stem of the file -> figure and its numbers, of those that the rows of one device are enough for."""
    found, device = newest(rows), rows[-1].device
    data = {figure: figure.data(found, rows) for figure in FIGURES}
    return {f"{slug(device)}-{figure.name}": (figure, numbers) for figure, numbers in data.items() if numbers}


def digest(numbers: list | dict) -> str:
    return "rows " + hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, help="folder of the rows (default: benchmarks/results)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the figures (default: benchmarks/figures)")
    args = parser.parse_args(argv)
    devices = results(args.results) if args.results else results()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = set()
    for device, rows in devices.items():
        found = drawn(rows)
        for stem, (figure, numbers) in found.items():
            with charts.style():
                charts.save(figure.draw(numbers), args.out / stem, digest(numbers), device)
            kept |= {f"{stem}.svg", f"{stem}.png"}
            print(f"drawn: {args.out / stem}.svg and .png")
        for figure in FIGURES:
            if f"{slug(device)}-{figure.name}" not in found:
                print(f"left out, for want of rows: {figure.name} of {device}")
    for file in args.out.iterdir():
        if file.suffix in (".svg", ".png") and file.name not in kept:
            file.unlink()
            print(f"removed, it has no rows any more: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
