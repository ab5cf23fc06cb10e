"""Builds both libraries in this folder, for the GPU that is here. Nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from .info import nvcc
from .state import ROOT, State

GIB_OF_A_COMPILER = 3  # nvcc with the longest of the units


def main(state: State, part: str) -> int:
    environment = settings(dict(os.environ))
    for name in ("TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "SWIN_FAST_CUDA"):
        print(f"{name}={environment.get(name, '')}")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status:
        return status
    facts = json.loads((ROOT / "swin_fast" / "_build.json").read_text(encoding="utf-8"))
    if facts["cuda_reason"]:
        print(f"note: no CUDA library: {facts['cuda_reason']}")
    state.keep(part, facts)
    # in processes of their own, as this one may have loaded another library
    loads = "not native.loaded" if facts["cuda_reason"] else "not (native.loaded and native.cuda_loaded)"
    code = f"import sys; from swin_fast import native; print(native.reason, native.cuda_reason); sys.exit({loads})"
    status = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode
    return status or subprocess.run([sys.executable, "-m", "swin_fast", "info"], cwd=ROOT, check=False).returncode


def settings(environment: dict[str, str]) -> dict[str, str]:
    """`environment` with what the build reads: this machine's GPUs, as many compilers as memory allows, and no silence
    about a CUDA library that an nvcc is there for but that cannot be built."""
    if torch.version.cuda and nvcc():
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        environment.setdefault("TORCH_CUDA_ARCH_LIST", ";".join("{}.{}".format(*c) for c in sorted(found)))
        environment.setdefault("SWIN_FAST_CUDA", "1")
    environment.setdefault("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, memory_gib() // GIB_OF_A_COMPILER))))
    return environment


def memory_gib() -> int:
    """GiB of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
