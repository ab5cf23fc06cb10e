"""The boundary on CPU tensors, its launches answered by the formula."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tests.emulation.window_attention import Params

from . import stand_in
from .formula import Formula


@pytest.fixture(scope="session")
def library(request, tmp_path_factory) -> stand_in.StandIn:
    if stand_in.compiler() is None:
        pytest.skip("needs a C++ compiler: neither c++ nor g++ is on PATH")
    cache = getattr(request.config, "cache", None)  # there is none with -p no:cacheprovider
    folder = cache.mkdir("cuda_boundary") if cache else tmp_path_factory.mktemp("cuda_boundary")
    library = stand_in.StandIn(stand_in.build(Path(folder)))
    assert library.library.stand_in_params_bytes() == ctypes.sizeof(Params), "Params is not CudaParams any more"
    return library


@pytest.fixture
def boundary(library, monkeypatch) -> stand_in.StandIn:
    """The stand-in with the limits of an H100; `functional.window_attention` takes it, and `formula` keeps launches."""
    from swin_fast import dispatch, ops

    library.formula = Formula(library.library.stand_in_workspace)
    library.answer(library.formula)
    library.device()
    library.hand_on(False)
    road = {"reference": "reference"}
    monkeypatch.setattr(dispatch, "road", lambda device_type: road.get(dispatch.forced_backend(), "interpreted"))
    monkeypatch.setattr(ops, "interpreted", lambda: library.op)
    yield library
    library.answer(None)
