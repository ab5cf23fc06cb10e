"""What the machine can do at best, and the least time that the attention core could take on it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_LINEARS = ((1024, 1024, 1024), (2048, 2048, 2048), (6272, 192, 768), (1568, 768, 1536))  # rows, inputs, outputs
_COPY_BYTES = 256 * 2**20  # far beyond any cache


@dataclass(frozen=True)
class Ceilings:
    """Measured with the threads in use: operations a second of the best matrix product, bytes a second of a copy."""

    flops: float
    bandwidth: float

    def floor(self, operations: float, moved: float) -> float:
        """Seconds that `operations` and `moved` bytes need where the two overlap."""
        return max(operations / self.flops, moved / self.bandwidth)


def measure(dtype: torch.dtype) -> Ceilings:
    return Ceilings(max(_linear_rate(*shape, dtype) for shape in _LINEARS), _copy_rate())


def attention_floor(
    ceilings: Ceilings, tokens: int, window: int, channels: int, itemsize: int, backward: bool
) -> float:
    """Seconds: `tokens` in the batch, `window` of them in one window, every byte moved once.

    The forward reads qkv and writes out: 4 * T * C elements, 4 * T * N * C operations. The backward reads qkv and the
    incoming gradient and writes qkv's: 7 * T * C elements; it has five products where the forward has two.
    """
    area = tokens * channels
    seconds = ceilings.floor(4 * area * window, 4 * area * itemsize)
    return seconds + ceilings.floor(10 * area * window, 7 * area * itemsize) if backward else seconds


def _linear_rate(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    x, w = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    return 2 * rows * inputs * outputs / _fastest(lambda: F.linear(x, w))


def _copy_rate() -> float:
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _fastest(lambda: target.copy_(source))


@torch.inference_mode()
def _fastest(call, repeat: int = 8) -> float:
    call()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
