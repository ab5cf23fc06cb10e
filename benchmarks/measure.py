"""Times, and memory, of candidates that take turns in one process."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from swin_fast.cli.measure import peak_bytes

Call = Callable[[], object]

SAMPLE_S = 5e-3  # a sample lasts at least this long, so that the clock and a lone interrupt do not count
LEAST = 8  # samples a candidate must have
MORE_S = 20.0  # rounds that replace disturbed samples begin within this time, or long calls would take minutes
CLEAN = 0.01  # share of a sample's time that a thread may have waited for a core


@dataclass(frozen=True)
class Samples:
    """Seconds per call, sorted, without the `dropped` ones in which others had the core.

    `waited` is the largest share of its time that a kept one lost that way; above `CLEAN` the machine was too busy.
    """

    seconds: tuple[float, ...]
    dropped: int = 0
    waited: float = 0.0

    @property
    def best(self) -> float:
        return self.seconds[0]

    def quantile(self, share: float) -> float:
        """The sample below which `share` of the others lie, interpolated."""
        place = share * (len(self.seconds) - 1)
        low = math.floor(place)
        high = min(low + 1, len(self.seconds) - 1)
        return self.seconds[low] + (place - low) * (self.seconds[high] - self.seconds[low])


def repetitions(call: Call, sample_s: float = SAMPLE_S, device: str = "cpu") -> int:
    """Warm `call` up; how many calls last `sample_s` seconds."""
    call()
    fastest = min(block(call, 1, device)[0] for _ in range(3))
    return max(1, math.ceil(sample_s / fastest))


def in_turn(
    calls: dict[str, Call], rounds: int = 15, sample_s: float = SAMPLE_S, device: str = "cpu"
) -> dict[str, Samples]:
    """One sample of each call a round, so that a slow moment of the machine falls on all of them.

    Up to three times the rounds are run, those beyond `rounds` for `MORE_S` seconds, until every call has enough
    undisturbed samples; on a machine too busy for that the least disturbed ones are kept.
    """
    if rounds < LEAST:
        raise ValueError(f"rounds must be at least {LEAST}, got {rounds}")
    repeat = {name: repetitions(call, sample_s, device) for name, call in calls.items()}
    blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}  # (share waited, seconds per call)
    more_until = math.inf
    for i in range(3 * rounds):
        if i == rounds:
            more_until = time.perf_counter() + MORE_S
        if time.perf_counter() >= more_until:
            break
        if i >= rounds and all(sum(share <= CLEAN for share, _ in taken) >= LEAST for taken in blocks.values()):
            break
        for name, call in calls.items():
            seconds, waited = block(call, repeat[name], device)
            blocks[name].append((waited / seconds, seconds / repeat[name]))
    return {name: keep(taken) for name, taken in blocks.items()}


def keep(blocks: list[tuple[float, float]]) -> Samples:
    """The undisturbed blocks, or the `LEAST` least disturbed where there are fewer."""
    worst = max(CLEAN, sorted(share for share, _ in blocks)[min(LEAST, len(blocks)) - 1])
    kept = sorted((seconds, share) for share, seconds in blocks if share <= worst)
    seconds, shares = zip(*kept, strict=True)
    return Samples(seconds, len(blocks) - len(kept), max(shares))


def block(call: Call, repeat: int, device: str = "cpu") -> tuple[float, float]:
    """Seconds that `repeat` calls take, and `waiting()` over them. A GPU's seconds are between two of its events."""
    if device == "cuda":
        return _gpu_block(call, repeat)
    before = waiting()
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    seconds = time.perf_counter() - start
    return seconds, waiting() - before


def _gpu_block(call: Call, repeat: int) -> tuple[float, float]:
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before = waiting()
    start.record()
    for _ in range(repeat):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3, waiting() - before


def peak_extra(call: Call, device: str = "cpu") -> float:
    """The most bytes of PyTorch's allocator alive during one call, beyond what was alive before it."""
    return float(peak_bytes(call, torch.device(device)))


def waiting() -> float:
    """Seconds that the threads of this process could run and had no core, since it began.

    Linux counts them. Elsewhere it is the number of times that a core was taken away: one of them spoils a block.
    """
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    total = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/schedstat") as file:
                total += int(file.read().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
            continue
    return total / 1e9
