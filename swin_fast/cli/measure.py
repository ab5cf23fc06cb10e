"""Time, memory and parity of two roads that compute the same thing."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .common import progress

Road = Callable[[], Tensor]


class Parity(NamedTuple):
    """How far the fused road's output is from the reference road's, and whether that is allowed."""

    largest: float  # largest absolute difference
    relative: float  # the same, as a share of the reference's largest value
    ok: bool
    rule: str


def seconds(road: Road, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    road()
    _synchronize(device)
    return time.perf_counter() - start


def in_turn(roads: dict[str, Road], device: torch.device, repeat: int, text: str, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each road. They alternate, so that a slow moment of the machine falls on all of them."""
    samples: dict[str, list[float]] = {name: [] for name in roads}
    for i in progress(range(warm_up + repeat), warm_up + repeat, text):
        for name, road in roads.items():
            took = seconds(road, device)
            if i >= warm_up:
                samples[name].append(took)
    return {name: statistics.median(values) for name, values in samples.items()}


def peak_bytes(road: Road, device: torch.device) -> int:
    """The most bytes alive at once during one call, beyond what was alive before it; the output is among them.

    On a GPU the caching allocator counts. A CPU has no such counter, and the size of the process would show what malloc
    keeps, not what the call needs; so the profiler records each allocation and release of PyTorch's CPU allocator, and
    the largest running sum is the peak. Memory that a library takes past that allocator is not in it.
    """
    if device.type == "cuda":
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        road()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        road()
    # the table of `events()` files an allocation under the operator that made it, and the order is lost
    steps = (e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    alive = peak = 0
    for step in steps:
        alive += step
        peak = max(peak, alive)
    return peak


def parity(fused: Tensor, reference: Tensor, truth: Tensor | None) -> Parity:
    """Compare the roads' outputs. `truth` is the reference road in float32, needed for the half types only."""
    difference, size = _largest(fused - reference), _largest(reference)
    relative = difference / size if size else difference
    if fused.dtype in (torch.float32, torch.float64):
        return Parity(difference, relative, relative <= 1e-4, "relative difference at most 1e-4")
    if truth is None:
        raise ValueError(f"truth must be given for {fused.dtype}")
    name, allowance = str(fused.dtype).removeprefix("torch."), torch.finfo(fused.dtype).eps / 4
    own, ours, size = _largest(reference - truth), _largest(fused - truth), _largest(truth)
    rule = f"error against float32 {ours:.1e}, at most twice the {own:.1e} of plain {name}"
    ok = math.isfinite(own) and ours <= 2 * own + allowance * size  # a plain road that overflows proves nothing
    return Parity(difference, relative, ok, rule)


def _largest(t: Tensor) -> float:
    return t.detach().float().abs().max().item()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
