"""Hypothesis draws calls from the whole contract and holds each to the error rule, output and every gradient.

SWIN_FAST_PROPERTY_EXAMPLES=5000 draws that many at random instead of the same 60 every time.
"""

from __future__ import annotations

import os
from math import inf, prod

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .cases import DTYPES, Case, assert_accurate, run

EXAMPLES = os.environ.get("SWIN_FAST_PROPERTY_EXAMPLES")
LARGEST = 40_000  # heads * windows * tokens**2 of one call, so that float64 on one core takes milliseconds


@st.composite
def cases(draw) -> Case:
    axes = draw(st.sampled_from([2, 2, 3]))
    most = 16 if axes == 2 else 6
    window = tuple(draw(st.integers(1, most)) for _ in range(axes))
    heads, batch = draw(st.integers(1, 6)), draw(st.sampled_from([0, 1, 1, 1, 2, 2, 2, 3]))
    grid, tokens = [], prod(window)
    budget = max(1, LARGEST // (tokens**2 * heads * max(batch, 1)))
    for w in window:
        count = draw(st.integers(1, min(budget, 4)))
        budget //= count
        grid.append(draw(st.integers(max(1, (count - 1) * w + 1), count * w)))
    cosine = draw(st.booleans())
    return Case(
        window,
        tuple(grid),
        shift=tuple(draw(st.integers(0, w - 1)) for w in window),
        heads=heads,
        head_dim=2 * draw(st.one_of(st.integers(1, 20), st.sampled_from([24, 32, 33, 48, 64, 128]))),
        batch=batch,
        scale=None if cosine else draw(st.one_of(st.none(), st.floats(-1, 1, width=32))),
        bias=draw(st.sampled_from(["table", "index", "none"])),
        pad=draw(st.sampled_from(["masked", "attended"])),
        pad_order=draw(st.sampled_from(["pad_then_roll", "roll_then_pad"])),
        mask=draw(st.sampled_from(["none", "one", "image", "batch"])) if batch else "none",
        mask_value=draw(st.sampled_from([-100.0, -inf, -3.0, 0.0])),
        cosine=cosine,
        dropout=draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])),
        wide=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=cases(), dtype=st.sampled_from(list(DTYPES)))
def test_any_call(case, dtype):
    tensors = case.tensors(DTYPES[dtype])
    assert_accurate(case, tensors, run(case, tensors))
