"""Writes build.ninja for a few shared libraries and runs ninja on it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from setuptools.errors import SetupError


class Unit(NamedTuple):
    """One object file: ``compile`` is the command without input, output and dependency flags, ``flags`` its own."""

    source: Path
    object: Path
    compile: list[str]
    flags: list[str]


class Library(NamedTuple):
    """One shared library; ``link`` is the command before the objects, ``flags`` what comes after them."""

    target: Path
    units: list[Unit]
    link: list[str]
    flags: list[str]


def ninja_text(libraries: list[Library], temp: Path) -> str:
    """build.ninja: sources are named from the repository root, where ninja runs, so __FILE__ holds no machine path."""
    rules: dict[str, str] = {}
    lines = ["ninja_required_version = 1.5", f"builddir = {str(temp).replace('$', '$$')}"]
    builds = []
    for library in libraries:
        for unit in library.units:
            rule = rules.setdefault(_words(unit.compile), f"compile_{len(rules)}")
            builds += [f"build {_path(unit.object)}: {rule} {_path(unit.source)}", f"  flags = {_words(unit.flags)}"]
        builds.append(f"build {_path(library.target)}: link {' '.join(_path(unit.object) for unit in library.units)}")
        builds += [f"  link = {_words(library.link)}", f"  flags = {_words(library.flags)}"]
    for command, rule in rules.items():
        lines += [
            f"rule {rule}",
            f"  command = {command} $flags -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $in",
        ]
    lines += ["rule link", "  command = $link $in $flags -o $out", "  description = link $out"]
    return "\n".join(lines + builds) + "\n"


def _words(words) -> str:
    return shlex.join(words).replace("$", "$$")


def _path(path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def write_if_changed(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def run_ninja(ninja_file: Path, folder: Path) -> None:
    """Build everything, in parallel, with ``folder`` as the working directory."""
    ninja = shutil.which("ninja")
    if ninja is None:
        raise SetupError("ninja is not on PATH: run `pip install ninja`, or build with `pip install .`")
    jobs = os.environ.get("MAX_JOBS", "").strip()
    if jobs and not (jobs.isdigit() and int(jobs) > 0):
        raise SetupError(f"MAX_JOBS must be a number of at least 1, got {jobs!r}")
    command = [ninja, "-f", str(ninja_file), *(["-j", jobs] if jobs else [])]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise SetupError("the libraries did not compile: the compiler's own message is above")
