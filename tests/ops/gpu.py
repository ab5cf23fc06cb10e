"""What the tests on a GPU share."""

from __future__ import annotations

import pytest
import torch

from swin_fast import dispatch

from .cases import Case


def need(name: str, case: Case, dtype: torch.dtype) -> str:
    """`name`; the test is skipped where that backend does not run such a call, with the reason."""
    call = dispatch.Call(
        dispatch.describe(torch.device("cuda")), dtype, case.batch, case.grid, case.window, case.heads, case.head_dim,
        case.bias != "none", case.bias == "index", case.pad == "attended", case.mask != "none", case.cosine,
        case.dropout > 0,
    )  # fmt: skip
    verdict = dispatch.CAN_RUN[name](call)
    if not verdict:
        pytest.skip(f"{name}: {verdict.reason}")
    return name
