"""Compiles csrc into swin_fast/_C with ninja, and writes down what was built in swin_fast/_build.json.

One translation unit of the kernel per instruction set; which one runs is decided when the library runs.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError
from torch_headers import Torch, find_torch

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-DNDEBUG"]
WARNINGS = ["-Wall", "-Wextra"]
# set off in GCC by its own AVX-512 headers and by loops of known length after inlining; Clang does not know them
FALSE_ALARMS = ["-Wno-maybe-uninitialized", "-Wno-aggressive-loop-optimizations"]
# nothing newer than torch 2.10 and Python 3.10 may be used, so that one library serves them and all that came after
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030A0000"]

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
# file name ending -> flags. Lowest first, and the objects are linked in this order: an inline function that several of
# them emit is taken from the first, which every CPU that gets that far can run.
X86_SETS = {"avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": [*_AVX512, "-mavx512bf16"]}


class BuildNative(build_ext):
    """The `build_ext` command: ninja does the compiling and knows from depfiles what is out of date."""

    def run(self):
        super().run()
        text = json.dumps(self.facts, indent=2) + "\n"
        folders = [Path(self.build_lib)] + ([ROOT] if self.inplace else [])
        for folder in folders:
            (folder / "swin_fast" / "_build.json").write_text(text, encoding="utf-8")
        print(summary(self.facts), flush=True)

    def build_extension(self, ext):
        refuse_cuda()
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
        sets, left_out = instruction_sets(compiler)
        order = [None, *sets]
        sources = [s for s in map(Path, ext.sources) if isa_of(s) in order]
        sources.sort(key=lambda source: (order.index(isa_of(source)), source))
        common = [*FLAGS, *WARNINGS, *DEFINES, *[f"-DSWIN_FAST_{name.upper()}=1" for name in sets]]
        common += ["-isystem", str(torch.include), "-isystem", python_include]
        common.append(f"-ffile-prefix-map={torch.include}=torch")  # no machine paths in error messages
        common += [flag for flag in FALSE_ALARMS if compiles(compiler, ["-Werror", flag], "")]
        common += shlex.split(os.environ.get("CXXFLAGS", ""))

        temp = Path(self.build_temp).resolve()
        temp.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        units = [(source, temp / f"{source.stem}.o", X86_SETS.get(isa_of(source), [])) for source in sources]
        ninja_file = temp / "build.ninja"
        write_if_changed(ninja_file, ninja_text(compiler, common, link_flags(torch), units, target, temp))
        run_ninja(ninja_file)
        self.facts = {
            "version": self.distribution.get_version(),
            "cpu": ["portable", *sets],
            "cpu_left_out": left_out,
            "torch_headers": ".".join(map(str, torch.version)),
            "torch_minimum": "2.10",
            "compiler": compiler_version(compiler),
            "cuda": None,
            "cuda_reason": "CUDA kernels are not part of this version yet",
        }


def refuse_cuda() -> None:
    """Raise where SWIN_FAST_CUDA asks for what this version does not have."""
    value = os.environ.get("SWIN_FAST_CUDA", "").strip()
    if value == "1":
        raise SetupError("SWIN_FAST_CUDA=1 asks for CUDA kernels, which this version does not have; unset it or set 0")
    if value not in ("", "0"):
        raise SetupError(f"SWIN_FAST_CUDA must be 0 or 1, got {value!r}")


def isa_of(source: Path) -> str | None:
    """The instruction set that a file is for, by the end of its name; None for a file every CPU runs."""
    return next((isa for isa in X86_SETS if source.stem == f"window_attention_{isa}"), None)


def find_compiler() -> list[str]:
    """The C++ compiler as a command: $CXX, else the first of c++, g++, clang++ on PATH."""
    if sys.platform == "win32":
        raise SetupError("swin_fast builds on Linux and macOS; on Windows use the Windows Subsystem for Linux")
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    problem = (
        f"CXX names {asked[0]!r}, which is not on PATH" if asked else "no C++ compiler (c++, g++, clang++) on PATH"
    )
    raise SetupError(
        f"{problem}: install one (Debian and Ubuntu: `apt-get install g++`, Fedora: `dnf install gcc-c++`, macOS: "
        "`xcode-select --install`) or set CXX to one"
    )


def compiler_version(compiler: list[str]) -> str:
    output = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return (output.splitlines() or ["unknown"])[0]


def instruction_sets(compiler: list[str]) -> tuple[list[str], dict[str, str]]:
    """The x86 instruction sets this compiler can emit, and for each left out the reason."""
    if not compiles(compiler, [], "#ifndef __x86_64__\n#error\n#endif\n"):
        return [], dict.fromkeys(X86_SETS, "the compiler's target is not x86-64")
    sets = [name for name, flags in X86_SETS.items() if compiles(compiler, flags, "")]
    unknown = {name: " ".join(flags) for name, flags in X86_SETS.items() if name not in sets}
    return sets, {name: f"the compiler does not know {flags}" for name, flags in unknown.items()}


def compiles(compiler: list[str], flags: list[str], code: str) -> bool:
    command = [*compiler, *flags, "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=False).returncode == 0


def link_flags(torch: Torch) -> list[str]:
    if sys.platform == "darwin":
        return ["-shared", "-undefined", "dynamic_lookup"]
    # torch keeps its symbols out of the global scope, so the library must name the one that has them. No rpath: torch
    # is always loaded first, and the loader then takes the libtorch_cpu that is there, of whatever version.
    return ["-shared", f"-L{torch.lib}", "-ltorch_cpu", *shlex.split(os.environ.get("LDFLAGS", ""))]


def ninja_text(compiler, flags, link, units, target: Path, temp: Path) -> str:
    """build.ninja: sources are named from the repository root, where ninja runs, so __FILE__ holds no machine path."""

    def value(words) -> str:
        return shlex.join(words).replace("$", "$$")

    def path(p) -> str:
        return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = [
        "ninja_required_version = 1.5",
        f"builddir = {str(temp).replace('$', '$$')}",
        "rule compile",
        f"  command = {value([*compiler, *flags])} $isa -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
        "rule link",
        f"  command = {value(compiler)} $in {value(link)} -o $out",
        "  description = link $out",
    ]
    for source, obj, isa in units:
        lines += [f"build {path(obj)}: compile {path(source)}", f"  isa = {value(isa)}"]
    lines.append(f"build {path(target)}: link {' '.join(path(obj) for _, obj, _ in units)}")
    return "\n".join(lines) + "\n"


def write_if_changed(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def run_ninja(ninja_file: Path) -> None:
    ninja = shutil.which("ninja")
    if ninja is None:
        raise SetupError("ninja is not on PATH: run `pip install ninja`, or build with `pip install .`")
    jobs = os.environ.get("MAX_JOBS", "").strip()
    if jobs and not (jobs.isdigit() and int(jobs) > 0):
        raise SetupError(f"MAX_JOBS must be a number of at least 1, got {jobs!r}")
    command = [ninja, "-f", str(ninja_file), *(["-j", jobs] if jobs else [])]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SetupError("the C++ library did not compile: the compiler's own message is above")


def summary(facts: dict) -> str:
    """What was built, one fact a line."""
    lines = [
        f"swin_fast {facts['version']} built:",
        f"  CPU library   swin_fast._C: {', '.join(facts['cpu'])}",
        *(f"    without {name}: {reason}" for name, reason in facts["cpu_left_out"].items()),
        f"  headers       torch {facts['torch_headers']}, runs with torch {facts['torch_minimum']} and newer",
        f"  compiler      {facts['compiler']}",
        f"  CUDA library  no: {facts['cuda_reason']}",
    ]
    return "\n".join(lines)
