"""How much of the registry the kept rows of a device cover."""

from __future__ import annotations

from .allocators import ALLOCATORS
from .group import COMPILED, dtype_name
from .places import Place, Timed, on_gpu
from .registry import GROUPS
from .tables import DTYPES


def text(found: dict[Place, Timed]) -> str:
    """Of each dtype how many groups have rows that count, how many compiled ones, and how many have each candidate's in
    both allocator settings."""
    device = "cuda" if on_gpu(found) else "cpu"
    settings: dict[tuple, dict[str, set[str]]] = {}  # suite, op, shape, dtype -> candidate -> allocators
    for place, timed in found.items():
        group = settings.setdefault((place.suite, place.op, place.shape, place.dtype), {})
        for name, allocators in timed.allocators.items():
            group[name] = group.get(name, set()) | allocators
    parts = []
    for dtype, short in DTYPES.items():
        groups = [
            settings.get((g.suite, g.op, g.shape, dtype), {}) for g in GROUPS.values()
            if dtype_name(g.dtype) == dtype and device in g.devices
        ]  # fmt: skip
        timed = list(filter(None, groups))
        if not timed:
            continue
        compiled = sum(any(name.endswith(COMPILED) for name in group) for group in timed)
        both = sum(all(taken >= set(ALLOCATORS) for taken in group.values()) for group in timed)
        parts.append(f"{short} {len(timed)} of {len(groups)}, {compiled} of them compiled, too")
        parts[-1] += "" if device == "cuda" else f", {both} with both allocator settings"
    return f"Groups of the registry that have rows: {'; '.join(parts)}." if parts else ""
