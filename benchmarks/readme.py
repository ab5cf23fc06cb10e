"""The measured pages, made from the kept rows: python -m benchmarks.readme rewrites them.

The README's has at most `LINES` lines: what does not fit is left out by its rank, and counted. Each device has a page
of its own beside its rows, with every place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import coverage, plot, tables
from .peers import OURS
from .places import Place, Timed, ceilings, comparisons, is_slower, newest, on_gpu, results
from .rows import ROOT, Row
from .tables import DTYPES, Table

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
README, FOLDER = ROOT / "README.md", ROOT / "benchmarks" / "results"
LINES = 40
SHOWN = 4  # peers of a suite that are faster
COMMANDS = (
    "python -m benchmarks.run core layer block --compiled --csv",
    "python -m benchmarks.run model training --compiled --csv",
    "python -m benchmarks.run accelerate --compiled --csv",
)
HOW_TO_READ = (
    "Candidates are checked against float64 and then timed in turn, in one process. ms are medians (p50), B is the "
    "batch, T threads. A number without unit says how many times as long as ours a peer takes in the same process, "
    "compiled as ours compiled, with the best for it of the allocator settings that it was timed with; **bold**: the "
    "peer is faster. The floor is what bytes and operations need at the machine's best."
)


def section(devices: dict[str, list[Row]]) -> str:
    """The README's page: all devices in one table, and more of the first of `ranked`."""
    ordered = ranked(devices)
    rows, found = devices[ordered[0]], newest(devices[ordered[0]])
    parts = [tables.stages(found), tables.models(found), tables.accelerated(found)]
    more = 0
    while True:
        kept = [str(table) for table in parts if table.lines]
        option = " --device cuda" * on_gpu(found)
        last = f"Commands, a table each: `{'`, `'.join(command + option for command in COMMANDS)}`"
        last += f". {more} more {'line is' if more == 1 else 'lines are'} on the page of the device." * bool(more)
        head = [HOW_TO_READ, str(tables.overview(map(newest, (devices[name] for name in ordered)))), figures(rows)]
        text = "\n\n".join([*head, machine(rows, found), *kept, f"{slower(found)} {memory(found)}".strip(), last])
        least = max((line for table in parts for line in table.lines), key=lambda line: line.rank, default=None)
        if len(text.splitlines()) <= LINES or least is None or not least.rank:
            return text
        more += 1
        parts = [Table(table.head, [line for line in table.lines if line is not least]) for table in parts]


def ranked(devices: dict[str, list[Row]]) -> list[str]:
    """A GPU first, then the device with most comparisons."""

    def key(name: str) -> tuple:
        found = newest(devices[name])
        return on_gpu(found), sum(len(comparisons(place, timed)) for place, timed in found.items())

    return sorted(devices, key=key, reverse=True)


def page(rows: list[Row]) -> str:
    """The page of one device, with every place."""
    found = newest(rows)
    parts = [f"# {rows[-1].device}", "Written by `python -m benchmarks.readme` from the rows beside it.", HOW_TO_READ]
    parts += [versions(rows, found), lost(found), figures(rows, "../figures")]
    for heading, suites in tables.SUITES.items():
        table = tables.every(found, suites)
        parts += [f"## {heading}", str(table)] if table.lines else []
    table = tables.accelerated(found)
    parts += ["## `accelerate()`", str(table)] if table.lines else []
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(rows: list[Row], found: dict[Place, Timed]) -> list[Row]:
    """The rows that count, in the order in which they were measured."""
    place = {id(row): i for i, row in enumerate(rows)}
    return sorted((row for timed in found.values() for row in timed.values()), key=lambda row: place[id(row)])


def best_rates(found: dict[Place, Timed]) -> str:
    on = {(p.dtype, p.threads): tables.on(timed) for p, timed in found.items()}
    best = sorted(ceilings(found).items(), key=lambda item: tables.half_last(*item[0]))
    return "; ".join(f"{DTYPES[key[0]]}{on[key]}: {flops:.0f}, {moved:.0f}" for key, (flops, moved) in best)


def machine(rows: list[Row], found: dict[Place, Timed]) -> str:
    """Device, versions and ceilings, in a line."""
    latest = shown(rows, found)[-1]
    file = f"benchmarks/results/{plot.slug(latest.device)}.md"
    return (
        f"**{latest.device}**, torch {latest.torch}, rows until {latest.date}. The machine's best, GFLOP/s of a matrix "
        f"product and GB/s of a copy: {best_rates(found)}. {coverage.text(found)} "
        f"[All places, peers, versions and figures]({file})."
    )


def versions(rows: list[Row], found: dict[Place, Timed]) -> str:
    """Ceilings, versions and commits, as a list."""
    counted = shown(rows, found)
    latest = counted[-1]
    libraries = {part.strip() for row in counted for part in row.versions.split(";")}
    libraries = sorted(v for v in libraries if v and not v.startswith("out of"))
    torches = ", ".join(dict.fromkeys(row.torch for row in counted))
    commits: dict[str, dict[str, None]] = {}
    for row in counted:
        commits.setdefault(row.commit, {})[row.suite] = None
    lines = [
        f"The machine's best, GFLOP/s of a matrix product and GB/s of a copy: {best_rates(found)}",
        coverage.text(found).removesuffix("."),
        f"Versions: {', '.join([f'torch {torches}', f'swin_fast {latest.swin_fast}', *libraries])}",
        f"Rows until {latest.date}, of the commits " + ", ".join(f"{c} ({', '.join(s)})" for c, s in commits.items()),
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def slower(found: dict[Place, Timed]) -> str:
    """In how many comparisons with a single peer ours loses."""
    suites: dict[str, list[tuple[str, float]]] = {}
    for place, timed in found.items():
        suites.setdefault(place.suite, []).extend(comparisons(place, timed))
    losses = {suite: [(ratio, name) for name, ratio in each if is_slower(ratio)] for suite, each in suites.items()}
    named = []
    for suite, each in losses.items():
        least: dict[str, float] = {}
        for ratio, name in sorted(each):
            least.setdefault(name, ratio)
        names = [f"{name} {ratio:.2f}" for name, ratio in least.items()]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            named.append(f"{suite} {len(each)} of {len(suites[suite])} ({', '.join(names[:SHOWN])}{more})")
    count, lost_ones = (sum(map(len, part.values())) for part in (suites, losses))
    text = f"Of {count} comparisons with a peer at a place ours is faster in {count - lost_ones}"
    return f"{text}; slower (and the least ratio of each) in: {'; '.join(named)}." if named else f"{text}."


def lost(found: dict[Place, Timed]) -> str:
    """Every comparison in which a peer is faster."""
    lines = [
        tables.Line([f"{place.op}, {place.shape}", f"{DTYPES[place.dtype]}{tables.on(timed)}", name, f"{ratio:.2f}"])
        for place, timed in found.items()
        for name, ratio in comparisons(place, timed)
        if is_slower(ratio)
    ]
    table = f"\n\n{Table(['what', 'on', 'faster peer', 'its time, ours = 1'], lines)}" if lines else ""
    return f"## Slower than a peer\n\n{slower(found)}{table}"


def memory(found: dict[Place, Timed]) -> str:
    """Peak memory beyond inputs and parameters, as multiples of ours."""
    parts = []
    for place, bars in plot.memory_bars(found).items():
        each = [mib / bars[OURS] for name, mib in bars.items() if name != OURS]
        text = tables.factor(min(each)) + (f" to {tables.factor(max(each))}" if len(each) > 1 else "")
        parts.append(f"{place.op} {place.shape} {bars[OURS]:.0f} MiB, {text}")
    text = "Peak memory of ours beyond inputs and parameters, f32, and how many times as much the peers take"
    return f"{text}: {'; '.join(parts)}." if parts else ""


def figures(rows: list[Row], folder: str = "benchmarks/figures") -> str:
    """Two a line; a click opens one."""
    return " ".join(
        f'<img src="{folder}/{stem}.svg" alt="{figure.alt}" width="49%">'
        for stem, (figure, _) in plot.drawn(rows).items()
    )


def replaced(text: str, body: str) -> str:
    """`text` with `body` between the two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}"


def pages(devices: dict[str, list[Row]], folder: Path = FOLDER) -> dict[Path, str]:
    """File -> text, of each device."""
    return {folder / f"{plot.slug(name)}.md": page(rows) for name, rows in devices.items()}


def main() -> None:
    devices = results()
    README.write_text(replaced(README.read_text(encoding="utf-8"), section(devices)), encoding="utf-8")
    wanted = pages(devices)
    for file in FOLDER.glob("*.md"):
        if file not in wanted:
            file.unlink()
    for file, text in wanted.items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
