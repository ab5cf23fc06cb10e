"""`accelerate(model)`: the Swin model of another library on our kernels. No library is imported from here."""

from .apply import accelerate, restore
from .report import Entry, Report

__all__ = ["Entry", "Report", "accelerate", "restore"]
