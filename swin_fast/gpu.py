"""What the op does with a tensor on a GPU that the CUDA library does not take: Triton, or plain PyTorch.

Registered under the dispatcher's CUDA key (ROCm shares it), below autograd. Plain PyTorch is the last resort here, so
that a graph holding the op runs wherever it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from . import dispatch, reference

WANTED = (0, 1, 3, 5)  # where qkv, bias_table, pad_qkv and logit_scale, which have gradients, are among the tensors


def forward(
    qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
    roll_then_pad, mask_value, dropout_p, save_lse,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    name = dispatch.gpu_backend(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, num_heads, window_size, dropout_p
    )
    return kernels(name)[0](
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        roll_then_pad, mask_value, dropout_p, save_lse,
    )  # fmt: skip


def backward(
    grad, lse, qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
    roll_then_pad, mask_value, dropout_p, needs,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    name = dispatch.gpu_backend(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, num_heads, window_size, dropout_p
    )
    return kernels(name)[1](
        grad, lse, qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size,
        scale, roll_then_pad, mask_value, dropout_p, needs,
    )  # fmt: skip


@lru_cache(maxsize=8)
def kernels(name: str) -> tuple[Callable, Callable]:
    """Forward and backward of a backend, with the argument lists above; Triton is imported on its first call."""
    if name == "triton":
        from .triton_kernels import window_attention

        return window_attention.forward, window_attention.backward
    return formula_forward, formula_backward


def _formula(tensors, options) -> Callable[..., Tensor]:
    """`reference.window_attention` as a function of the four tensors that have gradients."""
    num_heads, window_size, shift_size, scale, roll_then_pad, mask_value, dropout_p = options
    _, _, bias_index, _, mask, _, seed = tensors

    def run(qkv, bias_table, pad_qkv, logit_scale):
        return reference.window_attention(
            qkv, bias_table, num_heads=num_heads, window_size=tuple(window_size), shift_size=tuple(shift_size),
            scale=scale, bias_index=bias_index, pad_qkv=pad_qkv,
            pad_order="roll_then_pad" if roll_then_pad else "pad_then_roll", mask=mask, mask_value=mask_value,
            logit_scale=logit_scale, dropout_p=dropout_p, dropout_seed=seed,
        )  # fmt: skip

    return run


def formula_forward(*arguments) -> tuple[Tensor, Tensor]:
    """`forward` in plain PyTorch."""
    *arguments, save_lse = arguments
    if save_lse:
        raise RuntimeError("swin_fast: save_lse is for the kernels, and plain PyTorch runs this call")
    tensors = arguments[:7]
    qkv = tensors[0]
    out = _formula(tensors, arguments[7:])(*(tensors[i] for i in WANTED))
    return out.contiguous(), qkv.new_empty(0, dtype=torch.promote_types(qkv.dtype, torch.float32))


def formula_backward(grad, _, *arguments) -> tuple[Tensor, ...]:
    """`backward` in plain PyTorch; it computes the forward again."""
    *arguments, needs = arguments
    tensors = arguments[:7]
    run = _formula(tensors, arguments[7:])
    bits = [bit for bit in range(4) if needs >> bit & 1]
    leaves = [tensors[i] for i in WANTED]

    def of_leaves(*wanted):
        given = dict(zip(bits, wanted, strict=True))
        return run(*(given.get(bit, leaf) for bit, leaf in enumerate(leaves)))

    # a functional transform, because autograd itself is off below the dispatcher's autograd key
    _, pull = torch.func.vjp(of_leaves, *(leaves[bit] for bit in bits))
    found = dict(zip(bits, pull(grad), strict=True))
    return tuple(found[bit].contiguous() if bit in found else grad.new_empty(0) for bit in range(4))
