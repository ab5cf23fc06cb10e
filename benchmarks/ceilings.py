"""What the machine can do at best, and the least time that the attention core could take on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .measure import LEAST, Call, block, in_turn

_LINEARS = {  # rows, inputs, outputs
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (6272, 192, 768), (1568, 768, 1536)),
    "cuda": ((8192, 8192, 8192), (4096, 4096, 4096), (65536, 1024, 1024)),
}
_COPY_BYTES = 256 * 2**20  # far beyond any cache
_READINGS = 3  # of a moment


@dataclass(frozen=True)
class Ceilings:
    """Measured with the threads in use: operations a second of the best matrix product, bytes a second of a copy.

    `waited` as in `Samples`: above its bound, the machine was too busy to show what it can do.
    """

    flops: float
    bandwidth: float
    waited: float = 0.0

    def floor(self, operations: float, moved: float) -> float:
        """Seconds that `operations` and `moved` bytes need where the two overlap."""
        return max(operations / self.flops, moved / self.bandwidth)

    def __or__(self, other: Ceilings) -> Ceilings:
        """The best of both, which is what a machine that is not always as fast can do."""
        rates = max(self.flops, other.flops), max(self.bandwidth, other.bandwidth)
        return Ceilings(*rates, max(self.waited, other.waited))


@dataclass(frozen=True)
class Meter:
    """What the machine can do in this moment: a shared one may be half as fast a minute later.

    `product` is its fastest for a dtype, of `operations`.
    """

    copy: Call
    product: Call
    operations: float
    device: str = "cpu"

    def read(self) -> Ceilings:
        fastest = []
        for call in (self.copy, self.product):
            call()
            fastest.append(min(block(call, 1, self.device) for _ in range(_READINGS)))
        (copy, _), (product, _) = fastest
        lost = max(waited / seconds for seconds, waited in fastest)
        return Ceilings(self.operations / product, 2 * _COPY_BYTES / copy, lost)


def meter(dtype: torch.dtype, device: str = "cpu") -> Meter:
    """The meter of a dtype, and all of its products timed once to choose the fastest.

    A CPU without instructions for a half type multiplies it slower than float32, to which anybody may widen it.
    """
    dtypes = {dtype, torch.float32} if device == "cpu" and dtype != torch.float64 else {dtype}
    calls = {(shape, d): _linear(*shape, d, device) for shape in _LINEARS[device] for d in dtypes}
    found = in_turn(calls, rounds=LEAST, device=device)
    fastest = max(calls, key=lambda key: prod(key[0]) / found[key].best)
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return Meter(lambda: target.copy_(source), calls[fastest], 2.0 * prod(fastest[0]), device)


def attention_phases(
    tokens: int, window: int, channels: int, itemsize: int, backward: bool
) -> tuple[tuple[float, float], ...]:
    """(operations, bytes) of forward and backward: `tokens` in the batch, `window` of them in one window.

    The forward reads qkv and writes out: 4 * T * C elements, 4 * T * N * C operations. The backward reads qkv and the
    incoming gradient and writes qkv's: 7 * T * C elements; it has five products where the forward has two.
    """
    area = tokens * channels
    forward = 4.0 * area * window, 4.0 * area * itemsize
    return (forward, (10.0 * area * window, 7.0 * area * itemsize)) if backward else (forward,)


def attention_floor(
    ceilings: Ceilings, tokens: int, window: int, channels: int, itemsize: int, backward: bool
) -> float:
    """Seconds that the phases of the attention core need, every byte moved once."""
    return sum(ceilings.floor(*phase) for phase in attention_phases(tokens, window, channels, itemsize, backward))


def _linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    x, w = (torch.randn(n, inputs, dtype=dtype, device=device) for n in (rows, outputs))
    return lambda: F.linear(x, w)
