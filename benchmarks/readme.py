"""The README's measured section, made from the kept rows: python -m benchmarks.readme rewrites it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .peers import OURS
from .rows import ROOT, Row, read

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
README = ROOT / "README.md"


def newest(rows: Iterable[Row]) -> dict[tuple, dict[tuple[str, str], Row]]:
    """(op, shape, dtype, threads) -> (candidate, allocator) -> the row that was written last."""
    found: dict[tuple, dict[tuple[str, str], Row]] = {}
    for row in rows:
        place = (row.op, row.shape, row.dtype, row.threads)
        found.setdefault(place, {})[row.candidate, row.allocator] = row
    return found


def section(rows: list[Row]) -> str:
    """Tables in Markdown; everybody gets the better of the two allocator settings."""
    parts = []
    for device in dict.fromkeys(row.device for row in rows):
        groups = newest(row for row in rows if row.device == device)
        shown = [row for group in groups.values() for row in group.values()]
        torches, commits = ({getattr(row, name): None for row in shown} for name in ("torch", "commit"))
        parts.append(
            f"{device}; torch {', '.join(torches)}; rows of {', '.join(commits)}, until {shown[-1].date}. p50 in ms; T "
            "is threads; in brackets, how many times as long the peer takes. The attention core is timed with glibc as "
            "it is and with freed memory kept, and everybody gets the better time; for ours both are shown."
        )
        cores = {place: group for place, group in groups.items() if place[0].startswith("attention")}
        models = {place: group for place, group in groups.items() if place not in cores}
        if cores:
            parts.append(
                _table(
                    [
                        "what",
                        "shape",
                        "dtype",
                        "T",
                        "ours: as is, kept",
                        "best peer",
                        "best compiled peer",
                        "over the floor",
                    ],
                    cores,
                )
            )
        if models:
            parts.append(_models(models))
    return "\n\n".join(parts)


def _best(group: dict, compiled: bool) -> Row | None:
    peers = [row for (name, _), row in group.items() if name != OURS and name.endswith("compiled") == compiled]
    return min(peers, key=lambda row: row.p50_ms) if peers else None


def _cell(own: Row, peer: Row | None) -> str:
    return f"{peer.candidate} {peer.p50_ms:.2f} ({peer.p50_ms / own.p50_ms:.2f})" if peer else "-"


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _table(head: list[str], groups: dict) -> str:
    lines = []
    for (op, shape, dtype, threads), group in groups.items():
        ours = [row for (name, _), row in group.items() if name == OURS]
        if not ours:
            continue
        own = min(ours, key=lambda row: row.p50_ms)
        peers = _cell(own, _best(group, False)), _cell(own, _best(group, True))
        times = ", ".join(f"{row.p50_ms:.2f}" for row in sorted(ours, key=lambda row: row.allocator))
        lines.append([op, shape, dtype, str(threads), times, *peers, f"{own.over_floor:.2f}"])
    return _markdown(head, lines)


def _models(groups: dict) -> str:
    names = [name for name in dict.fromkeys(name for group in groups.values() for name, _ in group) if name != OURS]
    lines = []
    for (op, shape, dtype, threads), group in groups.items():
        own = group.get((OURS, "default"))
        if own is None:
            continue
        cells = []
        for name in names:
            times = [row.p50_ms for (candidate, _), row in group.items() if candidate == name]
            cells.append(f"{min(times):.1f} ({min(times) / own.p50_ms:.2f})" if times else "-")
        lines.append([op, shape, dtype, str(threads), f"{own.p50_ms:.1f}", *cells])
    return _markdown(["what", "shape", "dtype", "T", "ours", *names], lines)


def replaced(text: str, body: str) -> str:
    """`text` with `body` between the two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}"


def results() -> list[Row]:
    return [row for file in sorted(Path(ROOT, "benchmarks", "results").glob("*.csv")) for row in read(file)]


def main() -> None:
    README.write_text(replaced(README.read_text(encoding="utf-8"), section(results())), encoding="utf-8")


if __name__ == "__main__":
    main()
