"""The demo's picture: what a shifted window is, what one query attends to, and what fusing it buys."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from ..geometry import num_windows
from .attention import Core, QueryAttention
from .common import UserError, need

INK, MUTED, REFERENCE, FUSED, ACCENT = "#1d2733", "#6b7785", "#a9b4c0", "#e4572e", "#ffd23f"
WIDTH, HEIGHT, MARGIN, SIDE, GAP = 14.4, 11.95, 0.45, 4.2, 0.45  # inches
TEXT = {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": MUTED}


class Bars(NamedTuple):
    """One pair of bars: `values` are the reference road's and the fused road's, in `unit`."""

    title: str
    unit: str
    values: tuple[float, float]
    words: tuple[str, str]  # what the fused road is when its value is below and above: ("faster", "slower")

    @property
    def ratio(self) -> str:
        plain, fused = self.values
        if min(self.values) <= 0:
            return ""
        return f"{plain / fused:.2f}x {self.words[0]}" if plain >= fused else f"{fused / plain:.2f}x {self.words[1]}"


def check_output(path: str) -> Path:
    """The path to write to; raises before any work is done where it cannot be written."""
    output = Path(path)
    if output.is_dir():
        raise UserError(f"--output must be a file, {path} is a directory")
    if not output.parent.is_dir():
        raise UserError(f"there is no directory {output.parent} to write {output.name} to")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"the directory {output.parent} is not writable")
    return output


def draw(
    output: Path, square, patch: int, size: int, pair: list[tuple[Core, QueryAttention]], bars: list[Bars], title: str
) -> None:
    """Write the figure to `output` as PNG, whole or not at all.

    Args:
        square: the PIL picture that the model saw, at any resolution.
        patch: pixels of the model's input to a token.
        size: side of the model's input in pixels; all panels use its coordinates.
        pair: the first block of stage 1 and the one after it (shifted), each with one query's attention.
        bars: shown at the lower right, each with its own scale.
        title: one line over everything.
    """
    matplotlib = need("matplotlib", "matplotlib")
    figure_class = need("matplotlib.figure", "matplotlib").Figure  # no pyplot: no window system, no global state
    with matplotlib.rc_context(TEXT):
        figure = figure_class(figsize=(WIDTH, HEIGHT), dpi=110, facecolor="white")
        figure.text(MARGIN / WIDTH, 1 - 0.5 / HEIGHT, "swin_fast", fontsize=22, fontweight="bold", va="center")
        figure.text(MARGIN / WIDTH, 1 - 0.85 / HEIGHT, title, fontsize=11.5, color=MUTED, va="center")
        axes = _panel(figure, 0, 0)
        _picture(axes, square, size, "What the model sees", f"{size} x {size} pixels, {patch} x {patch} to a token")
        captions = ("yellow: the window of the query below", "blue: windows that wrap around; a mask parts them")
        for i, (core, query) in enumerate(pair):
            tokens = " x ".join(map(str, core.window_size))
            moved = f", moved by {core.shift_size[0]} tokens" if any(core.shift_size) else ""
            axes = _panel(figure, 0, 1 + i)
            _picture(axes, square, size, f"Block {i + 1}: {'shifted ' * i}windows", f"{tokens} tokens each{moved}")
            _grid(axes, core, query, patch, size)
            axes.text(0, -0.018, captions[i], transform=axes.transAxes, va="top", fontsize=9.5, color=MUTED)
            axes = _panel(figure, 1, i)
            _picture(axes, square, size, f"Block {i + 1}: what one query attends to", "mean over the heads")
            _attention(figure, axes, core, query, patch, size)
        _bars(figure, bars)
        _write(figure, output)


def _panel(figure, row: int, column: int):
    """A square with the picture in it, placed by hand so that all of them line up."""
    left, bottom = MARGIN + column * (SIDE + GAP), HEIGHT - 1.65 - SIDE - row * (SIDE + 1.2)
    return figure.add_axes((left / WIDTH, bottom / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT))


def _picture(axes, square, size: int, title: str, note: str) -> None:
    axes.imshow(square, extent=(0, size, size, 0), interpolation="lanczos")
    axes.set_xlim(0, size)
    axes.set_ylim(size, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=21)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9.5, color=MUTED, va="bottom")


def _edges(core: Core, axis: int) -> list[int]:
    """Tokens at which a new window starts along an axis of the map."""
    window, shift = core.window_size[axis], core.shift_size[axis]
    count = num_windows(core.qkv.shape[1:3], core.window_size)[axis]
    return [i * window + shift for i in range(0 if shift else 1, count)]


def _lines(axes, core: Core, patch: int, size: int) -> None:
    for colour, width in (("#00000050", 2.4), ("#ffffffe0", 1.0)):  # the dark rim keeps them visible on a light picture
        for axis, line in ((0, axes.axhline), (1, axes.axvline)):
            for edge in _edges(core, axis):
                if edge * patch < size:
                    line(edge * patch, color=colour, linewidth=width)


def _grid(axes, core: Core, query: QueryAttention, patch: int, size: int) -> None:
    from matplotlib.patches import Rectangle

    _lines(axes, core, patch, size)
    for axis in (0, 1):
        shift, length = core.shift_size[axis] * patch, core.qkv.shape[1 + axis] * patch
        start = _edges(core, axis)[-1] * patch if shift else length
        for low, extent in ((0, shift), (start, length - start)):
            where = ((0, low), size, extent) if axis == 0 else ((low, 0), extent, size)
            axes.add_patch(Rectangle(*where, facecolor="#2f8fff", alpha=0.38, linewidth=0))
    _window(axes, query, patch, 3)
    _mark(axes, query, patch, 6)


def _window(axes, query: QueryAttention, patch: int, width: float) -> None:
    from matplotlib.patches import Rectangle

    corner, extents = _window_box(query, patch)
    for colour, extra in ((INK, 2), (ACCENT, 0)):
        axes.add_patch(Rectangle(corner, *extents, fill=False, edgecolor=colour, linewidth=width + extra, zorder=4))


def _window_box(query: QueryAttention, patch: int) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = query.rows, query.columns
    return (int(columns[0]) * patch, int(rows[0]) * patch), (len(columns) * patch, len(rows) * patch)


def _mark(axes, query: QueryAttention, patch: int, size: float) -> None:
    row, column = query.query
    look = {"markersize": size, "markerfacecolor": ACCENT, "markeredgecolor": INK, "markeredgewidth": 1.3}
    axes.plot((column + 0.5) * patch, (row + 0.5) * patch, "o", zorder=5, **look)


def _attention(figure, axes, core: Core, query: QueryAttention, patch: int, size: int) -> None:
    from matplotlib.patches import Rectangle

    share = query.weights.mean(0) * query.weights[0].numel()
    (left, top), (width, height) = _window_box(query, patch)
    axes.add_patch(Rectangle((0, 0), size, size, facecolor="white", alpha=0.4, linewidth=0))
    extent = (left, left + width, top + height, top)
    heat = axes.imshow(share.numpy(), extent=extent, cmap="inferno", alpha=0.75, zorder=2)
    _lines(axes, core, patch, size)
    _window(axes, query, patch, 3)
    _mark(axes, query, patch, 12)
    half = min(1.15 * max(width, height), size / 2)
    x, y = (min(max((at + 0.5) * patch, half), size - half) for at in (query.query[1], query.query[0]))
    axes.set_xlim(x - half, x + half)
    axes.set_ylim(y + half, y - half)
    below = axes.inset_axes((0, -0.055, 0.5, 0.025))
    bar = figure.colorbar(heat, cax=below, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.locator = need("matplotlib.ticker", "matplotlib").MaxNLocator(4)
    bar.update_ticks()
    below.tick_params(labelsize=9, colors=MUTED, length=0)
    note = f"attention weight x {query.weights[0].numel()}"
    axes.text(0.53, -0.0425, note, transform=axes.transAxes, va="center", fontsize=9.5, color=MUTED)
    axes.text(0.53, -0.085, "(1 is uniform)", transform=axes.transAxes, va="center", fontsize=9.5, color=MUTED)


def _bars(figure, bars: list[Bars]) -> None:
    left, top, step, labels = MARGIN + 2 * (SIDE + GAP), HEIGHT - 2.85 - SIDE, SIDE / len(bars), 1.05
    figure.text(left / WIDTH, (top + 0.3) / HEIGHT, "What fusing buys", fontsize=13, fontweight="bold")
    figure.text(left / WIDTH, (top + 0.1) / HEIGHT, "medians, in turn; peak of extra memory", fontsize=9.5, color=MUTED)
    for i, bar in enumerate(bars):
        bottom = top - (i + 1) * step
        size = ((left + labels) / WIDTH, (bottom + 0.06) / HEIGHT, (SIDE - labels) / WIDTH, (step - 0.46) / HEIGHT)
        axes = figure.add_axes(size)
        axes.barh([1, 0], bar.values, color=[REFERENCE, FUSED], height=0.78)
        axes.set_xlim(0, max(bar.values) * 1.45 or 1)
        axes.set_ylim(-0.5, 1.5)
        axes.set_xticks([])
        axes.set_yticks([1, 0], ["plain PyTorch", "fused"])
        axes.tick_params(length=0, labelsize=10, labelcolor=INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for y, value in zip((1, 0), bar.values, strict=True):
            axes.text(
                value + max(bar.values) * 0.02,
                y,
                f"{value:.3g} {bar.unit}" if value < 1000 else f"{value:.0f} {bar.unit}",
                va="center",
                fontsize=10,
            )
        figure.text(left / WIDTH, (bottom + step - 0.32) / HEIGHT, bar.title, fontsize=11, fontweight="bold")
        place = ((left + SIDE) / WIDTH, (bottom + step - 0.32) / HEIGHT)
        figure.text(*place, bar.ratio, ha="right", fontsize=12, color=FUSED, fontweight="bold")


def _write(figure, output: Path) -> None:
    try:
        handle, temporary = tempfile.mkstemp(suffix=".png", prefix=".swin_fast_", dir=output.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from error
    try:
        figure.savefig(temporary, format="png")
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are the owner's only
        os.replace(temporary, output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
