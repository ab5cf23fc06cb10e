"""What came out of all parts, as Markdown and JSON, and the files that are worth keeping. Needs no torch."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from . import targets
from .state import PARTS, ROOT, State, slug

RESULTS = ROOT / "benchmarks" / "results"
SMALL = ("summary.md", "summary.json", "profile.csv")  # worth a commit
SHOWN = 30  # failed tests of a file
LOG_CHARACTERS = 200_000  # of each part, from its end


def write(state: State, out: Path | None) -> str:
    """Write the summary, keep what is worth it and copy it to `out`; returns the summary as text."""
    summary = collect(state)
    text = markdown(summary)
    kept = bool(summary["machine"])  # a GPU was seen: its figures are to be committed
    if kept and state.rows.is_file():
        try:
            append(state.rows, RESULTS / f"{slug()}.csv")
        except ValueError as error:
            text += f"\nThe rows are not among the kept results: {error}\n"
    (state.folder / "summary.md").write_text(text, encoding="utf-8")
    (state.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if kept:
        copy(state, RESULTS / slug(), (*SMALL, state.tuned.name))
    if out is not None:
        copy(state, out, (*SMALL, state.rows.name, state.tuned.name))
        logs = [f"==== {part}\n{state.log(part)[-LOG_CHARACTERS:]}" for part in PARTS if state.log(part)]
        (out / "logs.txt").write_text("\n".join(logs), encoding="utf-8")
    return text


def ended(state: State, part: str) -> str:
    record = state.recorded(part)
    return record.status if record else "not run"


def collect(state: State) -> dict:
    """Everything the summary says, as plain data."""
    parts = {}
    for name in PARTS:
        record = state.recorded(name)
        notes = [line[6:] for line in state.log(name).splitlines() if line.startswith("note: ")]
        parts[name] = {
            "status": ended(state, name),
            "seconds": record.seconds if record else None,
            "why": why(state.log(name)) if record and record.status == "failed" else "",
            "notes": list(dict.fromkeys(notes)),
        }
    rows = read_rows(state.rows)
    profile = state.found("profile")
    checks = [
        {**asdict(check), "ok": check.ok, "short_by": None if check.ok is None else check.short_by,
         "reason": targets.reason(check, profile.get("lines", [])) if check.ok is False else ""}
        for check in targets.checks(rows)
    ]  # fmt: skip
    return {
        "machine": state.found("info"),
        "date": datetime.date.today().isoformat(),
        "parts": parts,
        "tests": state.found("tests"),
        "sanitizer": state.found("sanitizer"),
        "tuner": state.found("tuner"),
        "copy_gbytes": profile.get("copy_gbytes"),
        "profile": profile.get("lines", []),
        "rows": len(rows),
        "checks": checks,
    }


def why(log: str) -> str:
    """The last line of a log that says something."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")[:200]


def read_rows(file: Path) -> list[targets.Row]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def markdown(summary: dict) -> str:
    machine = summary["machine"]
    title = machine.get("gpu", "no GPU")
    lines = [f"# {title}", "", ", ".join([*(f"{k} {v}" for k, v in machine.items() if k != "gpu"), summary["date"]])]
    lines += table(
        ("part", "ended", "seconds", "remarks"),
        (
            (
                name,
                p["status"],
                "" if p["seconds"] is None else p["seconds"],
                "; ".join(filter(None, [p["why"], *p["notes"]])),
            )
            for name, p in summary["parts"].items()
        ),
    )
    for name, found in summary["tests"].items():
        skipped = sum(found["skipped"].values())
        lines += ["", f"{name}: {found['passed']} passed, {len(found['failed'])} failed, {skipped} skipped"]
        lines += [f"- failed: {test}" for test in found["failed"][:SHOWN]]
    for name, entry in summary["sanitizer"].items():
        lines += ["", f"{name}: {entry['verdict']}", *(f"- {said}" for said in entry["said"])]
    if summary["checks"]:
        lines += ["", "Against the targets (batch 64 and batch 1, bfloat16):"]
        lines += table(("what", "stage", "backend", "ms", "value", "target", ""), map(_check, summary["checks"]))
        slow = [check for check in summary["checks"] if check["ok"] is False]
        lines += ["", "Slower than its target:" if slow else "Nothing is slower than its target."]
        lines += [f"- {_slow(check)}" for check in slow]
    if summary["profile"]:
        lines += ["", f"The kernels by themselves; a copy moves {summary['copy_gbytes']:.0f} GB/s:"]
        names = ("stage", "backend", "direction", "kernel", "microseconds", "gbytes", "share", "occupancy_percent")
        lines += table(names, ([_cell(line[name]) for name in names] for line in summary["profile"]))
    if summary["tuner"]:
        lines += [
            "",
            "Block shapes of the Triton kernels, tuned before the times were taken; times as fast as the default:",
        ]
        lines += table(("kind", "gain"), summary["tuner"].items())
        name = slug()
        lines += ["", "For the package to run with them, on this GPU:", ""]
        lines += [f"    cp benchmarks/results/{name}/tuned-{name}.json swin_fast/triton_kernels/configs/{name}.json"]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], body: Iterable[Sequence]) -> list[str]:
    rows = [[str(cell).replace("|", "/") for cell in row] for row in body]
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]


def _check(check: dict) -> tuple:
    target = "" if check["target"] is None else f"{'at most' if check['most'] else 'at least'} {check['target']:g}"
    ok = {True: "yes", False: "**no**", None: ""}[check["ok"]]
    return check["what"], check["stage"], check["backend"], _cell(check["ms"]), f"{check['value']:.2f}", target, ok


def _slow(check: dict) -> str:
    text = f"{check['backend']}, {check['stage']}, {check['what']}: {check['value']:.2f}, the target is "
    text += f"{check['target']:g}; it would have to be {check['short_by']:.2f} times as fast"
    return f"{text}; {check['reason']}" if check["reason"] else text


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def append(source: Path, target: Path) -> None:
    """Add the lines of `source` that `target` lacks, one device's rows; ValueError where the two have other columns."""
    head, *lines = source.read_text(encoding="utf-8").splitlines()
    kept = target.read_text(encoding="utf-8").splitlines() if target.is_file() else [head]
    if kept[0] != head:
        raise ValueError(f"{target} has other columns than the rows of this run: {kept[0]}")
    there = set(kept)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join([*kept, *(line for line in lines if line not in there)]) + "\n", encoding="utf-8")


def copy(state: State, folder: Path, names: Sequence[str]) -> None:
    """The files of the state that there are, as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (state.folder / name).is_file():
            shutil.copyfile(state.folder / name, folder / name)
