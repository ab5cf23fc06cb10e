"""Draws the numbers of benchmarks.plot. Ours has the same colour everywhere; the palette is Okabe and Ito's.

Each figure is about 7 inches wide, so that its text can be read where the README shows two side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import LogLocator, StrMethodFormatter  # noqa: E402

from .group import COMPILED  # noqa: E402
from .peers import OURS  # noqa: E402

COLOURS = {
    OURS: "#d55e00", "eager": "#56b4e9", "sdpa": "#0072b2", "flex": "#cc79a7", "timm": "#009e73",
    "torchvision": "#0072b2", "transformers": "#56b4e9", "monai": "#f0e442", "original": "#f0e442",
    "plain": "#bbbbbb", "compiled peer": "#cc79a7", "onnxruntime": "#000000", "openvino": "#e69f00",
    "ours compiled": "#f5a06b", "best peer": "#0072b2",
}  # fmt: skip
OTHER = "#999999"
LOWEST_END, HIGHEST_END = 2.0, 8.0  # of the bars' axis; a longer bar ends there, under its number
LABELS = {OURS: "swin_fast (ours)", "plain": "our plain PyTorch", "compiled peer": "best compiled peer"}
DTYPES = {"float32": ("#333333", "o", "-"), "bfloat16": ("#777777", "s", "--"), "float16": ("#aaaaaa", "^", ":")}
STYLE = {
    "svg.hashsalt": "swin_fast", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.titlesize": 11, "grid.alpha": 0.3, "legend.frameon": False, "legend.fontsize": 10,
    "legend.columnspacing": 1.2, "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip


def style():
    """The context in which to draw and save."""
    return pyplot.rc_context(STYLE)


def colour(name: str) -> str:
    return COLOURS.get(name, COLOURS.get(name.removesuffix(COMPILED), OTHER))


def hatch(name: str) -> str:
    return "///" if "compiled" in name else ""


def label(name: str) -> str:
    return LABELS.get(name, name.replace("plain", "plain PyTorch"))


def save(figure, stem: Path, digest: str, device: str) -> None:
    """Both files, the same bytes for the same numbers: no date, no version of matplotlib."""
    about = {"Title": device, "Description": digest}
    figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata=about | {"Date": None, "Creator": None})
    png = stem.with_name(f"{stem.name}.png")
    figure.savefig(png, dpi=110, metadata=about | {"Software": None}, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def _subplots(rows: int, columns: int, width: float, height: float, **options):
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


def _legend(figure, handles: dict, columns: int = 4, title: str | None = None) -> None:
    """Above all axes, ours first."""
    ours = {name: handle for name, handle in handles.items() if name == LABELS[OURS]}
    handles = ours | handles
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(columns, len(handles)), title=title)


def speedup(panels: Sequence[dict]):
    """Bars of time over ours' time; ours is the line at 1."""
    crowded = max(len(panel["places"]) for panel in panels) > 4
    columns = 1 if crowded else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    known = list(COLOURS)
    names = sorted({name for panel in panels for name in panel["bars"]}, key=lambda n: (*_rank(n, known), n))
    figure, axes = _subplots(rows, columns, 7.4, (2.9 if crowded else 2.5) * rows + 0.7, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles, end = {}, bars_end(panels)
    for panel, axis in zip(panels, axes.flat, strict=False):
        width, longer = 0.84 / len(names), {}
        for i, name in enumerate(names):
            bars = panel["bars"].get(name, {})
            at = [(k - 0.42 + (i + 0.5) * width, bars[p]) for k, p in enumerate(panel["places"]) if p in bars]
            if not at:
                continue
            drawn = axis.bar(
                [x for x, _ in at], [min(ratio, end) for _, ratio in at], width, color=colour(name),
                hatch=hatch(name), edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            handles.setdefault(label(name), drawn)
            for x, ratio in at:
                if ratio > end:
                    longer.setdefault(round(x), []).append((x, f"{ratio:.1f}"))
        for them in longer.values():  # of one place, in the order of its bars
            middle = sum(x for x, _ in them) / len(them)
            axis.annotate(" · ".join(n for _, n in them), (middle, end), ha="center", va="bottom", fontsize=8)
        handles.setdefault(label(OURS), axis.axhline(1, color=COLOURS[OURS], linewidth=2.5))
        names_below, turned = panel["places"], len(panel["places"]) > 8
        if turned:
            names_below = [place.replace("\n", ", ") for place in names_below]
        turn = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        axis.set_xticks(range(len(names_below)), names_below, fontsize=9, **turn)
        axis.set_title(panel["title"])
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 1.15 * end)
    for axis in axes[:, 0]:
        axis.set_ylabel("time, ours = 1")
    _legend(
        figure, handles, title="of compiled peers: ours compiled = 1" if label("compiled peer") in handles else None
    )
    return figure


def bars_end(panels: Sequence[dict]) -> float:
    """Where the axis ends, so that a few long bars do not flatten the others: half as far again as 9 of 10 bars."""
    lengths = sorted(ratio for panel in panels for bars in panel["bars"].values() for ratio in bars.values())
    return min(max(1.5 * lengths[math.ceil(0.9 * len(lengths)) - 1], LOWEST_END), HIGHEST_END)


def _rank(name: str, known: list[str]) -> tuple[int, bool]:
    base = name if name in known else name.removesuffix(COMPILED)
    return known.index(base) if base in known else len(known), name != base


def roofline(data: dict):
    """Rates against operations a byte, under the measured ceilings."""
    figure, ((axis,),) = _subplots(1, 1, 7.4, 5.6)
    intensities, rates = ([point[i] for point in data["points"]] for i in (3, 4))
    low, high = min(min(intensities) / 4, 2), max(intensities) * 2
    for dtype, (flops, bandwidth) in data["ceilings"].items():
        ink, _, line = DTYPES[dtype]
        bend = max(low, flops / bandwidth)
        heights = [min(flops, x * bandwidth) for x in (low, bend, high)]
        axis.plot(
            [low, bend, high], heights, line, color=ink, label=f"{dtype}: {flops:.0f} GFLOP/s, {bandwidth:.0f} GB/s"
        )
    for kind, dtype in dict.fromkeys((kind, dtype) for kind, dtype, *_ in data["points"]):
        chosen = [(x, y) for k, d, _, x, y in data["points"] if (k, d) == (kind, dtype)]
        axis.scatter(
            *zip(*chosen, strict=True), s=48, marker=DTYPES[dtype][1], color=colour(kind), edgecolor="white",
            linewidth=0.6, label=f"{label(kind)}, {dtype}", zorder=3,
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", ylabel="GFLOP/s")
    axis.set_xlabel("operations a byte, every byte moved once; upright: the window")
    ticks = [2**i for i in range(1, 12) if low <= 2**i <= high]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    bottom = min(rates) / 3
    axis.set_ylim(bottom=bottom)
    for x, window in {x: window for _, _, window, x, _ in data["points"]}.items():
        axis.annotate(
            window, (x, bottom), (0, 4), textcoords="offset points", rotation=90, fontsize=8.5,
            ha="center", va="bottom", color="#444444",
        )  # fmt: skip
    axis.set_title(f"{data['title']}; lines: what the machine can do")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def memory(panels: Sequence[dict]):
    """Bars of peak memory beyond inputs and parameters."""
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = _subplots(rows, columns, 8.2, 2.7 * rows)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        names = list(panel["bars"])[::-1]
        values = [panel["bars"][name] for name in names]
        bars = axis.barh(
            [label(name) for name in names], values, color=[colour(name) for name in names], edgecolor="white",
            hatch=[hatch(name) for name in names], linewidth=0.4,
        )  # fmt: skip
        axis.bar_label(bars, [f" {value:.0f}" for value in values], fontsize=9)
        axis.set_xlim(right=max(values) * 1.2)
        axis.set_title(panel["title"], fontsize=10)
        axis.tick_params(axis="y", labelsize=9)
        axis.grid(axis="y", visible=False)
    figure.supxlabel("peak MiB beyond inputs and parameters", fontsize=11)
    return figure


def scaling(data: dict):
    """Time a token and peak memory, against resolution and batch; a cross is where memory ended."""
    figure, axes = _subplots(2, len(data["curves"]), 7.8, 6.2, sharey="row", sharex="col")
    handles, ends = {}, {}
    for column, (axis_name, points) in zip(axes.T, data["curves"].items(), strict=True):
        for name in dict.fromkeys(point[0] for point in points):
            curve = [point[1:] for point in points if point[0] == name]
            for axis, which in zip(column, (1, 2), strict=True):
                known = [(p[0], p[which]) for p in curve if p[which] is not None]
                if not known:
                    continue
                order = 4 if name == OURS else 3
                (line,) = axis.plot(*zip(*known, strict=True), "o-", color=colour(name), markersize=4, zorder=order)
                handles.setdefault(label(name), line)
                if any(p[1] is None for p in curve):
                    axis.plot(*known[-1], "x", color=colour(name), markersize=11, markeredgewidth=2.5)
                    (grey,) = axis.plot([], [], "x", color="#555555", markersize=9, markeredgewidth=2)
                    ends.setdefault(data["end"], grey)
        column[0].set(xscale="log")
        column[1].set(xscale="log", yscale="log", xlabel=axis_name)
        ticks = sorted({point[1] for point in points})
        for axis in column:
            axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=9, rotation=60)
            axis.minorticks_off()
    each = [point[2] for points in data["curves"].values() for point in points if point[2] is not None]
    axes[0, 0].set_ylim(0, 1.1 * max(each))
    peaks = [point[3] for points in data["curves"].values() for point in points if point[3]]
    if peaks:
        wide = max(peaks) > 300 * min(peaks)  # then powers of ten are numbers enough
        axes[1, 0].yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes[1, 0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0, 0].set_ylabel("microseconds a token")
    axes[1, 0].set_ylabel("peak MiB beyond inputs")
    _legend(figure, handles | ends, 5, data["title"])
    return figure
