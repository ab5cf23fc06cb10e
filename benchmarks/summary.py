"""What a run says at its end: ours beside the best peers, group by group."""

from __future__ import annotations

from itertools import groupby

from .group import COMPILED, is_ours
from .measure import CLEAN
from .rows import Row

HEAD = [
    "op", "shape", "dtype", "T", "ours ms", "kept", "best peer", "ms", "ratio", "by min", "best compiled peer", "ms",
    "ratio", "by min", "floor ms", "over",
]  # fmt: skip


def place(row: Row) -> tuple:
    return row.op, row.shape, row.dtype, row.threads


def summary(collected: list[Row]) -> str:
    """Ours, not compiled, as the allocator is; the best peer of each kind with its better allocator; peer over ours."""
    lines = [HEAD]
    order = list(dict.fromkeys(place(row) for row in collected))
    for key, group in groupby(sorted(collected, key=lambda row: order.index(place(row))), place):
        group = list(group)
        ours = [row for row in group if is_ours(row.candidate) and not row.candidate.endswith(COMPILED)]
        if not ours:
            continue
        default = [row for row in ours if row.allocator == "default"]
        own = min(default or ours, key=lambda row: row.p50_ms)
        kept = [f"{row.p50_ms:.3f}" for row in ours if row.allocator == "retain"]
        line = [*map(str, key), f"{own.p50_ms:.3f}", *(kept[:1] or ["-"])]
        peers, shown = [row for row in group if not is_ours(row.candidate)], [own]
        for compiled in (False, True):
            kind = [row for row in peers if row.candidate.endswith(COMPILED) == compiled]
            if not kind:
                line += ["-"] * 4
                continue
            peer, least = min(kind, key=lambda row: row.p50_ms), min(row.best_ms for row in kind)
            shown.append(peer)
            ratios = peer.p50_ms / own.p50_ms, least / own.best_ms
            line += [f"{peer.candidate} ({peer.allocator})", f"{peer.p50_ms:.3f}", *(f"{r:.2f}" for r in ratios)]
        lines.append([*line, f"{own.floor_ms:.3f}", f"{own.over_floor:.2f}{busy(shown)}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(["", *text])


def busy(shown: list[Row]) -> str:
    """A remark where others had too much of the machine."""
    waited = max(row.waited for row in shown)
    return f" (busy: up to {waited:.0%} lost)" if waited > CLEAN else ""
