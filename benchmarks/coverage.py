"""How much of the registry the kept rows of a device cover."""

from __future__ import annotations

from .allocators import ALLOCATORS
from .group import COMPILED, dtype_name
from .places import Place, Timed
from .registry import GROUPS
from .rows import Row
from .tables import DTYPES


def text(rows: list[Row], found: dict[Place, Timed]) -> str:
    """Of each dtype how many groups have rows that count, how many compiled ones, and how many have each candidate's in
    both allocator settings."""
    on_gpu = not any(timed.threads for timed in found.values())
    counted = {(place, name): row.commit for place, timed in found.items() for name, row in timed.items()}
    settings: dict[tuple, dict[str, set[str]]] = {}  # suite, op, shape, dtype -> candidate -> allocators
    for row in rows:  # those of an older commit than the last are history
        place = Place(row.suite, row.op, row.shape, row.dtype, row.threads)
        if row.commit == counted[place, row.candidate]:
            key = row.suite, row.op, row.shape, row.dtype
            settings.setdefault(key, {}).setdefault(row.candidate, set()).add(row.allocator)
    parts = []
    for dtype, short in DTYPES.items():
        groups = [
            settings.get((g.suite, g.op, g.shape, dtype), {}) for g in GROUPS.values()
            if dtype_name(g.dtype) == dtype and ("cuda" if on_gpu else "cpu") in g.devices
        ]  # fmt: skip
        timed = list(filter(None, groups))
        if not timed:
            continue
        compiled = sum(any(name.endswith(COMPILED) for name in group) for group in timed)
        both = sum(all(taken >= set(ALLOCATORS) for taken in group.values()) for group in timed)
        parts.append(f"{short} {len(timed)} of {len(groups)}, {compiled} of them compiled, too")
        parts[-1] += "" if on_gpu else f", {both} with both allocator settings"
    return f"Groups of the registry that have rows: {'; '.join(parts)}." if parts else ""
