"""The registry for pytest-benchmark: a group is checked and timed in turn once, and each candidate's samples replayed.

pytest-benchmark times one function after another, which a machine's slow minutes make unfair. So its clock is one that
hands over samples that were taken in turn.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from . import child, measure
from .group import Group, Made


class Replay:
    """A clock for pytest-benchmark: each `step` lasts as long as the next of the loaded samples, exactly."""

    def __init__(self):
        self._left: list[float] = []
        self._passed = 0.0

    def load(self, seconds: tuple[float, ...]) -> None:
        self._left, self._passed = list(reversed(seconds)), 0.0

    def step(self) -> None:
        self._passed = self._left.pop()

    def __call__(self) -> float:
        """0 before a step and its sample after: from zero, a difference has no rounding."""
        passed, self._passed = self._passed, 0.0
        return passed


clock = Replay()


@lru_cache(maxsize=1)  # the tests of a group follow each other
def measured(group: Group, settings: child.Settings) -> tuple[Made, dict[str, measure.Samples]]:
    torch.set_num_threads(settings.threads)
    torch.compiler.reset()
    made = child.checked(group, group.make(settings.device, settings.compiled), settings.device)
    return made, measure.in_turn(made.candidates, settings.rounds, device=settings.device)


@pytest.mark.benchmark(timer=clock)
def test_group(benchmark, group, candidate, settings):
    made, timed = measured(group, settings)
    if candidate in made.left_out:
        pytest.skip(made.left_out[candidate])
    samples = timed[candidate]
    benchmark.group = f"{group.name}, {settings.threads} threads"
    benchmark.extra_info.update(dropped=samples.dropped, waited=samples.waited)
    clock.load(samples.seconds)
    benchmark.pedantic(clock.step, rounds=len(samples.seconds), iterations=1)
