"""Runs the fused op over shapes, dtypes and options, forward and every gradient, against the formula in float64.

A tensor passes when its error is at most twice that of plain PyTorch in the same dtype, plus a small allowance.
"""

from __future__ import annotations

import argparse
import time

import torch

from .. import __version__, testing
from .common import UserError, at_least, chosen_backend, device, hardware, progress, threads, why_not

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in testing.DTYPES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="small maps only")
    add("--dtype", action="append", choices=tuple(DTYPES), help="may be given more than once (default: all)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    add("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of the random inputs (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    if chosen_backend(args.device.type) == "reference":
        reasons = "; ".join(f"{name}: {why}" for name, why in why_not(args.device.type).items() if name != "reference")
        raise UserError(f"there is nothing to verify, no fused backend runs on {args.device} ({reasons})")
    dtypes = [DTYPES[name] for name in args.dtype or DTYPES]
    if args.device.type != "cpu":
        dtypes = [dtype for dtype in dtypes if dtype != torch.float64]
        if not dtypes:
            raise UserError(f"--dtype float64 is for the CPU, not for {args.device}")
    work = [(case, dtype) for case in testing.cases(args.quick) for dtype in dtypes]
    start, rows = time.perf_counter(), []
    with threads(args.threads):
        print(f"swin_fast {__version__}, torch {torch.__version__}, {hardware(args.device)}\n")
        for case, dtype in progress(work, len(work), "verify"):
            rows.append((case, dtype, *_compare(case, dtype, args)))
    print(f"{'case':<40}{'dtype':<10}{'tensors':>7}  {'nearest its bound':<18}{'error':>9}{'bound':>9}{'share':>7}")
    failed = sum(_print_case(*row) for row in rows)
    tensors = sum(len(errors) for _, _, errors, _ in rows)
    took = time.perf_counter() - start
    print(f"\n{len(rows)} comparisons of {tensors} tensors in {took:.1f} s: {failed or 'none'} failed")
    return 1 if failed else 0


def _compare(case: testing.Case, dtype: torch.dtype, args: argparse.Namespace) -> tuple[list[testing.Error], str]:
    """The comparison's errors, or none of them and the message with which a kernel gave up."""
    try:
        return testing.compare(case, dtype, args.device, seed=args.seed), ""
    except RuntimeError as error:
        return [], str(error).partition("\n")[0]


def _print_case(case: testing.Case, dtype: torch.dtype, errors: list[testing.Error], message: str) -> bool:
    """One line for the tensor nearest to its bound, or one for each that failed; True if any did."""
    start = f"{case.name:<40}{str(dtype).removeprefix('torch.'):<10}{len(errors):>7}  "
    if message:
        print(f"{start}FAILED: {message}")
        return True
    shown = [e for e in errors if not e.ok] or [max(errors, key=lambda e: e.error / e.bound)]
    for e in shown:
        print(f"{start}{e.name:<18}{e.error:>9.1e}{e.bound:>9.1e}{e.error / e.bound:>7.2f}{'' if e.ok else '  FAILED'}")
    return not shown[0].ok
