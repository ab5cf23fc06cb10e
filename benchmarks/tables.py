"""The tables of the measured pages: of the README's what fits, of a device's own page every place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from .exported import ENGINES
from .group import COMPILED, REFERENCE, is_ours
from .places import OWN_COMPILED, Place, Timed, columns, comparisons, is_compiled, is_slower, largest_batch
from .rows import Row

DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
KINDS = {  # column of the overview -> whether the comparison with a peer at a place belongs there
    "attention": lambda p, peer: p.op == "attention forward",
    "attention and gradients": lambda p, peer: p.op == "attention forward+backward",
    "layer": lambda p, peer: p.suite == "layer",
    "block": lambda p, peer: p.suite == "block",
    "model": lambda p, peer: p.suite == "model" and not peer.endswith((COMPILED, *ENGINES)),
    "model, both compiled": lambda p, peer: p.suite == "model" and peer.endswith(COMPILED),
    "model, other runtimes": lambda p, peer: p.suite == "model" and peer in ENGINES,
    "training step": lambda p, peer: p.suite == "training",
    "before `accelerate()`": lambda p, peer: p.suite == "accelerate",
}
SUITES = {  # heading of a device's page -> suites whose places are listed there
    "Attention": ("core",), "Attention layer": ("layer",), "Block": ("block",), "Whole models": ("model", "training"),
}  # fmt: skip
COLUMNS = (
    "eager", "sdpa", "timm", "torchvision", "transformers", "monai", "original", "plain", "compiled peer",
    "onnxruntime", "openvino", OWN_COMPILED,
)  # fmt: skip
# which lines leave first, from the last
TRAINING, OTHER_MODEL, HALF = 1, 2, 3


@dataclass(frozen=True)
class Line:
    """Cells of a table's line. Of the lines with `rank` above 0 those with the highest leave first."""

    cells: list[str]
    rank: int = 0


@dataclass(frozen=True)
class Table:
    head: list[str]
    lines: list[Line]

    def __str__(self) -> str:
        cells = [self.head, ["---"] * len(self.head), *(line.cells for line in self.lines)]
        return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def factor(ratio: float | None, mark: str = "") -> str:
    if ratio is None:
        return "-"
    text = (f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}") + mark
    return f"**{text}**" if is_slower(ratio) else text


def milliseconds(ms: float) -> str:
    return f"{ms:.{0 if ms >= 100 else 1 if ms >= 10 else 2 if ms >= 0.1 else 3}f}"


def overview(devices: Iterable[dict[Place, Timed]]) -> Table:
    """A line a device and dtype: of the closest peers at each place the median ratio, and the least."""
    found = []
    for places in devices:
        for dtype in DTYPES:
            closest = {kind: [] for kind in KINDS}
            for place, timed in places.items():
                if place.dtype != dtype:
                    continue
                for kind, belongs in KINDS.items():
                    ratios = [ratio for peer, ratio in comparisons(place, timed) if belongs(place, peer)]
                    closest[kind] += sorted(ratios)[:1]
            if any(closest.values()):
                device = next(iter(next(iter(places.values())).values())).device
                found.append((f"{device}: {DTYPES[dtype]}", closest))
    kinds = [kind for kind in KINDS if any(closest[kind] for _, closest in found)]
    lines = [Line([name, *(_median(closest[kind]) for kind in kinds)]) for name, closest in found]
    return Table(["closest peer: median (least)", *kinds], lines)


def _median(ratios: list[float]) -> str:
    return f"{factor(median(ratios))} ({factor(min(ratios))})" if ratios else "-"


def stages(found: dict[Place, Timed]) -> Table:
    """The attention core at the stages of Swin-T, a stage a line, with most threads and pictures."""
    batch, most = largest_batch(found), most_threads(found, "core")
    places = {p: t for p, t in most.items() if p.label.startswith("swin_t-") and p.shape.startswith(batch)}
    settings = {(p.dtype, p.op): on(t) for p, t in places.items()}
    settings = dict(sorted(settings.items(), key=lambda item: (list(DTYPES).index(item[0][0]), item[0][1])))
    lines = []
    for shape in dict.fromkeys(p.shape for p in places):
        by_setting = {(p.dtype, p.op): t for p, t in places.items() if p.shape == shape}
        lines.append(Line([shape, *(cell(by_setting.get(setting)) for setting in settings)]))
    names = [f"{DTYPES[dtype]}{threads}: {op.removeprefix('attention ')}" for (dtype, op), threads in settings.items()]
    return Table(["ours ms · closest peer · closest compiled · times the floor", *names], lines)


def cell(timed: Timed | None) -> str:
    """Ours, the closest peer and the closest compiled one as its multiples, ours over the floor."""
    if not timed:
        return "-"
    ours = [row for name, row in timed.items() if is_ours(name) and not is_compiled(row)] or [timed.own]
    times = "/".join(f"{milliseconds(row.p50_ms)}{row.candidate.removeprefix('swin_fast')}" for row in ours)
    peers = [timed.best(compiled) for compiled in (False, True)]
    ratios = [factor(timed.ratio(row), f" {plain_name(row)}") if row else "-" for row in peers]
    return " · ".join([times, *ratios, f"{timed.own.over_floor:.1f}"])


def plain_name(row: Row) -> str:
    name = row.candidate.removesuffix(COMPILED).replace(REFERENCE, "plain")
    return name.removesuffix(" on windows").removesuffix(" fused_attn")


def models(found: dict[Place, Timed]) -> Table:
    """Whole models with most threads: a line has a model and a dtype, a cell the batches."""
    groups: dict[tuple, dict[int, Timed]] = {}
    for place, timed in most_threads(found, "model", "training").items():
        groups.setdefault((place.op, place.dtype), {})[batch_of(place)] = timed
    taken = {key: {b: columns(t, t.ratio) for b, t in by.items()} for key, by in groups.items()}
    names = [n for n in COLUMNS if any(n in c for by in taken.values() for c in by.values())]
    lines = []
    for (op, dtype), by in sorted(groups.items(), key=lambda item: _order(*item[0])):
        batches = sorted(by)
        ours = " · ".join(milliseconds(by[b].own.p50_ms) for b in batches)
        cells = [" · ".join(factor(taken[op, dtype][b].get(n)) for b in batches) for n in names]
        cells = ["-" if set(c.split(" · ")) == {"-"} else c for c in cells]
        rank = (OTHER_MODEL if not op.startswith("swin_t ") else TRAINING) + HALF * (dtype != "float32")
        name = f"{op}, {DTYPES[dtype]}{on(by[batches[0]])}, B {' · '.join(map(str, batches))}"
        lines.append(Line([name, ours, *cells], 0 if op == "swin_t inference" else rank))
    return Table(["model", "ours ms", *names], lines)


def most_threads(found: dict[Place, Timed], *suites: str) -> dict[Place, Timed]:
    """The places of `suites` with most threads."""
    chosen = {p: t for p, t in found.items() if p.suite in suites and t.own}
    most = max((p.threads for p in chosen), default=0)
    return {p: t for p, t in chosen.items() if p.threads == most}


def on(timed: Timed) -> str:
    return f", T{timed.threads}" if timed.threads else ""


def batch_of(place: Place) -> int:
    return int(place.shape.partition("x")[0])


def half_last(dtype: str, threads: int) -> tuple[int, int]:
    return list(DTYPES).index(dtype), threads


def _order(op: str, dtype: str) -> tuple:
    return not op.startswith("swin_t "), op, list(DTYPES).index(dtype)


def accelerated(found: dict[Place, Timed]) -> Table:
    """A library's model over the same model after accelerate(); first as it is, then both compiled."""
    places = most_threads(found, "accelerate")
    where = next(map(on, places.values()), "")
    settings: dict[tuple[str, str], dict[int, None]] = {}
    ratios: dict[tuple, str] = {}
    for place, timed in places.items():
        what, _, library = place.op.partition(", ")
        settings.setdefault((what.removeprefix("swin_t "), place.dtype), {})[batch_of(place)] = None
        for name, ratio in comparisons(place, timed):
            ratios[library, what, place.dtype, batch_of(place), name.endswith(COMPILED)] = factor(ratio)
    lines = []
    for library in dict.fromkeys(library for library, *_ in ratios):
        cells = []
        for (what, dtype), batches in settings.items():
            each = [
                [ratios.get((library, f"swin_t {what}", dtype, b, compiled), "-") for b in sorted(batches)]
                for compiled in (False, True)
            ]
            cells.append("; ".join(" · ".join(values) for values in each))
        lines.append(Line([library, *cells]))
    names = [f"{w}, {DTYPES[d]}, B {' · '.join(map(str, sorted(b)))}" for (w, d), b in settings.items()]
    return Table([f"before over after `accelerate()`{where}; both compiled", *names], lines)


def every(found: dict[Place, Timed], suites: Iterable[str]) -> Table:
    """A line a place of `suites`: ours, every kind of peer, and peak memory beside the leanest peer's."""
    places = {p: t for p, t in found.items() if p.suite in suites and t.own}
    ratios = {p: columns(t, t.ratio) for p, t in places.items()}
    names = [n for n in COLUMNS if any(n in by_name for by_name in ratios.values())]
    lines = []
    for place, timed in sorted(places.items(), key=lambda item: half_last(item[0].dtype, item[0].threads)):
        name = f"{place.label} " * (place.suite in ("core", "layer", "block"))
        cells = [f"{name}{place.op}, {place.shape}", f"{DTYPES[place.dtype]}{on(timed)}"]
        cells += [milliseconds(timed.own.p50_ms), f"{timed.own.over_floor:.1f}"]
        lines.append(Line([*cells, *(factor(ratios[place].get(n)) for n in names), *_memory(timed)]))
    return Table(["what", "on", "ours ms", "times the floor", *names, "ours MiB", "leanest peer"], lines)


def _memory(timed: Timed) -> list[str]:
    ours = timed.own.peak_extra_mib
    peers = columns(timed, lambda row: row.peak_extra_mib)
    least = min((mib for name, mib in peers.items() if name != OWN_COMPILED), default=None)
    known = ours > 0  # nan is unknown
    return [f"{ours:.1f}" if known else "-", factor(least / ours) if known and least else "-"]
