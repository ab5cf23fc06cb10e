"""The process of `benchmarks.base`: checks our candidates of a group, then times a block for each line read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

import torch

from . import measure, registry
from .child import checked
from .group import COMPILED, is_ours


def serve(calls: dict[str, Callable], asked: Iterable[str], answers: TextIO, device: str = "cpu") -> None:
    """Answer each name with the seconds of a call and the share of its time that it waited for a core."""
    repeat = {name: measure.repetitions(call, device=device) for name, call in calls.items()}
    print(json.dumps({"ready": list(calls)}), file=answers, flush=True)
    for line in asked:
        name = line.strip()
        seconds, waited = measure.block(calls[name], repeat[name], device)
        print(json.dumps({"block": [seconds / repeat[name], waited / seconds]}), file=answers, flush=True)


def main(name: str, threads: int, device: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    torch.set_num_threads(threads)
    group = registry.GROUPS[name]
    made = group.make(device, False, lambda name: is_ours(name) and not name.endswith(COMPILED))
    serve(checked(group, made, device).candidates, sys.stdin, answers, device)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
