"""Prints what is installed, what was built, which backend would run for a tensor on each device, and why no other."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch

from .. import __version__, native
from .common import cpu_path, why_not

KNOBS = {
    "SWIN_FAST_BACKEND": "backend of the op: auto, cpu, triton, cuda or reference",
    "SWIN_FAST_CPU_CAPABILITY": "kernels of the cpu backend: avx512_bf16, avx512, avx2 or portable",
    "TRITON_INTERPRET": "1: the triton backend runs in Triton's interpreter, on CPU tensors",
    "SWIN_FAST_TRITON_CONFIG": "file of tuned block shapes for the triton backend",
    "OMP_NUM_THREADS": "CPU threads of torch and of the cpu backend",
    "MAX_JOBS": "at build: compilers at once",
    "SWIN_FAST_CUDA": "at build: 0 without the CUDA library, 1 an error where it cannot be built",
    "CUDA_HOME": "at build: the CUDA toolkit, instead of that of the nvcc on PATH",
    "TORCH_CUDA_ARCH_LIST": "at build: GPU architectures of the CUDA library, such as 8.0;9.0a+PTX",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    facts = collect()
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def collect() -> dict:
    """Everything that `info` prints, as plain data."""
    return {
        "version": __version__,
        "location": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "os": platform.platform(),
        "cpu": {
            "name": _cpu_name(),
            "threads": torch.get_num_threads(),
            "library": {"loaded": native.loaded, "reason": native.reason},
            "capability": cpu_path(),
        },
        "cuda_library": {"loaded": native.cuda_loaded, "reason": native.cuda_reason},
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "build": native.build_info(),
        "backends": {kind: why_not(kind) for kind in ("cpu", "cuda")},
        "environment": {name: os.environ.get(name) for name in KNOBS},
    }


def _lines(facts: dict) -> list[str]:
    cpu, library = facts["cpu"], facts["cpu"]["library"]
    rows = [
        ("swin_fast", f"{facts['version']}  {facts['location']}"),
        ("python", facts["python"]),
        ("torch", facts["torch"]),
        ("system", facts["os"]),
        ("CPU", f"{cpu['name']}, {cpu['threads']} of {os.cpu_count()} threads"),
        ("CPU library", f"loaded, runs the {cpu['capability']} path" if library["loaded"] else library["reason"]),
        ("CUDA library", facts["cuda_library"]["reason"] or "loaded"),
        ("GPU", ", ".join(facts["gpu"]) or "none that torch sees"),
    ]
    lines = [_row(*row) for row in rows]
    lines += ["", "built"] + [_row(f"  {k}", _plain(v)) for k, v in facts["build"].items()]
    lines += [] if facts["build"] else ["  nothing: this is a source tree"]
    for kind, reasons in facts["backends"].items():
        lines += ["", f"a {kind} tensor"]
        lines += [_row(f"  {name}", f"not used: {why}" if why else "runs") for name, why in reasons.items()]
    lines += ["", "environment"]
    for name, value in facts["environment"].items():
        lines.append(f"  {name:<26}{'(not set)' if value is None else value!r:<16}{KNOBS[name]}")
    return lines


def _row(name: str, text: str) -> str:
    return f"{name:<18}{text}"


def _plain(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
