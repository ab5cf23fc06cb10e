"""Peak memory of one forward and backward of the attention core at stage 1 of Swin-T: python -m benchmarks.memory

Counted beyond the inputs (qkv, bias table, incoming gradient), in two ways: what PyTorch's allocator hands out, and how
far the process grows. Both include the results (output and gradients). Each is followed by its multiple of the bytes of
inputs and results together, and `whole` is the same with the inputs counted as well, so 1 is the least.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from swin_fast import testing
from swin_fast.cli.measure import peak_bytes

from . import peers, rows

_KIB = 1024 if sys.platform == "linux" else 1  # ru_maxrss is in KiB on Linux and in bytes on macOS


def growth(call) -> int:
    """Bytes by which the largest resident size of the process exceeds its size before `call()`.

    The largest size so far, which imports may have set, would hide a smaller growth: it is reset where Linux lets us.
    """
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _KIB


def one(name: str, dtype: torch.dtype, case: testing.Case) -> dict[str, int]:
    """Bytes of inputs and results, and the two peaks, in a process where nothing of that size ran before."""
    compiled = name.endswith("compiled")
    small = replace(case, grid=case.window_size, batch=1)
    if not compiled:
        peers.candidates(small, dtype, True)[name]()  # code and thread pools that the first call loads
    candidate = peers.candidates(case, dtype, True, compiled)[name]
    if compiled:
        candidate()  # compiles
    rss = growth(candidate)
    peak = peak_bytes(candidate, torch.device("cpu"))
    inputs, results = _bytes(candidate.inputs + candidate.incoming), _bytes(candidate())
    return {"inputs": inputs, "results": results, "torch": peak, "process": rss}


def _bytes(tensors) -> int:
    return sum(t.numel() * t.itemsize for t in tensors)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--stage", type=int, choices=peers.STAGES, default=1)
    parser.add_argument("--compiled", action="store_true", help="the peers under torch.compile too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    case = replace(peers.STAGES[args.stage], batch=args.batch)
    if args.child:
        print(json.dumps(one(args.child, getattr(torch, args.dtype[0]), case)))
        return
    print(
        f"{case.batch}x{case.name}, forward+backward, {rows.device_name()}, torch {torch.__version__}, {rows.commit()}"
    )
    heads = f"{'in+out MiB':>10}  {'torch MiB':>9} {'extra':>6} {'whole':>6}  {'process MiB':>11} {'extra':>6}"
    print(f"{'':26}  {heads}")
    names = [peers.OURS, "eager", "sdpa"] + args.compiled * ["eager compiled", "sdpa compiled"]
    for dtype in args.dtype:
        for name in names:
            command = [sys.executable, "-m", "benchmarks.memory", *argv, "--dtype", dtype, "--child", name]
            environment = os.environ | {"KINETO_LOG_LEVEL": "99"}  # the profiler writes notes to stderr otherwise
            result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            inputs, results, torch_peak, process = json.loads(result.stdout).values()
            total = inputs + results
            torch_part = f"{torch_peak / 2**20:9.1f} {torch_peak / total:5.2f}x {(torch_peak + inputs) / total:5.2f}x"
            process_part = f"{process / 2**20:11.1f} {process / total:5.2f}x"
            print(f"{name:17} {dtype:8}  {total / 2**20:10.1f}  {torch_part}  {process_part}", flush=True)


if __name__ == "__main__":
    main()
