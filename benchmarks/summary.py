"""What a run says at its end: ours beside the closest peers, place by place."""

from __future__ import annotations

from .measure import CLEAN
from .places import newest
from .rows import Row

PEER = ["ms", "ours", "ratio", "by min"]  # `ours` is of the same process
HEAD = ["op", "shape", "dtype", "T", "closest peer", *PEER, "closest compiled peer", *PEER, "floor ms", "over"]


def summary(collected: list[Row]) -> str:
    """A line a place; how many times the floor is of ours."""
    lines = [HEAD]
    for place, timed in newest(collected).items():
        if not timed.own:
            continue
        line, shown = [place.op, place.shape, place.dtype, str(place.threads)], [timed.own]
        for compiled in (False, True):
            peer = timed.best(compiled)
            if not peer:
                line += ["-"] * (1 + len(PEER))
                continue
            ours = timed.against(peer)
            shown += [peer, ours]
            line += [f"{peer.candidate} ({peer.allocator})", f"{peer.p50_ms:.3f}", f"{ours.p50_ms:.3f}"]
            line += [f"{ratio:.2f}" for ratio in (peer.p50_ms / ours.p50_ms, peer.best_ms / ours.best_ms)]
        lines.append([*line, f"{timed.own.floor_ms:.3f}", f"{timed.own.over_floor:.2f}{busy(shown)}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(["", *text])


def busy(shown: list[Row]) -> str:
    """A remark where others had too much of the machine."""
    waited = max(row.waited for row in shown)
    return f" (busy: up to {waited:.0%} lost)" if waited > CLEAN else ""
