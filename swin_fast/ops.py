"""The op as the dispatcher knows it: schema, shapes without data, autograd, and what runs on each device.

Kernels are C++ (csrc), registered under the CPU key when `native` loads the library.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native  # noqa: F401  registers the kernels

_TENSORS = (
    "Tensor qkv, Tensor? bias_table, Tensor? bias_index, Tensor? pad_qkv, Tensor? mask, Tensor? logit_scale, "
    "Tensor? dropout_seed"
)
_OPTIONS = (
    "int num_heads, int[] window_size, int[] shift_size, float scale, bool roll_then_pad, float mask_value, "
    "float dropout_p"
)
# (out, lse): lse is (B, heads, *grid), the log of each softmax row's sum, or empty where save_lse is False
_FORWARD = f"window_attention({_TENSORS}, {_OPTIONS}, bool save_lse) -> (Tensor, Tensor)"
# gradients of qkv, bias_table, pad_qkv, logit_scale; needs is a bit for each (1, 2, 4, 8), the others come back empty
_BACKWARD = (
    f"window_attention_backward(Tensor grad, Tensor lse, {_TENSORS}, {_OPTIONS}, int needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

_lib = torch.library.Library("swin_fast", "FRAGMENT")
_lib.define(_FORWARD)
_lib.define(_BACKWARD)
_lib.define("cpu_capability() -> str")


def window_attention(
    qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale, pad_order,
    mask_value, dropout_p,
) -> Tensor:  # fmt: skip
    """The op with its arguments already checked, see `functional.window_attention`."""
    save_lse = False  # the backward computes its softmax again, which is more exact than a rounded log-sum-exp
    return torch.ops.swin_fast.window_attention(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        pad_order == "roll_then_pad", mask_value, dropout_p, save_lse,
    )[0]  # fmt: skip


@torch.library.register_fake("swin_fast::window_attention", lib=_lib)
def _fake(qkv, table, index, pad_qkv, mask, logit_scale, seed, num_heads, *options):
    save_lse = options[-1]
    batch, *grid, channels = qkv.shape
    lse_dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    lse = qkv.new_empty((batch, num_heads, *grid) if save_lse else (0,), dtype=lse_dtype)
    return qkv.new_empty((batch, *grid, channels // 3)), lse


@torch.library.register_fake("swin_fast::window_attention_backward", lib=_lib)
def _fake_backward(grad, lse, qkv, table, index, pad_qkv, mask, logit_scale, seed, *options):
    needs = options[-1]
    wanted = (qkv, table, pad_qkv, logit_scale)
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) if needs >> i & 1 else qkv.new_empty(0)
        for i, t in enumerate(wanted)
    )


def _setup_context(ctx, inputs, output):
    tensors, ctx.options = inputs[:7], inputs[7:-1]
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    if grad is None:
        return (None,) * 15
    lse, *tensors = ctx.saved_tensors
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    wanted = (0, 1, 3, 5)  # positions of qkv, bias_table, pad_qkv, logit_scale among the inputs
    needs = sum(1 << bit for bit, i in enumerate(wanted) if ctx.needs_input_grad[i])
    grads = torch.ops.swin_fast.window_attention_backward(grad, lse, *tensors, *ctx.options, needs)
    result = [None] * 15
    for bit, i in enumerate(wanted):
        if needs >> bit & 1:
            result[i] = grads[bit]
    return tuple(result)


torch.library.register_autograd("swin_fast::window_attention", _backward, setup_context=_setup_context, lib=_lib)


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "swin_fast: window_attention_backward has no derivative of its own, so window attention has no second one; "
        'swin_fast.dispatch.use_backend("reference") runs it as plain PyTorch, which has'
    )


torch.library.register_autograd("swin_fast::window_attention_backward", _no_second_derivative, lib=_lib)
