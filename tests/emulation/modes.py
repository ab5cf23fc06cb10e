"""How the kernels may compute products, and the error rule of each."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..ops.cases import DIFFERENTIABLE, Case, assert_accurate, run
from .tf32 import Tf32Products
from .window_attention import FEW, Kernels, Limits

# name -> (dtype, whether products round their operands to TF32)
MODES = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
TF32_ALLOWANCE = 2**-12  # a quarter of the spacing, as swin_fast.testing.ALLOWANCE has for the 2-byte types


def check(
    kernels: Kernels,
    case: Case,
    mode: str,
    tensors: dict | None = None,
    limits: Limits = FEW,
    backward: bool = True,
) -> dict[str, Tensor]:
    """Runs a case and holds it to the error rule: at most twice plain PyTorch's error against float64.

    Plain PyTorch computes in the same dtype; for TF32 it is float32 with the operands of each product rounded to TF32.
    """
    dtype, rounded = MODES[mode]
    tensors = tensors or case.tensors(dtype)
    got = kernels.run(case, tensors, tf32=rounded, limits=limits, gradients=DIFFERENTIABLE if backward else ())
    with Tf32Products() if rounded else nullcontext():
        plain = run(case, tensors, "reference")
    compared = got if backward else {**plain, **got}
    assert_accurate(case, tensors, compared, plain, TF32_ALLOWANCE if rounded else None)
    return got
