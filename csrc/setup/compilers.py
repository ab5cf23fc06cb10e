"""The C++ compiler: which one, and which instruction sets it can emit."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools.errors import SetupError

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
# file name ending -> flags. Lowest first, and the objects are linked in this order: an inline function that several of
# them emit is taken from the first, which every CPU that gets that far can run.
X86_SETS = {"avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": [*_AVX512, "-mavx512bf16"]}


def isa_of(source: Path) -> str | None:
    """The instruction set that a file is for, by the end of its name; None for a file every CPU runs."""
    return next((isa for isa in X86_SETS if source.stem.endswith(f"_{isa}")), None)


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
