"""The commands that `benchmarks/gpu.sh` is made of; `run` is the only one that needs torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from . import summary
from .state import FOLDER, LIMIT_S, PARTS, State, why_no_gpu


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--state", type=Path, default=FOLDER)
    add = parser.add_subparsers(dest="command", required=True).add_parser
    add("list", help="the parts and how each ended")
    todo = add("todo", help="print those of the parts that need to run")
    todo.add_argument("parts", nargs="+", choices=(*PARTS, "summary"))
    for name, text in (("run", "one part"), ("forget", "as if it had never run")):
        add(name, help=text).add_argument("part", choices=PARTS)
    record = add("record", help="write down how a part ended, and the summary")
    record.add_argument("part", choices=PARTS)
    for number in ("returncode", "seconds", "limit"):
        record.add_argument(number, type=int)
    write = add("summary", help="write and print the summary; exits with 0 if the parts that are named, or all, passed")
    write.add_argument("parts", nargs="*")
    for command in (record, write):
        command.add_argument("--out", type=Path, help="folder for a copy of everything to keep")
    args = parser.parse_args(argv)
    state = State(args.state.resolve())
    if args.command == "list":
        print(listing(state))
    elif args.command == "todo":
        print("\n".join(part for part in args.parts if part in PARTS and not state.passed(part)))
    elif args.command == "forget":
        state.forget(args.part)
    elif args.command == "record":
        print(describe(state.record(args.part, args.returncode, args.seconds, args.limit), args.limit))
        summary.write(state, args.out)
    elif args.command == "run":
        return run(state, args.part)
    else:
        print(summary.write(state, args.out))
        asked = [part for part in args.parts if part in PARTS] or PARTS
        return 0 if all(summary.ended(state, part) == "passed" for part in asked) else 1
    return 0


def run(state: State, part: str) -> int:
    """Exit status of one part; 1 and the reason where there is no GPU."""
    if why := why_no_gpu():
        print(f"no GPU: {why}", flush=True)
        return 1
    if state.tuned.is_file() and part != "tuner":
        os.environ.setdefault("SWIN_FAST_TRITON_CONFIG", str(state.tuned))
    module = import_module(f".{PARTS[part].module}", __package__)
    return getattr(module, PARTS[part].function)(state, part)


def describe(record, limit: int) -> str:
    more = f" after the limit of {limit} s; run again to go on" if record.status == "timeout" else ""
    return f"== {record.part}: {record.status}{more} ({record.seconds} s)"


def listing(state: State) -> str:
    lines = []
    for name, part in PARTS.items():
        record = state.recorded(name)
        how = "not run" if record is None else f"{record.status}, {record.seconds} s"
        if record is not None and record.status == "passed" and not state.passed(name):
            how = "passed, but for other sources, torch or GPU"
        lines.append(f"{name:<10} {how:<16} {part.what}")
    lines.append(f"{'summary':<10} {'':<16} made after every part; each part has at most {LIMIT_S} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
