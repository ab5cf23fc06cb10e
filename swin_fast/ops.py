"""The op as the dispatcher knows it: schema, shapes without data, autograd, and what runs on each device.

Kernels are C++ (csrc), registered under the CPU key when `native` loads the library. A device without a kernel takes
the reference formula inside the op, and says so once.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import native, reference

_TENSORS = (
    "Tensor qkv, Tensor? bias_table, Tensor? bias_index, Tensor? pad_qkv, Tensor? mask, Tensor? logit_scale, "
    "Tensor? dropout_seed"
)
_OPTIONS = (
    "int num_heads, int[] window_size, int[] shift_size, float scale, bool roll_then_pad, float mask_value, float dropout_p"
)
# (out, lse): lse is (B, heads, *grid), the log of each softmax row's sum, or empty where save_lse is False
_FORWARD = f"window_attention({_TENSORS}, {_OPTIONS}, bool save_lse) -> (Tensor, Tensor)"
# gradients of qkv, bias_table, pad_qkv, logit_scale; needs is a bit for each (1, 2, 4, 8), the others come back empty
_BACKWARD = f"window_attention_backward(Tensor grad, Tensor lse, {_TENSORS}, {_OPTIONS}, int needs) -> (Tensor, Tensor, Tensor, Tensor)"

_lib = torch.library.Library("swin_fast", "FRAGMENT")
_lib.define(_FORWARD)
_lib.define(_BACKWARD)
_lib.define("cpu_capability() -> str")


def window_attention(
    qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale, pad_order,
    mask_value, dropout_p,
) -> Tensor:  # fmt: skip
    """The op with its arguments already checked, see `functional.window_attention`."""
    # The CPU's backward computes its softmax again, which is more exact than a rounded log-sum-exp: it saves nothing.
    save_lse = qkv.device.type != "cpu" and torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (qkv, bias_table, pad_qkv, logit_scale)
    )  # fmt: skip
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


def _formula(qkv, table, index, pad_qkv, mask, logit_scale, seed, num_heads, window, shift, scale, roll_then_pad, mask_value, p):
    pad_order = "roll_then_pad" if roll_then_pad else "pad_then_roll"
    return reference.window_attention(
        qkv, table, num_heads=num_heads, window_size=window, shift_size=shift, scale=scale, bias_index=index,
        pad_qkv=pad_qkv, pad_order=pad_order, mask=mask, mask_value=mask_value, logit_scale=logit_scale, dropout_p=p,
        dropout_seed=seed,
    )  # fmt: skip


_warned: set[str] = set()


def _say_once(device: str) -> None:
    if device not in _warned:
        _warned.add(device)
        reason = native.reason if device == "cpu" else f"there is no kernel for {device} tensors"
        warnings.warn(f"swin_fast: window attention runs as plain PyTorch, because {reason}", stacklevel=4)


def _slow_forward(qkv, *args):
    _say_once(qkv.device.type)
    *args, save_lse = args
    out = _formula(qkv, *args).contiguous()
    return out, qkv.new_empty((qkv.shape[0], args[6], *qkv.shape[1:-1]) if save_lse else 0, dtype=_lse_dtype(qkv)).zero_()


def _slow_backward(grad, lse, *args):
    *args, needs = args
    with torch.enable_grad():
        args = [t.detach() if isinstance(t, Tensor) else t for t in args]
        leaves = [args[i].requires_grad_() for bit, i in enumerate((0, 1, 3, 5)) if needs >> bit & 1]
        grads = iter(torch.autograd.grad(_formula(*args), leaves, grad, allow_unused=True, materialize_grads=True))
    return tuple(next(grads).contiguous() if needs >> bit & 1 else grad.new_empty(0) for bit in range(4))


def _lse_dtype(qkv: Tensor) -> torch.dtype:
    return torch.float64 if qkv.dtype == torch.float64 else torch.float32


for _key in ("CUDA", "MPS", "XPU") if native.loaded else ("CPU", "CUDA", "MPS", "XPU"):
    _lib.impl("window_attention", _slow_forward, _key)
    _lib.impl("window_attention_backward", _slow_backward, _key)
