"""Calls drawn from the whole contract, held to the error rule; SWIN_FAST_PROPERTY_EXAMPLES draws more, at random."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...cases import DTYPES, assert_accurate, run
from ...test_property import EXAMPLES, cases

COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
SMALL = cases().filter(lambda c: c.heads * max(c.batch, 1) * _windows(c) <= 8 and c.window[0] * c.window[1] <= 40)
FLOATS = st.sampled_from([d for d in DTYPES if d != "float64"])


def _windows(case) -> int:
    count = 1
    for g, w in zip(case.grid, case.window, strict=True):
        count *= -(-g // w)
    return count


@settings(max_examples=15, derandomize=True, **COMMON)
@given(case=SMALL, dtype=FLOATS)
def test_any_small_call(case, dtype):
    tensors = case.tensors(DTYPES[dtype])
    assert_accurate(case, tensors, run(case, tensors, "triton"))


@pytest.mark.slow
@settings(max_examples=int(EXAMPLES or 60), derandomize=not EXAMPLES, **COMMON)
@given(case=cases(), dtype=FLOATS)
def test_any_call(case, dtype):
    tensors = case.tensors(DTYPES[dtype])
    assert_accurate(case, tensors, run(case, tensors, "triton"))
