"""Libraries of emulated kernels, compiled where pytest keeps its cache; without g++ these tests are skipped."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from .compiler import HERE, Compiler, find_compiler
from .machine import Machine
from .modes import MODES
from .window_attention import Instance, Kernels


@pytest.fixture(scope="session")
def compiler(request, tmp_path_factory) -> Compiler:
    if find_compiler() is None:
        pytest.skip("needs g++ on Linux, and none is on PATH")
    cache = getattr(request.config, "cache", None)  # there is none with -p no:cacheprovider
    folder = cache.mkdir("emulation") if cache else tmp_path_factory.mktemp("emulation")
    return Compiler(Path(folder))


class Arguments(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p * 4), ("number", ctypes.c_int * 3)]


class Standin(Machine):
    """The small kernels of standin_kernels.cpp by name."""

    def __call__(self, kernel: str, *pointers: int, numbers=(), blocks=1, threads=32, shared=1 << 12) -> None:
        arguments = Arguments((ctypes.c_void_p * 4)(*pointers), (ctypes.c_int * 3)(*numbers))
        launch = self.library.standin_launch
        launch.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p]
        self.run(lambda: launch(kernel.encode(), blocks, threads, shared, ctypes.byref(arguments)))


@pytest.fixture(scope="session")
def standin_library(compiler) -> Path:
    return compiler.library([(HERE / "standin_kernels.cpp", [])])


@pytest.fixture
def standin(standin_library):
    machine = Standin(standin_library)
    yield machine
    machine.free()


@pytest.fixture(scope="session")
def kernels(request, compiler, tmp_path_factory) -> Kernels:
    """The kernels as they are; instances that this run's cases need are compiled first, beside each other."""
    kernels = Kernels(compiler, tmp_path_factory.mktemp("kernels") / "source")
    calls = [i.callspec.params for i in request.session.items if "kernels" in i.fixturenames and hasattr(i, "callspec")]
    wanted = {Instance.of(c["case"], *MODES[c["mode"]]) for c in calls if {"case", "mode"} <= c.keys()}
    kernels.build((instance, backward) for instance in wanted for backward in (False, True))
    return kernels
