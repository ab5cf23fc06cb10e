"""`swin_fast.explain`: which backend would run a call of the op, and why each other would not."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from . import dispatch, functional
from .triton_kernels import tuning

_SIGNATURE = inspect.signature(functional.window_attention)
_DTYPES = dict(zip((torch.bfloat16, torch.float16, torch.float32), tuning.DTYPES, strict=True))


@dataclass(frozen=True)
class Explanation:
    """Printable. `backend` is "" where none would run; `reasons` has every other backend and why it would not.

    `detail` says where Triton's block shapes come from, if that is what runs.
    """

    call: dispatch.Call
    backend: str
    reasons: dict[str, str]
    detail: str = ""

    def __str__(self) -> str:
        lines = [f"window attention, {self.call}"]
        for name in dispatch.BACKENDS[1:]:
            runs = f"runs, {self.detail}" if self.detail else "runs"
            lines.append(f"  {name:<11}{runs if name == self.backend else f'not used: {self.reasons[name]}'}")
        return "\n".join(lines)


def explain(qkv: Tensor, bias_table: Tensor | None = None, **options) -> Explanation:
    """Which backend `functional.window_attention` would run for these arguments, which are the same as its own.

    Nothing is computed, and a backend that was asked for by name and cannot run is an answer here, not an error. Wrong
    arguments raise as in the call.
    """
    bound = _SIGNATURE.bind(qkv, bias_table, **options)
    bound.apply_defaults()
    given = bound.arguments
    window, _, head_dim = functional.check_arguments(**given)
    there = {k: given[k] is not None for k in ("bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")}
    call = dispatch.Call(
        dispatch.describe(qkv.device), qkv.dtype, qkv.shape[0], tuple(qkv.shape[1:-1]), window, given["num_heads"],
        head_dim, **there, dropout=given["dropout_p"] > 0,
    )  # fmt: skip
    backend, reasons = dispatch.choose(call)
    detail = tuning.why(prod(window), head_dim, _DTYPES[qkv.dtype], call.device.name) if backend == "triton" else ""
    return Explanation(call, backend, reasons, detail)
