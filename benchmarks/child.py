"""One process of a run: groups one after another, with one thread count and one allocator setting."""

from __future__ import annotations

import gc
import json
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from . import ceilings, rows
from .group import COMPILED, OUR_BACKENDS, WRONG, Group, Made, is_ours, reason
from .measure import in_turn, peak_extra
from .rows import Row

meter = cache(ceilings.meter)  # one for each dtype of a process


@dataclass(frozen=True)
class Settings:
    threads: int = 1
    allocator: str = "default"
    rounds: int = 15
    compiled: bool = False
    device: str = "cpu"


def checked(group: Group, made: Made, device: str) -> Made:
    """`made` without the candidates that must not be timed, which is said. RuntimeError where ours is wrong."""
    refused = made.check()
    for name, why in refused.items():
        print(f"{group.name}: {name} is not timed, because {why}", file=sys.stderr, flush=True)
    ours = [name for name in made.candidates if is_ours(name) and not name.endswith(COMPILED)]
    wrong = [name for name in refused if is_ours(name) and (refused[name].startswith(WRONG) or device == "cpu")]
    if wrong or all(name in refused for name in ours):
        raise RuntimeError(f"nothing is timed, because of {', '.join(wrong or OUR_BACKENDS[device])}: {refused}")
    kept = {name: candidate for name, candidate in made.candidates.items() if name not in refused}
    return Made(made.dtype, kept, made.phases, made.plain, made.truth, made.left_out | refused)


def measure(group: Group, settings: Settings) -> list[Row]:
    """The rows of a group: equality first, then times in turn between two readings of the ceilings, then memory."""
    device = settings.device
    made = checked(group, group.make(device, settings.compiled), device)
    machine = meter(group.dtype, device)
    before = machine.read()
    timed = in_turn(made.candidates, settings.rounds, device=device)
    best = before | machine.read()
    floor = made.floor(best)
    found = []
    for name, samples in timed.items():
        candidate = made.candidates[name]
        peak = peak_extra(candidate, device) if candidate.in_torch else float("nan")
        found.append(
            rows.make(
                group.suite, group.op, group.shape, group.dtype, settings.threads, settings.allocator, name, samples,
                floor, best, peak_extra=peak, libraries=candidate.libraries, device=device,
            )
        )  # fmt: skip
    return found


def run(groups: list[Group], settings: Settings, out: Path, csv: Path | None) -> None:
    """Measure `groups`; after each, its rows are in `out` and `csv`, and `progress_file(out)` has a line for it."""
    torch.set_num_threads(settings.threads)
    for group in groups:
        _note(out, begin=group.name)
        try:
            found = measure(group, settings)
        except Exception as error:  # the other groups are still of use
            traceback.print_exc()
            _note(out, failed=group.name, why=reason(error))
        else:
            for file in (out, csv) if csv else (out,):
                rows.append(file, found)
            for row in found:
                print(line(group, row), flush=True)
            _note(out, done=group.name)
        torch.compiler.reset()
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()


def line(group: Group, row: Row) -> str:
    times = f"{row.p20_ms:9.3f} {row.p50_ms:9.3f} {row.p80_ms:9.3f} ms  {row.over_floor:6.2f}x floor"
    busy = f", busy: {row.waited:.0%} lost" if row.waited > 0.01 else ""
    memory = f"{row.peak_extra_mib:8.1f} MiB"
    place = f"{group.name:48} T{row.threads} {row.allocator:7}"
    return f"{place} {row.candidate:28} {times} {memory}  {row.samples} samples, {row.dropped} dropped{busy}"


def progress_file(out: Path) -> Path:
    return out.with_suffix(".progress")


def _note(out: Path, **what: str) -> None:
    with progress_file(out).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(what) + "\n")


def progress(out: Path) -> tuple[set[str], dict[str, str], list[str]]:
    """(groups done, groups failed and why, groups begun) as noted so far."""
    file = progress_file(out)
    notes = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    failed = {note["failed"]: note["why"] for note in notes if "failed" in note}
    return {note["done"] for note in notes if "done" in note}, failed, [n["begin"] for n in notes if "begin" in n]
