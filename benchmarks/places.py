"""The rows that count: of each place and candidate the newest, with the allocator setting that is best for it.

A peer is held against ours of the same process, which was timed in turn with it: a shared machine may be half as fast
in the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
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


Run = dict[str, Row]  # candidate -> its row, of one group in one process


class Timed(Run):
    """Candidate -> its row, at one place.

    `runs` has the whole run that a candidate's row is of, `allocators` the settings in which it has a row that counts.
    """

    def __init__(self, runs: dict[str, Run], allocators: dict[str, set[str]]):
        super().__init__({name: run[name] for name, run in runs.items()})
        self.runs, self.allocators = runs, allocators

    @property
    def own(self) -> Row | None:
        """Ours, the fastest backend, as it is called: compiled only where nothing else was timed."""
        return own(self) or own(self, compiled=True)

    def best(self, compiled: bool | None = None) -> Row | None:
        """The peer that comes closest to ours; None is either kind."""
        peers = [row for name, row in self.items() if not is_ours(name) and compiled in (None, is_compiled(row))]
        return min(peers, key=lambda row: self.ratio(row) or row.p50_ms, default=None)

    @property
    def threads(self) -> int:
        """Of the CPU; 0 where a GPU does the work."""
        row = next(iter(self.values()))
        return 0 if "cuda " in row.versions else row.threads

    def against(self, row: Row) -> Row | None:
        """Ours with which `row` is compared."""
        return held_against(self.runs[row.candidate], row) or self.own

    def ratio(self, row: Row | None) -> float | None:
        """How many times as long as ours a candidate takes."""
        ours = row and self.against(row)
        return row.p50_ms / ours.p50_ms if ours else None


def own(run: Run, compiled: bool = False) -> Row | None:
    """The fastest of ours."""
    ours = [row for name, row in run.items() if is_ours(name) and is_compiled(row) == compiled]
    return min(ours, key=lambda row: row.p50_ms, default=None)


def ceilings(found: dict[Place, Timed]) -> dict[tuple[str, int], tuple[float, float]]:
    """(dtype, threads) -> the best GFLOP/s and GB/s that any run measured; they differ a little from run to run."""
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for place, timed in found.items():
        for row in timed.values():
            flops, moved = best.get((place.dtype, place.threads), (0.0, 0.0))
            best[place.dtype, place.threads] = max(flops, row.gflops_ceiling), max(moved, row.gbytes_ceiling)
    return best


def on_gpu(found: dict[Place, Timed]) -> bool:
    return not any(timed.threads for timed in found.values())


def is_slower(ratio: float) -> bool:
    """Whether ours is, in the two digits that are shown."""
    return round(ratio, 2) < 1


def largest_batch(found: dict[Place, Timed]) -> str:
    """The shapes' beginning, such as "8x", where the core of Swin-T was timed with most pictures."""
    batches = [int(p.shape.partition("x")[0]) for p in found if p.suite == "core" and p.label.startswith("swin_t-")]
    return f"{max(batches, default=0)}x"


def held_against(run: Run, row: Row) -> Row | None:
    """Ours of the same run: compiled for a compiled peer, if there is one."""
    compiled = is_compiled(row) and not is_ours(row.candidate)
    return (compiled and own(run, compiled=True)) or own(run)


def comparisons(place: Place, timed: Timed) -> list[tuple[str, float]]:
    """(peer, how many times as long as ours it takes)."""
    if place.suite == "scaling" or not timed.own:
        return []
    return [(name, timed.ratio(row)) for name, row in timed.items() if not is_ours(name)]


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


def runs(rows: Iterable[Row]) -> Iterator[tuple[Place, Run]]:
    """The rows that follow each other and are of one group in one process."""
    key, run = None, {}
    for row in rows:
        place = Place(row.suite, row.op, row.shape, row.dtype, row.threads)
        now = place, row.allocator, row.commit, row.date
        if now != key or row.candidate in run:
            if run:
                yield key[0], run
            key, run = now, {}
        run[row.candidate] = row
    if run:
        yield key[0], run


def newest(rows: Iterable[Row]) -> dict[Place, Timed]:
    """The last row of each place, candidate and allocator, and of these the better allocator.

    That is the faster one for ours, and for a peer the one in which it comes closest to ours. A candidate's rows of
    another commit than its last one do not count: an old setting must not stand in for a new one.
    """
    last: dict[Place, dict[str, dict[str, Run]]] = {}
    for place, run in runs(rows):
        for name, row in run.items():
            kept = last.setdefault(place, {}).setdefault(name, {})
            if any(other[name].commit != row.commit for other in kept.values()):
                kept.clear()
            kept[row.allocator] = run

    def distance(name: str, run: Run) -> tuple:
        ours = None if is_ours(name) else held_against(run, run[name])
        return ours is None, run[name].p50_ms / (ours.p50_ms if ours else 1)

    return {
        place: Timed(
            {n: min(kept.values(), key=partial(distance, n)) for n, kept in by_name.items()},
            {n: set(kept) for n, kept in by_name.items()},
        )
        for place, by_name in last.items()
    }


def results(folder: Path = ROOT / "benchmarks" / "results") -> dict[str, list[Row]]:
    """Device -> all its rows, in the order in which they were measured."""
    found: dict[str, list[Row]] = {}
    for file in sorted(folder.glob("*.csv")):
        for row in read(file):
            found.setdefault(row.device, []).append(row)
    return found
