"""Builds kernels and stand-in into shared libraries, kept by the hash of everything that goes into them."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock

HERE = Path(__file__).parent
COMMON = ["-std=c++17", "-fPIC", "-g1", "-Wall", "-Wextra"]
RUNTIME = [*COMMON, "-O3", "-Werror"]
# the thread sanitizer's calls before loads and stores are what the stand-in listens to; runtime/sanitizer.cpp answers
KERNELS = [
    *COMMON, "-O1", "-fsanitize=thread", "-fsanitize=bounds,alignment,shift", "-Wno-unknown-pragmas",
]  # fmt: skip


class CompileError(RuntimeError):
    """The compiler refused a source; what it said is the message."""


@lru_cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


def find_compiler() -> list[str] | None:
    """GCC's C++ compiler on Linux as a command, $CXX or what is on PATH; None where there is none."""
    if sys.platform != "linux":
        return None
    commands = [shlex.split(os.environ.get("CXX", "")), ["g++"], ["c++"]]
    there = (command for command in commands if command and shutil.which(command[0]))
    return next((command for command in there if "Free Software Foundation" in _version(tuple(command))), None)


class Compiler:
    """Compiles into `cache`; a file is built once for all runs that find it there."""

    def __init__(self, cache: Path):
        command = find_compiler()
        if command is None:
            raise CompileError("no g++ on PATH")
        self.command, self.cache = command, cache
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)  # two threads may want the same file

    def library(self, units: Sequence[tuple[Path, Sequence[str]]], folder: Path | None = None) -> Path:
        """A shared library of the stand-in and `units`: (source, its own flags), compiled beside each other.

        `folder` holds the headers that units include; every file in it counts for the hash, where it lies does not.
        """
        own = [HERE / "include", HERE / "runtime"]
        jobs = [(source, [*KERNELS, *flags], [folder, *own] if folder else own) for source, flags in units]
        jobs += [(source, RUNTIME, own) for source in sorted((HERE / "runtime").glob("*.cpp"))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self._object(*job), jobs))
        name = hashlib.sha256("".join(o.name for o in objects).encode()).hexdigest()[:24]
        # -z now: a function that nobody defines is an error at once, not in the middle of a kernel
        return self._make(self.cache / f"{name}.so", ["-shared", "-Wl,-z,now", *map(str, objects), "-ldl"])

    def _object(self, source: Path, flags: list[str], folders: list[Path]) -> Path:
        content = hashlib.sha256("\n".join([_version(tuple(self.command)), *flags]).encode() + source.read_bytes())
        for folder in folders:
            for header in sorted(folder.rglob("*.*h")):
                content.update(str(header.relative_to(folder)).encode() + header.read_bytes())
        include = [flag for folder in folders for flag in ("-I", str(folder))]
        target = self.cache / f"{source.stem}-{content.hexdigest()[:24]}.o"
        return self._make(target, [*flags, *include, "-c", str(source)])

    def _make(self, target: Path, arguments: list[str]) -> Path:
        with self._locks[target]:
            if not target.is_file():
                partial = target.with_suffix(f".{os.getpid()}")  # of this process: others may make it, too
                command = [*self.command, *arguments, "-o", str(partial)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise CompileError(done.stderr)
                os.replace(partial, target)
        return target
