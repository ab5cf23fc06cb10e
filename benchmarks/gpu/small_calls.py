"""Small calls of the op, forward and backward, on one GPU backend: what the sanitizer's tools run.

    python -m benchmarks.gpu.small_calls triton [cuda]

Inputs are made and the formula is computed on the CPU, so that the GPU runs our kernels and little else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from swin_fast import dispatch, testing

HALF = torch.bfloat16
CASES = [
    testing.Case("window 7, shift 3", (14, 14), (7, 7), (3, 3), num_heads=3),
    testing.Case("padding attended", (10, 12), (7, 7), (3, 3)),
    testing.Case("padding masked, roll first", (10, 12), (7, 7), (3, 3), pad="masked", pad_order="roll_then_pad"),
    testing.Case("explicit mask", (14, 14), (7, 7), (0, 0), mask=True),
    testing.Case("bias index", (14, 14), (7, 7), (3, 3), bias="index"),
    testing.Case("cosine", (16, 16), (8, 8), (4, 4), cosine=True),
    testing.Case("window 12", (24, 24), (12, 12), (6, 6), num_heads=1, batch=1),
    testing.Case("window 16, head_dim 64", (16, 32), (16, 16), (8, 8), num_heads=1, batch=1, head_dim=64),
    testing.Case("head_dim 30", (16, 16), (8, 8), (4, 4), head_dim=30),
    testing.Case("3D", (8, 7, 7), (8, 7, 7), (0, 3, 3), batch=1),
    testing.Case("dropout", (14, 14), (7, 7), (3, 3), dropout_p=0.25),
]
MODES = {"bfloat16": (HALF, False), "float32": (torch.float32, False), "tf32": (torch.float32, True)}
KINDS = (torch.float64, HALF)
FACTOR = 4.0  # of the CPU's error in the same dtype; sums are in another order there, so not the tests' 2
OTHER_MODES = 3  # cases that also run in float32, with and without TF32


def work() -> list[tuple[testing.Case, str]]:
    """(case, mode) of every call."""
    return [(case, mode) for i, case in enumerate(CASES) for mode in MODES if mode == "bfloat16" or i < OTHER_MODES]


def wrong(case: testing.Case, mode: str, backend: str, device: str = "cuda") -> str:
    """What is wrong with the results of one call, "" where nothing is."""
    dtype, torch.backends.cuda.matmul.allow_tf32 = MODES[mode]
    tensors, options = testing.make_inputs(case, dtype, "cpu")
    there = {name: tensor.to(device) for name, tensor in tensors.items()}
    got = {name: t.cpu() for name, t in testing.run(there, options, backend).items()}
    if case.dropout_p:  # another device draws another mask
        bad = [name for name, tensor in got.items() if not torch.isfinite(tensor).all()]
        return f"not finite: {', '.join(bad)}" if bad else ""
    doubles, halves = ({n: t.to(to) if t.is_floating_point() else t for n, t in tensors.items()} for to in KINDS)
    truth = testing.run(doubles, options, "reference")
    # where products round to TF32, bfloat16's error is a generous measure; a wrong index is off by far more
    plain = testing.run(halves if mode == "tf32" else tensors, options, "reference")
    found = testing.errors(got, plain, truth, HALF if mode == "tf32" else dtype, FACTOR)
    return ", ".join(f"{e.name} is off by {e.error:.1e}, allowed {e.bound:.1e}" for e in found if not e.ok)


def can_run(case: testing.Case, dtype: torch.dtype, backend: str) -> str:
    """Why the backend does not run the case, "" where it does."""
    call = dispatch.Call(
        dispatch.describe(torch.device("cuda")), dtype, case.batch, case.grid, case.window_size, case.num_heads,
        case.head_dim, case.bias != "none", case.bias == "index", case.pad == "attended", case.mask, case.cosine,
        case.dropout_p > 0,
    )  # fmt: skip
    return dispatch.CAN_RUN[backend](call).reason


def main(argv: Sequence[str]) -> int:
    failed = 0
    for backend in argv or ("triton", "cuda"):
        ran = 0
        for case, mode in work():
            name = f"{backend}, {case.name}, {mode}"
            if why := can_run(case, MODES[mode][0], backend):
                print(f"{name}: not run, {why}")
                continue
            ran += 1
            if said := wrong(case, mode, backend):
                failed += 1
                print(f"{name}: WRONG, {said}", flush=True)
        failed += not ran
        print(f"{backend}: {ran} calls, {failed} wrong", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
