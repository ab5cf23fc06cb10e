"""The attention core a stage at a time, for `pytest benchmarks --benchmark-only`: equality first, then the times."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from . import measure, peers

NAMES = [peers.OURS, "eager", "sdpa"]


@pytest.fixture(scope="module", params=peers.STAGES, ids="stage {}".format)
def stage(request):
    """The checked candidates of one stage, at batch 8."""
    case = replace(peers.STAGES[request.param], batch=8)
    found = peers.candidates(case, torch.float32)
    peers.check(case, torch.float32, found)
    return case, found


@pytest.mark.parametrize("name", NAMES)
def test_forward(benchmark, stage, name):
    case, found = stage
    benchmark.group = f"8x{case.name}, float32, {torch.get_num_threads()} threads"
    benchmark.pedantic(found[name], rounds=15, iterations=measure.repetitions(found[name]), warmup_rounds=1)
