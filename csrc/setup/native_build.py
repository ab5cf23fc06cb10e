"""Compiles csrc into swin_fast/_C and, where nvcc is found, swin_fast/_C_cuda, with one run of ninja.

What was built, and why not more, is written down in swin_fast/_build.json and said at the end. The CPU kernels have one
translation unit per instruction set; which one runs is decided when the library runs.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import sysconfig
from pathlib import Path

import cuda_toolkit
from compilers import X86_SETS, compiler_version, compiles, find_compiler, instruction_sets, isa_of
from cuda_toolkit import NoCuda
from ninja_file import Library, Unit, ninja_text, run_ninja, write_if_changed
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError
from torch_headers import Torch, find_torch

ROOT = Path(__file__).resolve().parents[2]
CUDA = "swin_fast._C_cuda"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-DNDEBUG"]
WARNINGS = ["-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden"]
# set off in GCC by its own AVX-512 headers and by loops of known length after inlining; Clang does not know them
FALSE_ALARMS = ["-Wno-maybe-uninitialized", "-Wno-aggressive-loop-optimizations"]
# nothing newer than torch 2.10 and Python 3.10 may be used, so that one library serves them and all that came after
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030A0000"]


class BuildNative(build_ext):
    """The `build_ext` command: ninja does the compiling and knows from depfiles what is out of date."""

    def run(self):
        self.facts = {"version": self.distribution.get_version()}
        try:
            self.toolkit = cuda_toolkit.find_toolkit()
            self.architectures, cuda_left_out = cuda_toolkit.architectures(self.toolkit)
            cuda_toolkit.check_works(self.toolkit, cuda_flags(self.architectures))
            self.cuda_facts = {
                "cuda": list(self.architectures),
                "cuda_left_out": cuda_left_out,
                "cuda_toolkit": ".".join(map(str, self.toolkit.version)),
                "cuda_reason": "",
            }
        except NoCuda as why:
            self.leave_cuda_out(str(why))
        super().run()
        text = json.dumps(self.facts, indent=2) + "\n"
        folders = [Path(self.build_lib)] + ([ROOT] if self.inplace else [])
        for folder in folders:
            (folder / "swin_fast" / "_build.json").write_text(text, encoding="utf-8")
        print(summary(self.facts), flush=True)

    def leave_cuda_out(self, why: str) -> None:
        if cuda_toolkit.required():
            raise SetupError(
                f"SWIN_FAST_CUDA=1 asks for the CUDA library, but {why}. Put a toolkit's nvcc of CUDA 12.0 or newer on "
                "PATH or name its folder in CUDA_HOME, and in TORCH_CUDA_ARCH_LIST only what it knows, or "
                "unset SWIN_FAST_CUDA to build without"
            )
        self.cuda_facts = {"cuda": None, "cuda_left_out": {}, "cuda_toolkit": None, "cuda_reason": why}
        for folder in {Path(self.build_lib), ROOT} if self.inplace else {Path(self.build_lib)}:
            target = folder / self.get_ext_filename(CUDA)
            target.unlink(missing_ok=True)  # of an earlier build, and the package would carry it on
        self.extensions = [ext for ext in self.extensions if ext.name != CUDA]

    def build_extensions(self):
        torch = find_torch()
        if torch is None:
            raise SetupError(
                "no torch headers of version 2.10 or newer here: run `pip install 'torch>=2.10'` first, or build with "
                "`pip install .`, which fetches torch by itself"
            )
        compiler = find_compiler()
        python_include = sysconfig.get_path("include")
        if not Path(python_include, "Python.h").is_file():
            raise SetupError("Python.h is missing: install this Python's headers (Debian and Ubuntu: python3-dev)")
        temp = Path(self.build_temp).resolve()
        temp.mkdir(parents=True, exist_ok=True)
        includes = ["-isystem", str(torch.include), "-isystem", python_include]
        sets, left_out = instruction_sets(compiler)
        libraries = []
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name)).resolve()
            sources = list(map(Path, ext.sources))
            if ext.name == CUDA:
                libraries.insert(0, self.cuda_library(target, sources, includes, torch, compiler, temp))
            else:
                libraries.append(cpu_library(target, sources, includes, torch, compiler, sets, temp))
        ninja_file = temp / "build.ninja"
        write_if_changed(ninja_file, ninja_text(libraries, temp))
        run_ninja(ninja_file, ROOT)
        self.facts |= {
            "cpu": ["portable", *sets],
            "cpu_left_out": left_out,
            "torch_headers": ".".join(map(str, torch.version)),
            "torch_minimum": "2.10",
            "compiler": compiler_version(compiler),
            **self.cuda_facts,
        }

    def cuda_library(self, target, sources, includes, torch: Torch, compiler, temp: Path) -> Library:
        """nvcc compiles everything; only a file that ends in .cu has code for a GPU."""
        host = [f"-Xcompiler=-ffile-prefix-map={torch.include}=torch"]
        built = ",".join(self.architectures)
        defines = [*DEFINES, "-DUSE_CUDA", "-DSWIN_FAST_MODULE=_C_cuda", f'-DSWIN_FAST_CUDA_ARCHITECTURES="{built}"']
        compile = [self.toolkit.nvcc, *NVCC_FLAGS, *defines, *includes]
        compile += host + cuda_toolkit.host_compiler_flags()
        device = [flag for flags in self.architectures.values() for flag in flags]
        # ninja starts them in this order, and the backward kernels take longest
        sources = sorted(sources, key=lambda s: (s.suffix != ".cu", s))
        units = [Unit(s, temp / f"cuda_{s.stem}.o", compile, device if s.suffix == ".cu" else []) for s in sources]
        # torch_cuda is named by an empty stand-in: the torch that is built against may be one without CUDA
        stand_in = temp / "libtorch_cuda.so"
        command = [*compiler, "-shared", "-x", "c++", os.devnull, "-o", str(stand_in), f"-Wl,-soname,{stand_in.name}"]
        self.spawn(command)
        flags = [f"-L{temp}", f"-L{torch.lib}", "-Xlinker=--no-as-needed", "-ltorch_cuda", "-ltorch_cpu"]
        flags += [f"-Xlinker={flag.removeprefix('-Wl,')}" for flag in shlex.split(os.environ.get("LDFLAGS", ""))]
        return Library(target, units, [self.toolkit.nvcc, *cuda_flags(self.architectures)], flags)


def cuda_flags(architectures: dict[str, list[str]]) -> list[str]:
    """What links a library with GPU code; CUDA's runtime is inside, so that whichever one torch has does not matter."""
    first = next(iter(architectures.values()))  # nothing is left for nvcc to compile at the link, one is enough
    return ["-shared", "-cudart", "static", *first, "-Xcompiler=-fPIC", *cuda_toolkit.host_compiler_flags()]


def cpu_library(target, sources, includes, torch: Torch, compiler, sets, temp: Path) -> Library:
    order = [None, *sets]
    sources = [source for source in sources if isa_of(source) in order]
    sources.sort(key=lambda source: (order.index(isa_of(source)), source))
    common = [*compiler, *FLAGS, *WARNINGS, *DEFINES, "-DSWIN_FAST_MODULE=_C", *includes]
    common += [f"-DSWIN_FAST_{name.upper()}=1" for name in sets]
    common.append(f"-ffile-prefix-map={torch.include}=torch")  # no machine paths in error messages
    common += [flag for flag in FALSE_ALARMS if compiles(compiler, ["-Werror", flag], "")]
    common += shlex.split(os.environ.get("CXXFLAGS", ""))
    units = [Unit(s, temp / f"{s.stem}.o", common, X86_SETS.get(isa_of(s), [])) for s in sources]
    if sys.platform == "darwin":
        return Library(target, units, [*compiler, "-shared"], ["-undefined", "dynamic_lookup"])
    # torch keeps its symbols out of the global scope, so the library must name the one that has them. No rpath: torch
    # is always loaded first, and the loader then takes the libtorch_cpu that is there, of whatever version.
    flags = [f"-L{torch.lib}", "-ltorch_cpu", *shlex.split(os.environ.get("LDFLAGS", ""))]
    return Library(target, units, [*compiler, "-shared"], flags)


def summary(facts: dict) -> str:
    """What was built, one fact a line."""
    if facts["cuda"]:
        cuda = [f"  CUDA library  swin_fast._C_cuda: {', '.join(facts['cuda'])}; nvcc {facts['cuda_toolkit']}"]
    else:
        cuda = [f"  CUDA library  no: {facts['cuda_reason']}"]
    lines = [
        f"swin_fast {facts['version']} built:",
        f"  CPU library   swin_fast._C: {', '.join(facts['cpu'])}",
        *(f"    without {name}: {reason}" for name, reason in facts["cpu_left_out"].items()),
        *cuda,
        *(f"    without {name}: {reason}" for name, reason in facts["cuda_left_out"].items()),
        f"  headers       torch {facts['torch_headers']}, runs with torch {facts['torch_minimum']} and newer",
        f"  compiler      {facts['compiler']}",
    ]
    return "\n".join(lines)
