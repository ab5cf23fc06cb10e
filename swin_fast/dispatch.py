"""Which backend runs the op, and why. The environment is read once, at import; `use_backend` changes it for a block."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager

import torch

from . import native

BACKENDS = ("auto", "cpu", "reference")

_backend = os.environ.get("SWIN_FAST_BACKEND", "").lower() or "auto"
_said: set[str] = set()


def forced_backend() -> str:
    """The backend asked for: "auto" unless SWIN_FAST_BACKEND or `use_backend` says otherwise."""
    if _backend not in BACKENDS:
        raise ValueError(f"SWIN_FAST_BACKEND must be one of {BACKENDS}, got {_backend!r}")
    return _backend


@contextmanager
def use_backend(name: str):
    """Run the op on the named backend inside the block: "auto", "cpu" or "reference" (plain PyTorch).

    The choice is one for the process, not for a thread. Asking for a backend that cannot run raises in the call.
    """
    global _backend
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {name!r}")
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


def why_not_cpu(device_type: str) -> str:
    """Why the CPU kernels cannot take a tensor of this device; empty where they can."""
    if device_type not in ("cpu", "meta"):  # a meta tensor takes the op's shape function
        return f"there is no kernel for {device_type} tensors"
    return native.reason


def choose(device_type: str) -> str:
    """The backend that runs for a tensor of this device, "cpu" or "reference".

    Raises RuntimeError where the CPU kernels were asked for by name and cannot run. Where plain PyTorch runs although
    nobody asked for it, a warning says so once and why.
    """
    forced = forced_backend()
    reason = why_not_cpu(device_type)
    if forced == "reference" or (reason and forced == "auto"):
        if forced == "auto" and not torch.compiler.is_compiling() and reason not in _said:
            _said.add(reason)
            warnings.warn(f"swin_fast: window attention runs as plain PyTorch, because {reason}", stacklevel=4)
        return "reference"
    if reason:
        raise RuntimeError(f"swin_fast: the backend 'cpu' was asked for, but {reason}")
    return "cpu"
