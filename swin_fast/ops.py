"""The op as the dispatcher knows it: schema, shapes without data, autograd, and what runs on each device.

The CPU key is C++ (csrc/cpu), registered when `native` loads the library. The CUDA key, which ROCm shares, is csrc/cuda
where that is loaded, which hands on what is not compiled in to `gpu`; else `gpu` itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import dispatch, gpu, native

_TENSORS = (
    "Tensor qkv, Tensor? bias_table, Tensor? bias_index, Tensor? pad_qkv, Tensor? mask, Tensor? logit_scale, "
    "Tensor? dropout_seed"
)
_OPTIONS = (
    "int num_heads, int[] window_size, int[] shift_size, float scale, bool roll_then_pad, float mask_value, "
    "float dropout_p"
)
# (out, lse): lse is (B, heads, *grid), the log of each softmax row's sum, or empty where save_lse is False
_FORWARD = f"window_attention{{}}({_TENSORS}, {_OPTIONS}, bool save_lse) -> (Tensor, Tensor)"
# gradients of qkv, bias_table, pad_qkv, logit_scale; needs is a bit for each (1, 2, 4, 8), the others come back empty
_BACKWARD = (
    f"window_attention_backward{{}}(Tensor grad, Tensor lse, {_TENSORS}, {_OPTIONS}, int needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

GELU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_lib = torch.library.Library("swin_fast", "FRAGMENT")
_lib.define("cpu_capability() -> str")
_lib.define("cuda_mode(int mode) -> int")  # 0: run what is compiled in, 1: hand every call on; the mode before
_lib.define("tf32() -> bool")
_lib.define("gelu(Tensor x) -> Tensor")
_lib.define("gelu_(Tensor(a!) x) -> ()")  # for a contiguous x that nobody else holds: its version is not counted up


@torch.library.impl(_lib, "tf32", "CompositeExplicitAutograd")
def _tf32() -> bool:
    """Whether torch lets float32 matrix products round their inputs to TF32; the CUDA library cannot ask it itself."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def window_attention(
    qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale, pad_order,
    mask_value, dropout_p, op=None,
) -> Tensor:  # fmt: skip
    """The op with its arguments already checked, see `functional.window_attention`; `op`: see `define_pair`."""
    save_lse = False  # the backward computes its softmax again, which is more exact than a rounded log-sum-exp
    return (op or torch.ops.swin_fast.window_attention)(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        pad_order == "roll_then_pad", mask_value, dropout_p, save_lse,
    )[0]  # fmt: skip


def gelu(x: Tensor) -> Tensor:
    """PyTorch's exact GELU; our kernel where `runs_gelu`."""
    return torch.ops.swin_fast.gelu.default(x) if runs_gelu(x) else F.gelu(x)


def runs_gelu(x: Tensor) -> bool:
    """Whether our GELU kernel takes x: a plain CPU tensor that no derivative is asked of, outside any tracing.

    A compiler fuses PyTorch's own, and for training it costs less than an autograd formula in Python.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in GELU_DTYPES
        and native.loaded
        and not (x.requires_grad and torch.is_grad_enabled())
        and forward_ad._current_level < 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch.jit.is_tracing()
        and dispatch.forced_backend() in ("auto", "cpu")
    )


def _fake(qkv, table, index, pad_qkv, mask, logit_scale, seed, num_heads, *options):
    save_lse = options[-1]
    batch, *grid, channels = qkv.shape
    lse_dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    lse = qkv.new_empty((batch, num_heads, *grid) if save_lse else (0,), dtype=lse_dtype)
    return qkv.new_empty((batch, *grid, channels // 3)), lse


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


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "swin_fast: window_attention_backward has no derivative of its own, so window attention has no second one; "
        'swin_fast.dispatch.use_backend("reference") runs it as plain PyTorch, which has'
    )


def _define_differentiable(suffix: str) -> None:
    """The op and its backward with this suffix: schemas, shapes, autograd; no kernel yet."""
    _lib.define(_FORWARD.format(suffix))
    _lib.define(_BACKWARD.format(suffix))
    forward, backward = f"swin_fast::window_attention{suffix}", f"swin_fast::window_attention_backward{suffix}"
    torch.library.register_fake(forward, _fake, lib=_lib)
    torch.library.register_fake(backward, _fake_backward, lib=_lib)
    op = getattr(torch.ops.swin_fast, f"window_attention_backward{suffix}")

    def differentiate(ctx, grad, _):
        if grad is None:
            return (None,) * 15
        lse, *tensors = ctx.saved_tensors
        if grad.stride(-1) != 1:
            grad = grad.contiguous()
        needs = sum(1 << bit for bit, i in enumerate(gpu.WANTED) if ctx.needs_input_grad[i])
        grads = op(grad, lse, *tensors, *ctx.options, needs)
        result = [None] * 15
        for bit, i in enumerate(gpu.WANTED):
            if needs >> bit & 1:
                result[i] = grads[bit]
        return tuple(result)

    torch.library.register_autograd(forward, differentiate, setup_context=_setup_context, lib=_lib)
    torch.library.register_autograd(backward, _no_second_derivative, lib=_lib)


def define_pair(suffix: str, forward: Callable, backward: Callable, key: str) -> torch._ops.OpOverload:
    """A second op, `window_attention{suffix}`, whose kernels for the dispatch key `key` are these two functions.

    Their arguments are those of `gpu.forward` and `gpu.backward`. Returns the op, for `window_attention(..., op=)`.
    """
    _define_differentiable(suffix)
    _lib.impl(f"window_attention{suffix}", forward, key)
    _lib.impl(f"window_attention_backward{suffix}", backward, key)
    return getattr(torch.ops.swin_fast, f"window_attention{suffix}").default


_interpreted = None


def interpreted() -> torch._ops.OpOverload:
    """The op on CPU tensors, run by Triton's interpreter; only where the backend "triton" is asked for by name."""
    global _interpreted
    if _interpreted is None:
        _interpreted = define_pair("_interpreted", gpu.forward, gpu.kernels("triton")[1], "CPU")
    return _interpreted


def _fake_gelu(x):
    out = torch.empty_like(x)
    return out if out.stride() == x.stride() else torch.empty_like(x, memory_format=torch.contiguous_format)


def _plain_gelu_(x):
    torch.ops.aten.gelu_(x)


_lib.impl("gelu", F.gelu, "CompositeExplicitAutograd")  # wherever there is no kernel of our own
_lib.impl("gelu_", _plain_gelu_, "CompositeExplicitAutograd")
torch.library.register_fake("swin_fast::gelu", _fake_gelu, lib=_lib)
torch.library.register_fake("swin_fast::gelu_", lambda x: None, lib=_lib)
torch.library.register_autograd(
    "swin_fast::gelu",
    lambda ctx, grad: torch.ops.aten.gelu_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    lib=_lib,
)
_define_differentiable("")
# what the CUDA library hands a call on to; below autograd, so they have a schema and kernels alone
_lib.define(_FORWARD.format("_python"))
_lib.define(_BACKWARD.format("_python"))
for _suffix in ("_python",) if native.cuda_loaded else ("_python", ""):
    _lib.impl(f"window_attention{_suffix}", gpu.forward, "CUDA")
    _lib.impl(f"window_attention_backward{_suffix}", gpu.backward, "CUDA")
dispatch.tell_cuda()
