"""The tables of the README's measured page: attention, whole models, accelerate()."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .group import COMPILED, REFERENCE, is_ours
from .places import OWN_COMPILED, Place, Timed, columns, is_compiled, is_slower, largest_batch
from .rows import Row

DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
MARKS = {"eager": "e", "sdpa": "s", "flex": "f", REFERENCE: "p"}  # of peers in the first table
FAMILIES = {
    "Swin-B, L": ("swin_b", "swin_l"), "Swin V2-T": ("swin_v2_t",), "Swin 3D-T": ("swin3d_t",), "SwinIR": ("swinir",),
    "Swin UNETR": ("swin_unetr",),
}  # fmt: skip
COLUMNS = (
    "timm", "torchvision", "transformers", "monai", "original", "plain", "compiled peer", "onnxruntime", "openvino",
    OWN_COMPILED,
)  # fmt: skip
# which lines leave first, from the last
FAMILY, TRAINING, OTHER_MODEL, HALF, FEWER_THREADS = 1, 2, 3, 4, 10


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


def span(texts: Iterable[str]) -> str:
    """The first and the last of sorted numbers."""
    texts = list(texts)
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]}-{texts[-1]}"


def attention(found: dict[Place, Timed]) -> Table:
    """Core of Swin-T a stage a line; other shapes, layer and block as ranges."""
    places = {p: t for p, t in found.items() if p.suite in ("core", "layer", "block") and t.own}
    settings = sorted({(p.dtype, p.threads): on(t) for p, t in places.items()}.items(), key=lambda s: half_last(*s[0]))
    lines = []

    def add(name: str, chosen: dict[Place, Timed], rank: int = 0) -> None:
        by_setting = [[t for p, t in chosen.items() if (p.dtype, p.threads) == s] for s, _ in settings]
        if any(by_setting):
            lines.append(Line([name, *map(cell, by_setting)], rank))

    batch = largest_batch(places)
    directions = dict.fromkeys(p.op.removeprefix("attention ") for p in places if p.suite == "core")
    for direction in directions:
        core = {p: t for p, t in places.items() if p.op == f"attention {direction}"}
        stages = [p.shape for p in core if p.label.startswith("swin_t-") and p.shape.startswith(batch)]
        for shape in dict.fromkeys(stages):
            add(f"{direction} {shape}", {p: t for p, t in core.items() if p.shape == shape})
    for name, models in FAMILIES.items():
        core = {p: t for p, t in places.items() if p.op == "attention forward"}
        add(f"forward, {name}", {p: t for p, t in core.items() if p.label.partition("-")[0] in models}, FAMILY)
    for suite in ("layer", "block"):
        stages = {p: t for p, t in places.items() if p.op == f"{suite} forward" and p.label.startswith("swin_t-")}
        add(f"{suite} forward, Swin-T", stages)
    names = [f"{DTYPES[dtype]}{threads}" for (dtype, _), threads in settings]
    return Table(["attention: ours ms · best peer · best compiled · over the floor", *names], lines)


def cell(several: list[Timed]) -> str:
    """Ours, the best peer and the best compiled one as its multiples, ours over the floor; ranges of several places."""
    if not several:
        return "-"
    kinds = [[t.best(compiled) for t in several] for compiled in (False, True)]
    if len(several) == 1:
        (timed,) = several
        ours = [row for name, row in timed.items() if is_ours(name) and not name.endswith(COMPILED)]
        times = "/".join(f"{milliseconds(row.p50_ms)}{row.candidate.removeprefix('swin_fast')}" for row in ours)
        parts = [times, *(factor(timed.ratio(row), mark(row)) for (row,) in kinds), f"{timed.own.over_floor:.1f}"]
        return " · ".join(parts)
    parts = [span(milliseconds(ms) for ms in sorted(t.own.p50_ms for t in several))]
    for rows in kinds:
        ratios = sorted(t.ratio(row) for t, row in zip(several, rows, strict=True) if row)
        text = span(factor(ratio).strip("*") for ratio in ratios) if ratios else "-"
        parts.append(f"**{text}**" if ratios and is_slower(ratios[0]) else text)
    return " · ".join([*parts, span(f"{over:.1f}" for over in sorted(t.own.over_floor for t in several))])


def mark(row: Row | None) -> str:
    if row is None:
        return ""
    name = row.candidate.removesuffix(COMPILED)
    base = name.removesuffix(" on windows").removesuffix(" fused_attn")
    return MARKS.get(base, f" {base}") + "w" * name.endswith(" on windows")


def models(found: dict[Place, Timed]) -> Table:
    """Whole models: a line has a model, a dtype and a thread count, a cell the batches."""
    places = {p: t for p, t in found.items() if p.suite in ("model", "training") and t.own}
    groups: dict[tuple, dict[int, Timed]] = {}
    for place, timed in places.items():
        groups.setdefault((place.op, place.dtype, place.threads), {})[int(place.shape.partition("x")[0])] = timed
    most = max((p.threads for p in places), default=0)
    taken = {key: {b: columns(t, t.ratio) for b, t in by.items()} for key, by in groups.items()}
    names = [n for n in COLUMNS if any(n in c for by in taken.values() for c in by.values())]
    lines = []
    for (op, dtype, threads), by in sorted(groups.items(), key=lambda item: _order(*item[0])):
        batches = sorted(by)
        ours = " · ".join(milliseconds(by[b].own.p50_ms) for b in batches)
        cells = [" · ".join(factor(taken[op, dtype, threads][b].get(n)) for b in batches) for n in names]
        cells = ["-" if set(c.split(" · ")) == {"-"} else c for c in cells]
        rank = (OTHER_MODEL if not op.startswith("swin_t ") else TRAINING) + HALF * (dtype != "float32")
        rank = 0 if op == "swin_t inference" else rank + FEWER_THREADS * (threads < most)
        name = f"{op}, {DTYPES[dtype]}{on(by[batches[0]])}, B {' · '.join(map(str, batches))}"
        lines.append(Line([name, ours, *cells], rank))
    return Table(["model", "ours ms", *names], lines)


def on(timed: Timed) -> str:
    return f", T{timed.threads}" if timed.threads else ""


def half_last(dtype: str, threads: int) -> tuple[int, int]:
    return list(DTYPES).index(dtype), threads


def _order(op: str, dtype: str, threads: int) -> tuple:
    return not op.startswith("swin_t "), op, half_last(dtype, threads)


def accelerated(found: dict[Place, Timed]) -> Table:
    """A library's model over the same model after accelerate(); first as it is, then both compiled."""
    places = {p: t for p, t in found.items() if p.suite == "accelerate"}
    most = max((p.threads for p in places), default=0)
    where = next((on(timed) for p, timed in places.items() if p.threads == most), "")
    columns: dict[tuple[str, str], dict[int, None]] = {}
    ratios: dict[tuple, str] = {}
    for place, timed in places.items():
        what, _, library = place.op.partition(", ")
        batch = int(place.shape.partition("x")[0])
        if place.threads == most:
            columns.setdefault((what.removeprefix("swin_t "), place.dtype), {})[batch] = None
            for compiled in (False, True):
                ours = [row for name, row in timed.items() if is_ours(name) and is_compiled(row) == compiled]
                if (theirs := timed.best(compiled)) and ours:
                    ratios[library, what, place.dtype, batch, compiled] = factor(theirs.p50_ms / ours[0].p50_ms)
    lines = []
    for library in dict.fromkeys(library for library, *_ in ratios):
        cells = []
        for (what, dtype), batches in columns.items():
            each = [
                [ratios.get((library, f"swin_t {what}", dtype, b, compiled), "-") for b in sorted(batches)]
                for compiled in (False, True)
            ]
            cells.append("; ".join(" · ".join(values) for values in each))
        lines.append(Line([library, *cells]))
    names = [f"{w}, {DTYPES[d]}, B {' · '.join(map(str, sorted(b)))}" for (w, d), b in columns.items()]
    return Table([f"before over after `accelerate()`{where}; both compiled", *names], lines)
