"""The tuner's clock: one call of the kernels with a given `Config` on the current GPU, its results checked first."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from .. import dispatch, reference, testing
from . import window_attention
from .config import Config, Variant
from .tuning import CannotRun

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAMES = {False: ("out",), True: ("grad qkv", "grad bias_table")}  # by direction, what is compared
NEEDS = 3  # gradients of qkv and of the bias table


def on_this_gpu() -> tuple[Callable[[Variant, bool, Config], float], str, dict[str, str]]:
    """The timer, the GPU's name, and what to write down with the rows; `CannotRun` where there is no GPU to time on."""
    if not torch.cuda.is_available():
        raise CannotRun(f"torch {torch.__version__} sees no GPU, and only a GPU can be tuned for")
    device = dispatch.describe(torch.device("cuda"))
    return time_call, device.name, {"torch": torch.__version__, "triton": triton.__version__}


def time_call(variant: Variant, backward: bool, config: Config) -> float:
    """Median seconds of one call with a cold L2 cache."""
    try:
        _check(variant, backward, config)
        arguments = _arguments(variant, DTYPES[variant.dtype], "cuda")
        return do_bench(lambda: run(arguments, backward, config), return_mode="median") * 1e-3
    except (OutOfResources, PTXASError) as error:
        raise CannotRun(str(error)) from error


def run(arguments: tuple, backward: bool, config: Config | None) -> tuple[Tensor, ...]:
    """The kernels themselves, below autograd; tensors that are not asked for come back empty."""
    grad, *arguments = arguments
    if backward:
        return window_attention.backward(grad, grad.new_empty(0), *arguments, NEEDS, config=config)
    return window_attention.forward(*arguments, False, config=config)


@lru_cache(maxsize=2)
def _arguments(variant: Variant, dtype: torch.dtype, device: str) -> tuple:
    """(grad, the op's tensors, its options but the last); the same values for every dtype."""
    generator = torch.Generator().manual_seed(0)
    channels = variant.heads * variant.head_dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, DTYPES[variant.dtype]).to(dtype)

    rows = prod(2 * n - 1 for n in variant.window)
    qkv, grad = (normal(variant.batch, *variant.grid, n * channels) for n in (3, 1))
    options = (variant.heads, variant.window, variant.shift, variant.head_dim**-0.5, False, -100.0, 0.0)
    return grad, qkv, normal(rows, variant.heads), None, None, None, None, None, *options


def _check(variant: Variant, backward: bool, config: Config) -> None:
    """The results for one image against the formula in float64; `CannotRun` where they break the error rule."""
    one = Variant(**{**variant.__dict__, "batch": 1})
    plain, truth = _formula(one, backward)
    arguments = _arguments(one, DTYPES[one.dtype], "cuda")
    fused = dict(zip(NAMES[backward], run(arguments, backward, config), strict=False))
    for found in testing.errors(fused, plain, truth, DTYPES[one.dtype]):
        if not found.ok:
            raise CannotRun(f"{found.name} is off by {found.error:.2e}, allowed {found.bound:.2e}")


@lru_cache(maxsize=2)
def _formula(variant: Variant, backward: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Plain PyTorch in the variant's dtype and in float64: the output, or the gradients of qkv and bias table."""
    results = []
    for dtype in (DTYPES[variant.dtype], torch.float64):
        grad, qkv, table, *_ = _arguments(variant, dtype, "cuda")
        qkv, table = qkv.detach().requires_grad_(), table.detach().requires_grad_()
        out = reference.window_attention(
            qkv, table, num_heads=variant.heads, window_size=variant.window, shift_size=variant.shift,
            scale=variant.head_dim**-0.5,
        )  # fmt: skip
        tensors = torch.autograd.grad(out, (qkv, table), grad) if backward else (out.detach(),)
        results.append(dict(zip(NAMES[backward], tensors, strict=True)))
    return results[0], results[1]
