"""The rows that count: of each place the newest, with the better of the allocator settings, ours and peers apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .group import COMPILED, REFERENCE, is_ours
from .registry import GROUPS
from .rows import ROOT, Row, read

OWN_COMPILED = "ours compiled"


@dataclass(frozen=True)
class Place:
    """What was timed: all candidates of a place do the same work. `threads` are the CPU's."""

    suite: str
    op: str
    shape: str
    dtype: str
    threads: int

    @property
    def label(self) -> str:
        """The registry's name of the map or model, such as "swin_t-stage1", or the shape where it has none."""
        return _labels().get((self.suite, self.op, self.shape), self.shape)


@cache
def _labels() -> dict[tuple[str, str, str], str]:
    return {(g.suite, g.op, g.shape): name.split("/")[1] for name, g in reversed(GROUPS.items())}


class Timed(dict[str, Row]):
    """Candidate -> its row, at one place."""

    @property
    def own(self) -> Row | None:
        """Ours, the fastest backend, as it is called: compiled only where nothing else was timed."""
        ours = [row for name, row in self.items() if is_ours(name)]
        return _fastest([row for row in ours if not is_compiled(row)] or ours)

    def best(self, compiled: bool | None = None) -> Row | None:
        """The fastest peer; None is either kind."""
        peers = [row for name, row in self.items() if not is_ours(name)]
        return _fastest([row for row in peers if compiled in (None, is_compiled(row))])

    @property
    def threads(self) -> int:
        """Of the CPU; 0 where a GPU does the work."""
        row = next(iter(self.values()))
        return 0 if "cuda " in row.versions else row.threads

    def ratio(self, row: Row | None) -> float | None:
        """How many times as long as ours it takes."""
        return row.p50_ms / self.own.p50_ms if row and self.own else None


def _fastest(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda row: row.p50_ms, default=None)


def ceilings(found: dict[Place, Timed]) -> dict[tuple[str, int], tuple[float, float]]:
    """(dtype, threads) -> the best GFLOP/s and GB/s that any run measured; they differ a little from run to run."""
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for place, timed in found.items():
        for row in timed.values():
            flops, moved = best.get((place.dtype, place.threads), (0.0, 0.0))
            best[place.dtype, place.threads] = max(flops, row.gflops_ceiling), max(moved, row.gbytes_ceiling)
    return best


def is_slower(ratio: float) -> bool:
    """Whether ours is, in the two digits that are shown."""
    return round(ratio, 2) < 1


def largest_batch(found: dict[Place, Timed]) -> str:
    """The shapes' beginning, such as "8x", where the core of Swin-T was timed with most pictures."""
    batches = [int(p.shape.partition("x")[0]) for p in found if p.suite == "core" and p.label.startswith("swin_t-")]
    return f"{max(batches, default=0)}x"


def is_compiled(row: Row) -> bool:
    return row.candidate.endswith(COMPILED)


def columns(timed: Timed, value: Callable[[Row], float], merged: bool = True) -> dict[str, float]:
    """The least `value` of each kind of candidate beside ours.

    Variants of a library count as one, and "plain" is our plain PyTorch. `merged`: all compiled peers are one kind.
    """
    found: dict[str, float] = {}
    for name, row in timed.items():
        if row == timed.own or (is_ours(name) and not is_compiled(row)):
            continue
        kind = name.replace(" fused_attn", "").replace(" on windows", "").replace(REFERENCE, "plain")
        if is_compiled(row) and (merged or is_ours(name)):
            kind = OWN_COMPILED if is_ours(name) else "compiled peer"
        if (number := value(row)) > 0:  # nan is unknown
            found[kind] = min(found.get(kind, math.inf), number)
    return found


def newest(rows: Iterable[Row]) -> dict[Place, Timed]:
    """The last row of each place, candidate and allocator, and of these the faster allocator.

    A candidate's rows of another commit than its last one do not count: an old setting must not stand in for a new one.
    """
    last: dict[tuple[Place, str], dict[str, Row]] = {}
    for row in rows:
        place = Place(row.suite, row.op, row.shape, row.dtype, row.threads)
        kept = last.setdefault((place, row.candidate), {})
        if any(other.commit != row.commit for other in kept.values()):
            kept.clear()
        kept[row.allocator] = row
    found: dict[Place, Timed] = {}
    for (place, candidate), kept in last.items():
        found.setdefault(place, Timed())[candidate] = _fastest(list(kept.values()))
    return found


def results(folder: Path = ROOT / "benchmarks" / "results") -> dict[str, list[Row]]:
    """Device -> all its rows, in the order in which they were measured."""
    found: dict[str, list[Row]] = {}
    for file in sorted(folder.glob("*.csv")):
        for row in read(file):
            found.setdefault(row.device, []).append(row)
    return found
