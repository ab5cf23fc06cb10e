"""The README's measured page, made from the kept rows: python -m benchmarks.readme rewrites it.

At most `LINES` lines a device. What does not fit is left out by its rank, and counted.
"""

from __future__ import annotations

import sys

from . import plot, tables
from .group import is_ours
from .peers import OURS
from .places import Place, Timed, ceilings, is_compiled, is_slower, newest, results
from .rows import ROOT, Row
from .tables import DTYPES, MARKS, REFERENCE, Table

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
README = ROOT / "README.md"
LINES = 40
SHOWN = 4  # peers of a suite that are faster
COMMANDS = (
    "python -m benchmarks.run core layer block --compiled --csv",
    "python -m benchmarks.run model training --compiled --csv",
    "python -m benchmarks.run accelerate --compiled --csv",
)


def page(rows: list[Row]) -> str:
    """One device: what was measured where, figures, tables."""
    found = newest(rows)
    kept = [t for t in (tables.attention(found), tables.models(found), tables.accelerated(found)) if t.lines]
    more, on_gpu = 0, not any(timed.threads for timed in found.values())
    while True:
        head = [machine(rows, found), legend(more, on_gpu), f"{slower(found)} {memory(found)}".strip(), figures(rows)]
        text = "\n\n".join(["\n".join(line for line in head if line), *map(str, kept)])
        last = max((line for table in kept for line in table.lines), key=lambda line: line.rank, default=None)
        if len(text.splitlines()) <= LINES or last is None or not last.rank:
            return text
        more += 1
        kept = [Table(t.head, [line for line in t.lines if line is not last]) for t in kept]
        kept = [t for t in kept if t.lines]


def machine(rows: list[Row], found: dict[Place, Timed]) -> str:
    """Device, versions, commits and ceilings."""
    place = {id(row): i for i, row in enumerate(rows)}
    shown = sorted((row for timed in found.values() for row in timed.values()), key=lambda row: place[id(row)])
    latest = shown[-1]
    versions = {part.strip() for row in shown for part in row.versions.split(";")}
    versions = sorted(v for v in versions if v and not v.startswith("out of"))
    torches = ", ".join(dict.fromkeys(row.torch for row in shown))
    commits: dict[str, dict[str, None]] = {}
    for row in shown:
        commits.setdefault(row.commit, {})[row.suite] = None
    older = [f"{commit} ({', '.join(suites)})" for commit, suites in commits.items() if commit != latest.commit]
    on = {(p.dtype, p.threads): tables.on(timed) for p, timed in found.items()}
    best = sorted(ceilings(found).items(), key=lambda item: tables.half_last(*item[0]))
    most = [f"{DTYPES[key[0]]}{on[key]}: {flops:.0f}, {moved:.0f}" for key, (flops, moved) in best]
    return (
        f"**{latest.device}**; {', '.join([f'torch {torches}', f'swin_fast {latest.swin_fast}', *versions])}. "
        f"Rows of commit {latest.commit}{'; older ones of ' + ', '.join(older) if older else ''}, until {latest.date}. "
        f"Best of the machine (T is threads), GFLOP/s of a matrix product and GB/s of a copy: {'; '.join(most)}."
    )


def legend(more: int, on_gpu: bool) -> str:
    commands = [command + " --device cuda" * on_gpu for command in COMMANDS]
    marks = ", ".join(f"{mark} {name.replace(REFERENCE, 'our plain PyTorch')}" for name, mark in MARKS.items())
    return (
        "ms are medians (p50), B is the batch. A number without unit says how many times as long as ours (uncompiled) "
        "a peer takes; **bold**: the peer is faster. Each candidate has the better of the allocator settings it was "
        f"timed with. Peers of the attention: {marks}; w: rolled and partitioned before the qkv Linear. "
        f"Commands, a table each: `{'`, `'.join(commands)}`; figures: `python -m benchmarks.plot`"
        + (f". {more} more {'line is' if more == 1 else 'lines are'} in the CSV." if more else ".")
    )


def slower(found: dict[Place, Timed]) -> str:
    """In how many comparisons with a single peer ours loses; of `accelerate`, compiled is held against compiled."""
    suites: dict[str, list[tuple[str, float]]] = {}
    for place, timed in found.items():
        for name, row in timed.items():
            if place.suite == "scaling" or is_ours(name) or not timed.own:
                continue
            own = timed.own
            if place.suite == "accelerate":
                own = next((r for n, r in timed.items() if is_ours(n) and is_compiled(r) == is_compiled(row)), own)
            suites.setdefault(place.suite, []).append((name, row.p50_ms / own.p50_ms))
    lost = {suite: [(ratio, name) for name, ratio in each if is_slower(ratio)] for suite, each in suites.items()}
    named = []
    for suite, each in lost.items():
        least: dict[str, float] = {}
        for ratio, name in sorted(each):
            least.setdefault(name, ratio)
        names = [f"{name} {ratio:.2f}" for name, ratio in least.items()]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            named.append(f"{suite} {len(each)} of {len(suites[suite])} ({', '.join(names[:SHOWN])}{more})")
    count, losses = (sum(map(len, part.values())) for part in (suites, lost))
    text = f"Of {count} comparisons with a peer at a place ours is faster in {count - losses}"
    return f"{text}; slower (and the least ratio of each) in: {'; '.join(named)}." if named else f"{text}."


def memory(found: dict[Place, Timed]) -> str:
    """Peak memory beyond inputs and parameters, as multiples of ours."""
    parts = []
    for place, bars in plot.memory_bars(found).items():
        own = bars[OURS]
        peers = ", ".join(
            f"{plot.charts.label(name)} {mib / own:.1f}" for name, mib in bars.items() if name != plot.OURS
        )
        parts.append(f"{place.op} {place.shape} {own:.0f} MiB ({peers})")
    text = "Peak memory beyond inputs and parameters, f32, and how many times as much the peers take"
    return f"{text}: {'; '.join(parts)}." if parts else ""


def figures(rows: list[Row]) -> str:
    """Two a line; a click opens one."""
    return " ".join(
        f'<img src="benchmarks/figures/{stem}.svg" alt="{figure.alt}" width="49%">'
        for stem, (figure, _) in plot.drawn(rows).items()
    )


def replaced(text: str, body: str) -> str:
    """`text` with `body` between the two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}"


def section(devices: dict[str, list[Row]]) -> str:
    return "\n\n".join(page(rows) for rows in devices.values())


def main() -> None:
    README.write_text(replaced(README.read_text(encoding="utf-8"), section(results())), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
