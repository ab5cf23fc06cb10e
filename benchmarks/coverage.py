"""How much of the registry the kept rows of a device cover."""

from __future__ import annotations

from .allocators import ALLOCATORS
from .group import dtype_name
from .places import Place, Timed, is_compiled
from .registry import GROUPS
from .rows import Row
from .tables import DTYPES


def text(rows: list[Row], found: dict[Place, Timed]) -> str:
    """How many of the registry's groups have rows that count, of each dtype: at all, compiled, with both allocators."""
    on_gpu = not any(timed.threads for timed in found.values())
    counted = {(place, name): row.commit for place, timed in found.items() for name, row in timed.items()}
    has: dict[tuple, set[str]] = {}
    for row in rows:  # those of an older commit than the last are history
        place = Place(row.suite, row.op, row.shape, row.dtype, row.threads)
        if row.commit == counted[place, row.candidate]:
            key = row.suite, row.op, row.shape, row.dtype
            has.setdefault(key, set()).update([row.allocator, *["compiled"] * is_compiled(row)])
    parts = []
    for dtype, short in DTYPES.items():
        groups = [
            has.get((g.suite, g.op, g.shape, dtype), set()) for g in GROUPS.values()
            if dtype_name(g.dtype) == dtype and ("cuda" if on_gpu else "cpu") in g.devices
        ]  # fmt: skip
        if any(groups):
            compiled, both = (sum(taken >= wanted for taken in groups) for wanted in ({"compiled"}, set(ALLOCATORS)))
            parts.append(f"{short} {sum(map(bool, groups))} of {len(groups)}, {compiled} of them compiled, too")
            parts[-1] += "" if on_gpu else f", {both} with both allocator settings"
    return f"Groups of the registry that have rows: {'; '.join(parts)}." if parts else ""
