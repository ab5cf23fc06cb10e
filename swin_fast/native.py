"""Loads the compiled libraries. Importing this never fails: the reason for a missing one is kept and shown on use."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import torch  # before the library, which takes torch's symbols from the process

_HERE = Path(__file__).parent


def _load(library: str) -> str:
    """Load a library, which registers its kernels with the dispatcher; the reason in words where that cannot be."""
    name = f"{__package__}.{library}"
    if importlib.util.find_spec(name) is None:
        return f"the compiled library {name} is missing from {_HERE}"
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"the compiled library {name} did not load with torch {torch.__version__} (needs 2.10 or newer): {error}"
    return ""


def build_info() -> dict:
    """What the build wrote down about this installation; empty for a source tree where nothing was built.

    Keys: version, cpu (instruction sets compiled in, lowest first), cpu_left_out (set -> why), torch_headers,
    torch_minimum, compiler, cuda (architectures compiled in, "sm_90a", and "compute_100" for PTX; None: no CUDA
    library), cuda_left_out (architecture -> why), cuda_toolkit (version), cuda_reason (why there is no CUDA library).
    """
    file = _HERE / "_build.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _load_cuda() -> str:
    if not torch.version.cuda:  # the library needs libtorch_cuda
        return f"torch {torch.__version__} is built without CUDA"
    not_built = build_info().get("cuda_reason")
    return f"the CUDA library was not built: {not_built}" if not_built else _load("_C_cuda")


reason = _load("_C")
loaded = not reason
cuda_reason = _load_cuda()
cuda_loaded = not cuda_reason


def cpu_capability() -> str:
    """The instruction set whose CPU kernels run: "avx512_bf16", "avx512", "avx2" or "portable"; "" without the library.

    The best one this processor has, unless SWIN_FAST_CPU_CAPABILITY names another; RuntimeError where that one is
    unknown, not built or not supported here.
    """
    return torch.ops.swin_fast.cpu_capability() if loaded else ""
