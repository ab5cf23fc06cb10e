"""Times the candidates of each kind of call on this GPU and writes the fastest as rows that `tuning` reads.

    python -m swin_fast.triton_kernels.tune [--dtype bf16] [--window 7x7] [--head-dim 32] [--out FILE]

A candidate is timed only after its results have passed the error rule of `swin_fast.testing`. It takes the place of the
default only where it is faster by more than `GAIN`, in two timings. Kinds that are not timed keep the rows they have.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from . import tuning
from .config import Config, Variant, candidates, default_config
from .tuning import CannotRun, Key

WINDOWS = ("7x7", "8x8", "12x12", "16x16", "24x24", "7x7x7", "8x7x7")
HEAD_DIMS = (16, 24, 30, 32, 64)
GAIN = 0.02  # less than this is within what two timings of one kernel differ by
CHANNELS = 192  # about; and tokens of a large map at batch 64: enough windows to fill any GPU, as in stages 1 and 2
TOKENS = 64 * 56 * 56

# seconds of one call; raises `CannotRun` for a candidate that this GPU has no room for, or whose results are wrong
Timer = Callable[[Variant, bool, Config], float]


class Choice(NamedTuple):
    """What was found for one kind of call; times in seconds."""

    key: Key
    config: Config
    time: float
    default: Config
    default_time: float
    refused: list[str]


def variants(windows: Iterable[str], head_dims: Iterable[int], dtypes: Iterable[str]) -> list[Variant]:
    """The calls that are timed: shifted, padding attended, every window of a map that fills a large GPU."""
    result = []
    for window in windows:
        sizes = tuple(int(n) for n in window.split("x"))
        w = (1,) * (3 - len(sizes)) + sizes
        windows_per_axis = max(2, round((TOKENS / 64 / prod(w)) ** (1 / len(sizes))))
        grid = tuple(1 if n == 1 else n * windows_per_axis for n in w)
        batch, rows = max(1, TOKENS // prod(grid)), prod(2 * n - 1 for n in w)
        for head_dim in head_dims:
            heads = max(1, CHANNELS // head_dim)
            for dtype in dtypes:
                shift = tuple(n // 2 for n in w)
                result.append(Variant(dtype, w, grid, shift, batch, heads, head_dim, table=dtype, rows=rows))
    return result


def choose(variant: Variant, backward: bool, timer: Timer) -> Choice:
    """Time every candidate, and the best of them and the default once more; the default wins unless clearly slower."""
    default, refused, times = default_config(variant, backward), [], {}
    for config in candidates(variant, backward):
        try:
            times[config] = timer(variant, backward, config)
        except CannotRun as error:
            refused.append(f"{config}: {error}")
    key = tuning.key_of(variant, backward)
    if default not in times:
        raise CannotRun(f"the default of {tuple(key)} does not run on this GPU ({'; '.join(refused)})")
    best = min(times, key=times.__getitem__)
    if best != default:  # a lucky timing is not likely twice
        for config in (default, best):
            times[config] = max(times[config], timer(variant, backward, config))
        if times[best] > times[default] * (1 - GAIN):
            best = default
    return Choice(key, best, times[best], default, times[default], refused)


def merge(old: dict[Key, dict], choices: Iterable[Choice]) -> list[dict]:
    """The rows of a file: those of `choices`, and the old ones of kinds that were not timed, in a fixed order."""
    rows = dict(old)
    for choice in choices:
        times = {"microseconds": choice.time * 1e6, "default_microseconds": choice.default_time * 1e6}
        times = {name: round(value, 2) for name, value in times.items()}
        rows[choice.key] = {**tuning.as_row(choice.key, choice.config), **times}
    return [rows[key] for key in sorted(rows)]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m swin_fast.triton_kernels.tune", description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", action="append", choices=tuning.DTYPES, help="may be given more than once")
    parser.add_argument("--window", action="append", choices=WINDOWS, help="may be given more than once")
    parser.add_argument("--head-dim", action="append", type=int, choices=HEAD_DIMS, help="may be given more than once")
    parser.add_argument("--out", type=Path, help="default: the file of this GPU beside the package's own")
    return parser.parse_args(argv)


def main(argv: Sequence[str], timer: Timer | None = None, device_name: str | None = None) -> int:
    """The command. `timer` and `device_name` are this GPU's unless given."""
    args = parse(argv)
    made_with = {}
    if timer is None:
        try:
            from . import timing  # needs Triton

            timer, device_name, made_with = timing.on_this_gpu()
        except (CannotRun, ImportError) as error:
            print(f"tune: {error}", file=sys.stderr)
            return 2
    file = args.out or tuning.file_for(device_name)
    old = {}
    if file.is_file():
        old = {key: tuning.as_row(key, config) for key, config in tuning.read(file, device_name).items()}
    choices = []
    for variant in variants(args.window or WINDOWS, args.head_dim or HEAD_DIMS, args.dtype or tuning.DTYPES):
        for backward in (False, True):
            choice = choose(variant, backward, timer)
            choices.append(choice)
            print(describe(choice), flush=True)
            # written after each, so that a stop loses one kind and no more
            tuning.write(file, device_name, made_with, merge(old, choices))
    print(f"{len(choices)} rows written to {file}")
    return 0


def describe(choice: Choice) -> str:
    key, gain = choice.key, choice.default_time / choice.time
    kind = f"{key.direction:<8} {key.tokens:>5} tokens  head_dim {key.head_dim:>3}  {key.dtype}"
    what = "default" if choice.config == choice.default else str(choice.config)
    left_out = f", {len(choice.refused)} refused" if choice.refused else ""
    return f"{kind}  {choice.time * 1e6:10.1f} us, {gain:.2f}x the default{left_out}: {what}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
