"""Which calls the CUDA library takes. Rule and words are in csrc/cuda/support.cpp, where the boundary asks, too."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .dispatch import Call

# how the library counts the ways to multiply; 1 is float32 with operands rounded to TF32, which needs no more room
MODES = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}


def why_not(call: Call) -> str:
    """Why the CUDA kernels do not take a call on a CUDA tensor, "" where they do; only where the library is loaded."""
    if call.dtype not in MODES:
        return f"the CUDA kernels take float32, bfloat16 and float16, and the tensor is {str(call.dtype)[6:]}"
    if call.device.index is None:
        return "there is no GPU here, and what the CUDA kernels take depends on it"
    return torch.ops.swin_fast.cuda_why_not(
        MODES[call.dtype], call.batch, call.grid, call.window_size, call.num_heads, call.head_dim,
        device_facts(call.device.index),
    )  # fmt: skip


@lru_cache(maxsize=64)
def device_facts(index: int) -> tuple[int, ...]:
    """What the library knows of a GPU: newest CUDA version of the driver (13020 for 13.2), compute capability in two
    numbers, multiprocessors, bytes of shared memory that a block may have and that a multiprocessor has."""
    return tuple(torch.ops.swin_fast.cuda_device(index))
