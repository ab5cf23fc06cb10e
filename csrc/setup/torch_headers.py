"""Where torch's headers are, found without importing torch.

The stable ABI makes any torch from 2.10 on good enough to compile against, so the torch a user already has serves, and
pip need not download a second one into the isolated build environment.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sysconfig
from pathlib import Path
from typing import NamedTuple

MINIMUM = (2, 10)


class Torch(NamedTuple):
    """One torch on this machine: ``include`` and ``lib`` are directories, ``version`` is (major, minor, patch)."""

    version: tuple[int, int, int]
    include: Path
    lib: Path


def find_torch() -> Torch | None:
    """The first torch of version 2.10 or newer with headers: on sys.path, else where this Python installs packages."""
    for package in _package_dirs():
        torch = _read(package)
        if torch is not None and torch.version >= MINIMUM:
            return torch
    return None


def _package_dirs():
    spec = importlib.util.find_spec("torch")  # finds, does not import
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())
    # pip takes these off sys.path in an isolated build, yet the interpreter is the one that it installs for
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *site.getsitepackages()]
    folders.append(site.getusersitepackages())
    environment = os.environ.get("VIRTUAL_ENV")
    if environment:
        folders.append(sysconfig.get_path("platlib", vars={"base": environment, "platbase": environment}))
    for folder in dict.fromkeys(folders):
        yield Path(folder) / "torch"


def _read(package: Path) -> Torch | None:
    include = package / "include"
    header = include / "torch" / "headeronly" / "version.h"
    if not header.is_file() or not (include / "torch" / "csrc" / "stable" / "library.h").is_file():
        return None
    text = header.read_text(encoding="utf-8")
    parts = [re.search(rf"#define TORCH_VERSION_{name} (\d+)", text) for name in ("MAJOR", "MINOR", "PATCH")]
    if not all(parts):
        return None
    major, minor, patch = (int(part[1]) for part in parts)
    return Torch((major, minor, patch), include, package / "lib")
