"""Times of candidates that take turns in one process."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

Call = Callable[[], object]

SAMPLE_S = 5e-3  # a sample lasts at least this long, so that the clock and a lone interrupt do not count
LEAST = 8  # samples a candidate must have


@dataclass(frozen=True)
class Samples:
    """Seconds per call, sorted. `dropped` of them are left out because the process lost its core meanwhile."""

    seconds: tuple[float, ...]
    dropped: int = 0

    @property
    def best(self) -> float:
        return self.seconds[0]

    def quantile(self, share: float) -> float:
        """The sample below which `share` of the others lie, interpolated."""
        place = share * (len(self.seconds) - 1)
        low = math.floor(place)
        high = min(low + 1, len(self.seconds) - 1)
        return self.seconds[low] + (place - low) * (self.seconds[high] - self.seconds[low])


def repetitions(call: Call, sample_s: float = SAMPLE_S) -> int:
    """Warm `call` up; how many calls last `sample_s` seconds."""
    call()
    fastest = min(_block(call, 1)[0] for _ in range(3))
    return max(1, math.ceil(sample_s / fastest))


def in_turn(calls: dict[str, Call], rounds: int = 15, sample_s: float = SAMPLE_S) -> dict[str, Samples]:
    """One sample of each call a round, so that a slow moment of the machine falls on all of them.

    Up to three times the rounds are run until every call has enough samples without preemption; on a machine too busy
    for that the least disturbed ones are kept.
    """
    if rounds < LEAST:
        raise ValueError(f"rounds must be at least {LEAST}, got {rounds}")
    repeat = {name: repetitions(call, sample_s) for name, call in calls.items()}
    blocks: dict[str, list[tuple[int, float]]] = {name: [] for name in calls}  # (preemptions, seconds per call)
    for i in range(3 * rounds):
        if i >= rounds and all(sum(lost == 0 for lost, _ in taken) >= LEAST for taken in blocks.values()):
            break
        for name, call in calls.items():
            seconds, lost = _block(call, repeat[name])
            blocks[name].append((lost, seconds / repeat[name]))
    return {name: keep(taken) for name, taken in blocks.items()}


def keep(blocks: list[tuple[int, float]]) -> Samples:
    """The blocks without preemption, or the `LEAST` least disturbed where there are fewer."""
    most = sorted(lost for lost, _ in blocks)[min(LEAST, len(blocks)) - 1]
    kept = sorted(seconds for lost, seconds in blocks if lost <= most)
    return Samples(tuple(kept), len(blocks) - len(kept))


def _block(call: Call, repeat: int) -> tuple[float, int]:
    """Seconds that `repeat` calls take, and how often a thread of the process was taken off its core meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
