"""Plain PyTorch as with TF32 products on a GPU: the operands of every matrix product are rounded to TF32 first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def to_tf32(x: Tensor) -> Tensor:
    """float32 rounded to 10 bits of mantissa, to nearest, ties away from zero, as PTX's cvt.rna.tf32 does."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32Products(TorchDispatchMode):
    """Inside this block float32 matrix products, those of a backward included, have operands of TF32's precision."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            args = [to_tf32(t) if t.dtype == torch.float32 else t for t in args]
        return func(*args, **(kwargs or {}))
