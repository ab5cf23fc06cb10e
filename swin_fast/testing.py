"""The cases every backend must pass, and the rule that says when one has passed.

A tensor passes when its error against the float64 formula is at most twice the error that plain PyTorch makes in the
same dtype from the same rounded inputs, plus a small allowance for the luck of single roundings (`ALLOWANCE`). Both
errors are largest absolute differences. So the bound follows the difficulty of the case; nobody chooses a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import NamedTuple

import torch
from torch import Tensor

from . import dispatch
from .functional import window_attention
from .geometry import bias_table_size, num_windows

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# A share of the tensor's largest value (at least 1: inputs and the incoming gradient are of size one, so smaller
# tensors, such as the exactly zero q gradient of a one-token window, are cancellations of values of that size).
# The half types get a quarter of their spacing; float64 is compared with itself, so there it is the whole bound.
ALLOWANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-9, torch.float16: 2**-12}


class Error(NamedTuple):
    """One tensor of one comparison, both numbers absolute. A NaN or an infinity on either road fails it."""

    name: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return isfinite(self.error) and isfinite(self.bound) and self.error <= self.bound


@dataclass(frozen=True)
class Case:
    """One call of the op. `grid`, `window_size` and `shift_size` have an entry per axis, in tokens."""

    name: str
    grid: tuple[int, ...]
    window_size: tuple[int, ...]
    shift_size: tuple[int, ...]
    batch: int = 2
    num_heads: int = 2
    head_dim: int = 32
    bias: str = "table"  # "table", "index" (drawn at random, negative entries included) or "none"
    pad: str = "attended"  # "attended" (pad_qkv is given) or "masked"
    pad_order: str = "pad_then_roll"
    mask: bool = False  # one row of it is all -inf
    mask_value: float = -100.0
    scale: float | None = None
    cosine: bool = False
    dropout_p: float = 0.0


def cases(quick: bool = False) -> list[Case]:
    """The sweep, every policy of the op at least once; `quick` keeps the small maps."""
    inf = float("inf")
    small = [
        Case("window 7, shift 3", (14, 14), (7, 7), (3, 3)),
        Case("no shift, no bias", (14, 14), (7, 7), (0, 0), bias="none"),
        Case("non-square, rectangular window", (8, 18), (4, 6), (1, 3), head_dim=16),
        Case("padding attended", (10, 12), (7, 7), (3, 3)),
        Case("padding attended, roll first", (10, 12), (7, 7), (3, 3), pad_order="roll_then_pad"),
        Case("padding masked", (10, 12), (7, 7), (3, 3), pad="masked"),
        Case("padding masked, roll first", (10, 12), (7, 7), (3, 3), pad="masked", pad_order="roll_then_pad"),
        Case("map smaller than the window", (3, 5), (7, 7), (0, 3)),
        Case("shift mask of -inf", (14, 14), (7, 7), (3, 3), mask_value=-inf),
        Case("explicit mask", (14, 14), (7, 7), (0, 0), mask=True),
        Case("explicit mask, shift, padding masked", (9, 9), (4, 4), (2, 1), mask=True, pad="masked"),
        Case("bias index", (14, 14), (7, 7), (3, 3), bias="index"),
        Case("scale 0.7, head_dim 10", (8, 8), (4, 4), (2, 2), head_dim=10, scale=0.7),
        Case("cosine", (16, 16), (8, 8), (4, 4), cosine=True),
        Case("cosine, padding attended", (10, 10), (8, 8), (4, 4), cosine=True),
        Case("dropout 0.25", (10, 12), (7, 7), (3, 3), dropout_p=0.25),
        Case("one token a window", (3, 5), (1, 1), (0, 0), head_dim=8),
        Case("3D, shift 1 2 2", (4, 8, 8), (2, 4, 4), (1, 2, 2), head_dim=16),
        Case("3D, padding attended", (3, 7, 9), (2, 4, 4), (1, 2, 2), head_dim=16),
    ]
    if quick:
        return small
    return small + [
        Case("Swin-T stage 1", (56, 56), (7, 7), (3, 3), batch=1, num_heads=3),
        Case("Swin-T stage 4", (7, 7), (7, 7), (0, 0), num_heads=24),
        Case("window 12, shift 6", (24, 36), (12, 12), (6, 6), batch=1),
        Case("window 16, head_dim 64", (32, 32), (16, 16), (8, 8), batch=1, head_dim=64),
        Case("window 24, cosine", (48, 24), (24, 24), (12, 12), batch=1, num_heads=1, cosine=True),
        Case("window 32, 1024 tokens", (33, 40), (32, 32), (16, 16), batch=1, num_heads=1),
        Case("head_dim 256", (8, 8), (4, 4), (2, 2), num_heads=1, head_dim=256),
        Case("head_dim 2", (14, 14), (7, 7), (3, 3), num_heads=4, head_dim=2),
        Case("3D, window 8 7 7", (8, 14, 14), (8, 7, 7), (4, 3, 3), batch=1, num_heads=1),
        Case("3D, padding masked, dropout 0.5", (5, 10, 9), (4, 7, 7), (2, 3, 3), pad="masked", dropout_p=0.5),
    ]


def make_inputs(case: Case, dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0) -> tuple[dict, dict]:
    """`case` as arguments of `window_attention`: (tensors by name, other options), the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(device, dtype)

    channels, tokens = 3 * case.num_heads * case.head_dim, prod(case.window_size)
    rows = bias_table_size(case.window_size)
    tensors = {"qkv": normal(case.batch, *case.grid, channels)}
    if case.bias != "none":
        tensors["bias_table"] = normal(rows, case.num_heads)
    if case.bias == "index":
        tensors["bias_index"] = torch.randint(-rows, rows, (tokens, tokens), generator=rng).to(device)
    if case.pad == "attended":
        tensors["pad_qkv"] = normal(channels)
    if case.mask:
        mask = normal(prod(num_windows(case.grid, case.window_size)), tokens, tokens)
        mask[mask > 1] = -torch.inf
        mask[0, 0] = -torch.inf
        tensors["mask"] = mask
    if case.cosine:
        tensors["logit_scale"] = 10 + normal(case.num_heads).abs()
    options = {
        "num_heads": case.num_heads,
        "window_size": case.window_size,
        "shift_size": case.shift_size,
        "scale": case.scale,
        "pad_order": case.pad_order,
        "mask_value": case.mask_value,
        "dropout_p": case.dropout_p,
    }
    return tensors, options


def run(tensors: dict, options: dict, backend: str, seed: int = 0) -> dict[str, Tensor]:
    """The output and every gradient for one random incoming gradient, the qkv gradient as its three parts.

    `seed` fixes the dropout and the incoming gradient, whatever the backend and dtype.
    """
    leaves = {k: v.detach().clone().requires_grad_() for k, v in tensors.items() if k not in ("bias_index", "mask")}
    with dispatch.use_backend(backend), torch.random.fork_rng(_cuda_devices(tensors["qkv"])):
        torch.manual_seed(seed)
        out = window_attention(**{**tensors, **leaves}, **options)
        rng = torch.Generator().manual_seed(seed)
        # drawn in the lowest precision in use, so that every dtype holds the same values
        grad = torch.randn(out.shape, generator=rng).bfloat16().to(out.device, out.dtype)
        grads = torch.autograd.grad(out, list(leaves.values()), grad, allow_unused=True, materialize_grads=True)
    result = {"out": out.detach()}
    for name, g in zip(leaves, grads, strict=True):
        parts = dict(zip("qkv", g.chunk(3, -1), strict=True)) if name == "qkv" else {name: g}
        result |= {f"grad {part}": t for part, t in parts.items()}
    return result


def compare(
    case: Case,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    seed: int = 0,
) -> list[Error]:
    """Run `case` on `backend`, on the formula in `dtype` and on the formula in float64; one `Error` a tensor."""
    tensors, options = make_inputs(case, dtype, device, seed)
    doubles = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    truth = run(doubles, options, "reference", seed)
    plain = run(tensors, options, "reference", seed)
    return errors(run(tensors, options, backend, seed), plain, truth, dtype)


def errors(fused: dict, plain: dict, truth: dict, dtype: torch.dtype, factor: float = 2.0) -> list[Error]:
    """The rule itself, for tensors by name: `fused` and `plain` in `dtype`, `truth` in float32 or float64."""
    result = []
    for name, exact in truth.items():
        largest = max(_largest(exact), 1.0)
        bound = factor * _largest(plain[name] - exact) + ALLOWANCE[dtype] * largest
        result.append(Error(name, _largest(fused[name] - exact), bound))
    return result


def _largest(t: Tensor) -> float:
    return t.abs().amax().item() if t.numel() else 0.0


def _cuda_devices(t: Tensor) -> list[torch.device]:
    return [t.device] if t.is_cuda else []
