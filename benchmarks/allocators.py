"""The settings of glibc's allocator in which everything is timed on a CPU.

glibc gives large blocks back to the system when they are freed and has them zeroed again in the next call, which costs
code that allocates much (the peers) dearly. So there is also a run with its memory kept, and a peer is credited with
the better of the two.
"""

from __future__ import annotations

ALLOCATORS = {"default": {}, "retain": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}}
CHOICES = (*ALLOCATORS, "both")  # of a command's --allocator


def chosen(allocator: str | None, device: str) -> list[str]:
    """The settings that a command's --allocator means: by default both on a CPU, and a GPU has its own allocator."""
    allocator = allocator or ("default" if device == "cuda" else "both")
    return list(ALLOCATORS) if allocator == "both" else [allocator]
