"""Which backend runs the op, and why. The environment is read once, at import; `use_backend` changes it for a block."""

from __future__ import annotations

import os
from contextlib import contextmanager

BACKENDS = ("auto", "cpu", "reference")  # a CUDA tensor has no kernel of its own yet

_backend = os.environ.get("SWIN_FAST_BACKEND", "auto").lower() or "auto"


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
