"""Hypothesis draws calls that the compiled-in kernels take and holds each to the error rule, output and every gradient.

SWIN_FAST_PROPERTY_EXAMPLES=5000 draws that many at random instead of the same few every time.
"""

from __future__ import annotations

import os
from math import inf, prod

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..ops.cases import Case
from .cases import HEAD_DIMS, WINDOWS
from .modes import MODES, check
from .window_attention import FEW, FULL, Limits

EXAMPLES = os.environ.get("SWIN_FAST_PROPERTY_EXAMPLES")
LARGEST = 80_000  # heads * windows * tokens**2 of one call: a second or so


@st.composite
def cases(draw) -> Case:
    window = draw(st.sampled_from([WINDOWS[0], WINDOWS[1], *WINDOWS]))
    budget = max(1, LARGEST // prod(window) ** 2)
    grid = []
    for w in window:
        count = draw(st.integers(1, min(budget, 3)))
        budget //= count
        grid.append(draw(st.integers((count - 1) * w + 1, count * w)))
    heads = draw(st.integers(1, min(budget, 3)))
    batch = draw(st.integers(1, min(budget // heads, 3)))
    cosine = draw(st.booleans())
    return Case(
        window,
        tuple(grid),
        shift=tuple(draw(st.integers(0, w - 1)) for w in window),
        heads=heads,
        head_dim=draw(st.sampled_from(HEAD_DIMS)),
        batch=batch,
        scale=None if cosine else draw(st.one_of(st.none(), st.floats(-1, 1, width=32))),
        bias=draw(st.sampled_from(["table", "index", "none"])),
        pad=draw(st.sampled_from(["masked", "attended"])),
        pad_order=draw(st.sampled_from(["pad_then_roll", "roll_then_pad"])),
        mask=draw(st.sampled_from(["none", "one", "image", "batch"])),
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
@given(case=cases(), mode=st.sampled_from(list(MODES)), limits=st.sampled_from([FEW, FULL, Limits(5)]))
def test_any_call(kernels, case, mode, limits):
    check(kernels, case, mode, limits=limits)
