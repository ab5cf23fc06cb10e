"""Everything that can be timed, by name: "core/swin_t-stage1/b8/float32/forward", "model/swin_t/b1/float32", ...

Listing and choosing builds nothing; `Group.make` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from .group import Candidate, Group, Made
from .suites import accelerate, block, core, model

__all__ = ["DEFAULT", "GROUPS", "Candidate", "Group", "Made", "select"]

GROUPS: dict[str, Group] = {group.name: group for suite in (core, block, model, accelerate) for group in suite.GROUPS}
# a first look in a few minutes
DEFAULT = (
    "core/swin_t-*/b8/float32/forward",
    "layer/swin_t-stage1/b8/float32/forward",
    "block/swin_t-stage1/b8/float32/forward",
    "model/swin_t/b1/float32",
)


def select(patterns: Iterable[str], device: str = "cpu") -> list[Group]:
    """The groups of `device` that match a shell pattern, in the registry's order; ValueError where one matches none.

    "core" and "core/" mean all that begin so; * also covers slashes.
    """
    chosen = set()
    here = {name: group for name, group in GROUPS.items() if device in group.devices}
    for pattern in patterns:
        found = {n for n in here if fnmatchcase(n, pattern) or n.startswith(pattern.rstrip("/") + "/")}
        if not found:
            elsewhere = any(fnmatchcase(n, pattern) for n in GROUPS)
            raise ValueError(f"no group{' of this device' * elsewhere} matches {pattern!r}: see --list")
        chosen |= found
    return [group for name, group in here.items() if name in chosen]
