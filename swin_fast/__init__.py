"""swin_fast: fused kernels for Swin window attention, as an op, drop-in modules and whole models."""

__version__ = "0.1.0"

from . import functional
from .dispatch import use_backend

__all__ = ["functional", "use_backend"]
