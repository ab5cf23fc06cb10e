"""What this machine is, and what is missing on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import torch

from .. import rows
from . import state as states
from .state import ROOT, State, query, version

FIELDS = (
    "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,"
    "temperature.gpu,persistence_mode"
)
# what a part makes of it, where a tool or package is not here
WANTED_TOOLS = {
    "nvcc": "no CUDA library can be built: the CUDA backend is neither tested nor timed",
    "ninja": "nothing can be built",
    "compute-sanitizer": "the part sanitizer fails",
    "ncu": "no occupancy in the part profile",
    "git": "the commit is that of SWIN_FAST_COMMIT",
}
WANTED_PACKAGES = {
    "setuptools": "nothing can be built",
    "triton": "the Triton backend is neither tested nor timed",
    "numpy": "some tests and peers do not run",
    "pytest": "the tests marked gpu do not run, swin-fast verify does instead",
    "safetensors": "tests with stored tensors do not run",
    "timm": "it is not among the peers",
    "torchvision": "it is not among the peers",
    "transformers": "it is not among the peers",
    "monai": "it is not among the peers",
}


def main(state: State, part: str) -> int:
    facts = collect()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    for line in missing():
        print(f"note: {line}")
    state.keep(part, facts)
    print(flush=True)
    return subprocess.run([sys.executable, "-m", "swin_fast", "info"], cwd=ROOT, check=False).returncode


def collect() -> dict[str, str]:
    """Everything about the machine that figures depend on, by name."""
    properties = torch.cuda.get_device_properties(0)
    said = [value.strip() for value in query(FIELDS).split(",")]
    nvidia = dict(zip(FIELDS.split(","), said, strict=True)) if len(said) == len(FIELDS.split(",")) else {}
    return {
        "gpu": properties.name,
        "gpus": str(torch.cuda.device_count()),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "L2": f"{properties.L2_cache_size / 2**20:.0f} MiB",
        **{f"nvidia-smi {name}": value for name, value in nvidia.items() if name != "name"},
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or f"none, HIP {torch.version.hip}",
        "triton": version("triton"),
        "nvcc": nvcc(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "commit": rows.commit(),
        "sources": states.key("build").partition(",")[0],
    }


def nvcc() -> str:
    """The version of the nvcc that a build takes, "" where there is none."""
    home = os.environ.get("CUDA_HOME")
    command = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    if command is None:
        return ""
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    return said.strip().rpartition("release ")[2].partition("\n")[0]


def missing() -> list[str]:
    """One line for each tool and package that is not here: what becomes of that."""
    lines = [f"{name} is missing: {what}" for name, what in WANTED_TOOLS.items() if shutil.which(name) is None]
    return lines + [
        f"the package {name} is missing: {what}" for name, what in WANTED_PACKAGES.items() if not version(name)
    ]
