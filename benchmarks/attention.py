"""The attention core at the four stages of Swin-T, ours and its peers: python -m benchmarks.attention"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import torch

from . import ceilings, peers, rows, run
from .measure import in_turn


def measure(args: argparse.Namespace) -> Iterator[rows.Row]:
    op = "attention forward+backward" if args.backward else "attention forward"
    for dtype in (getattr(torch, name) for name in args.dtype):
        best = ceilings.measure(dtype)
        for case in (replace(peers.STAGES[stage], batch=args.batch) for stage in args.stages):
            found = peers.candidates(case, dtype, args.backward, args.compiled, args.on_windows)
            peers.check(case, dtype, found)
            tokens, window = case.batch * prod(case.grid), prod(case.window_size)
            floor = ceilings.attention_floor(
                best, tokens, window, case.num_heads * case.head_dim, dtype.itemsize, args.backward
            )
            for name, samples in in_turn(found, args.rounds).items():
                shape = f"{case.batch}x{case.name}"
                yield rows.make(op, shape, dtype, args.threads[0], args.allocator, name, samples, floor, best)
            torch.compiler.reset()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    run.add_arguments(parser)
    parser.add_argument("--stages", nargs="+", type=int, choices=peers.STAGES, default=list(peers.STAGES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backward", action="store_true", help="forward and backward instead of inference")
    parser.add_argument("--compiled", action="store_true", help="the peers under torch.compile too")
    parser.add_argument(
        "--on-windows", action="store_true", help="the peers also with x rolled and partitioned instead of qkv"
    )
    run.run("benchmarks.attention", parser, sys.argv[1:] if argv is None else argv, measure)


if __name__ == "__main__":
    main()
