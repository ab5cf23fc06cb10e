"""The documented front door of the ops: arguments are checked here, then one call into the dispatcher is made."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from math import inf, prod

import torch
from torch import Tensor

from . import dispatch, ops, reference
from .geometry import PAD_ORDERS, bias_table_size, num_windows, to_axes

MAX_WINDOW_TOKENS = 1024
MAX_HEAD_DIM = 256
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

__all__ = ["gelu", "window_attention"]


def window_attention(
    qkv: Tensor,
    bias_table: Tensor | None = None,
    *,
    num_heads: int,
    window_size: int | Sequence[int],
    shift_size: int | Sequence[int] = 0,
    scale: float | None = None,
    bias_index: Tensor | None = None,
    pad_qkv: Tensor | None = None,
    pad_order: str = "pad_then_roll",
    mask: Tensor | None = None,
    mask_value: float = -100.0,
    logit_scale: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Shifted-window multi-head self-attention on a channels-last map, in one pass over memory.

    Equal to: pad the map, roll it by ``-shift_size``, partition it into windows, attend inside each window with a
    relative position bias and the shift mask, reverse the windows, roll back, crop (Liu et al., "Swin Transformer",
    2021, section 3.2; "Swin Transformer V2", 2022, equation 2 for the cosine form). None of those steps touches memory.

    Args:
        qkv: (B, H, W, 3 * C) or (B, D, H, W, 3 * C), the output of the qkv Linear: all of q, then k, then v, each
            ``num_heads * head_dim`` channels. float32, bfloat16, float16 or float64 (on a GPU: plain PyTorch); any
            strides, a contiguous last axis is fastest. ``head_dim`` is even and at most 256. Windows in the original
            layout (num_windows * B, N, 3 * C) are the same op: view them as (num_windows * B, *window_size, 3 * C).
        bias_table: (T, num_heads), one bias per relative offset and head; T is prod(2 * w - 1) unless ``bias_index``
            is given. Any floating dtype.
        num_heads: attention heads; divides C.
        window_size: tokens per window along each grid axis (an int means the same on all); at most 1024 in all.
        shift_size: cyclic shift in tokens along each axis, 0 <= shift < window.
        scale: multiplies q . k; ``head_dim ** -0.5`` if None. Not allowed with ``logit_scale``.
        bias_index: (N, N) integer, the row of ``bias_table`` for query i and key j. Negative entries wrap. Its values
            are read once per tensor, to check them; on a GPU that waits for the device, so run a call once before it
            is captured in a CUDA graph.
        pad_qkv: (3 * C), what a token outside the map reads, where the window does not divide the map. Libraries pad x
            with zeros before the qkv Linear, so this is that Linear's bias (or zeros) and padded keys ARE attended to.
            None masks padded keys out.
        pad_order: "pad_then_roll" (the detection code, torchvision, transformers, MONAI) or "roll_then_pad" (timm).
        mask: (M, N, N) floating, added to the logits; window w (row-major, batch outermost) reads mask[w % M]. A query
            whose every key is at -inf gives zeros.
        mask_value: added where query and key come from different sides of the shift seam; -100 as in every library, or
            -inf.
        logit_scale: (num_heads), cosine attention: q and k are L2-normalised (eps 1e-12, in float32 or better) and
            their dot product is multiplied by this, which is already exp(clamp(.)).
        dropout_p: probability of dropping an attention weight, 0 <= p < 1; the seed comes from torch's generator.

    Returns:
        (B, *grid, C), contiguous, qkv's dtype. Differentiable in qkv, bias_table, pad_qkv and logit_scale.

    Raises:
        TypeError: an argument of the wrong kind or dtype. ValueError: a wrong shape, device or range. Both name the
            argument, what it got and what it needs, before any kernel runs.
    """
    window, shift, head_dim = check_arguments(
        qkv, bias_table, num_heads, window_size, shift_size, scale, bias_index, pad_qkv, pad_order, mask, mask_value,
        logit_scale, dropout_p,
    )  # fmt: skip
    if pad_qkv is not None and pad_qkv.dtype != qkv.dtype:
        pad_qkv = pad_qkv.to(qkv.dtype)  # autocast: the Linear's bias is float32, what it adds is qkv's dtype
    seed = torch.randint(2**62, (1,), dtype=torch.int64, device=qkv.device) if dropout_p > 0 else None
    scale = float(head_dim**-0.5 if scale is None else scale)
    options = (window, shift, scale, pad_order, float(mask_value), float(dropout_p))
    road = dispatch.road(qkv.device.type)
    if road == "reference":
        return reference.window_attention(
            qkv, bias_table, num_heads=num_heads, window_size=window, shift_size=shift, scale=scale,
            bias_index=bias_index, pad_qkv=pad_qkv, pad_order=pad_order, mask=mask, mask_value=mask_value,
            logit_scale=logit_scale, dropout_p=dropout_p, dropout_seed=seed,
        )  # fmt: skip
    op = ops.interpreted() if road == "interpreted" else None
    return ops.window_attention(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, *options, op)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU, x * Phi(x) with the normal distribution function Phi (Hendrycks and Gimpel, "Gaussian Error
    Linear Units", 2016), torch's ``approximate="none"``.

    On the CPU a kernel of our own takes float32, bfloat16 and float16, which keeps the digits of the tail down to -5.66
    and gives 0 below. PyTorch's own runs with gradients, in compiled or traced code, for float64 and on other devices.

    Args:
        x: any shape and strides; float32, bfloat16, float16 or float64.

    Returns:
        Shape and dtype of x; its strides where x fills its memory. gelu(inf) is inf, gelu(-inf) is NaN.

    Raises:
        TypeError: x is no tensor or has another dtype.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    return ops.gelu(x)


def check_arguments(
    qkv, bias_table, num_heads, window_size, shift_size, scale, bias_index, pad_qkv, pad_order, mask, mask_value,
    logit_scale, dropout_p,
) -> tuple[tuple[int, ...], tuple[int, ...], int]:  # fmt: skip
    """(window, shift, head_dim) of a call, window and shift per axis; raises what `window_attention` says it does."""
    if not isinstance(qkv, Tensor):
        raise TypeError(f"qkv must be a Tensor, got {type(qkv).__name__}")
    if qkv.dim() not in (4, 5):
        raise ValueError(f"qkv must be (B, H, W, 3*C) or (B, D, H, W, 3*C), got {qkv.dim()} axes: {tuple(qkv.shape)}")
    if qkv.dtype not in DTYPES:
        raise TypeError(f"qkv must be float32, bfloat16, float16 or float64, got {qkv.dtype}")
    window, shift = _check_window(qkv, window_size, shift_size)
    head_dim = _check_heads(qkv, num_heads)
    tokens = prod(window)
    _check_bias(qkv, bias_table, bias_index, num_heads, window, tokens)
    _check_tensor("pad_qkv", pad_qkv, qkv, (qkv.shape[-1],))
    _check_tensor("logit_scale", logit_scale, qkv, (num_heads,))
    _check_mask(mask, qkv, window, tokens)
    if pad_order not in PAD_ORDERS:
        raise ValueError(f"pad_order must be one of {PAD_ORDERS}, got {pad_order!r}")
    if not isinstance(mask_value, (int, float)) or not mask_value <= 0:
        raise ValueError(f"mask_value must be a number <= 0 (it is added to the logits), got {mask_value!r}")
    if scale is not None and logit_scale is not None:
        raise ValueError("scale and logit_scale exclude each other: cosine attention has no other scale")
    if scale is not None and not isinstance(scale, (int, float)):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    if scale is not None and not abs(scale) < inf:
        raise ValueError(f"scale must be finite, got {scale!r}")
    if not isinstance(dropout_p, (int, float)) or not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p!r}")
    return window, shift, head_dim


def _check_window(qkv: Tensor, window_size, shift_size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = qkv.dim() - 2
    window = to_axes(window_size, axes, "window_size")
    shift = to_axes(shift_size, axes, "shift_size")
    if min(window) < 1:
        raise ValueError(f"window_size must be at least 1 on every axis, got {window}")
    if prod(window) > MAX_WINDOW_TOKENS:
        raise ValueError(
            f"window_size may hold at most {MAX_WINDOW_TOKENS} tokens, got {window}: {prod(window)} tokens"
        )
    if any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ValueError(f"shift_size must be at least 0 and below window_size {window} on every axis, got {shift}")
    if any(g < 1 for g in qkv.shape[1:-1]):
        raise ValueError(f"qkv must have at least one token along every grid axis, got shape {tuple(qkv.shape)}")
    return window, shift


def _check_heads(qkv: Tensor, num_heads: int) -> int:
    if isinstance(num_heads, bool) or not isinstance(num_heads, int):
        raise TypeError(f"num_heads must be an int, got {type(num_heads).__name__}")
    channels = qkv.shape[-1]
    if num_heads < 1 or channels < 1 or channels % (3 * num_heads):
        raise ValueError(f"qkv's last axis must be 3 * num_heads * head_dim, got {channels} for num_heads={num_heads}")
    head_dim = channels // (3 * num_heads)
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be even and at most {MAX_HEAD_DIM}, got {head_dim} (num_heads={num_heads})")
    return head_dim


def _check_tensor(name: str, t: Tensor | None, qkv: Tensor, shape: tuple[int, ...] | None) -> None:
    if t is None:
        return
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a Tensor or None, got {type(t).__name__}")
    if t.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {t.dtype}")
    if t.device != qkv.device:
        raise ValueError(f"{name} must be on qkv's device {qkv.device}, got {t.device}")
    if shape is not None and tuple(t.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(t.shape)}")


def _check_bias(qkv: Tensor, table, index, num_heads: int, window: tuple[int, ...], tokens: int) -> None:
    if index is None:
        _check_tensor("bias_table", table, qkv, None if table is None else (bias_table_size(window), num_heads))
        return
    if table is None:
        raise ValueError("bias_index needs a bias_table to read from, got bias_table=None")
    _check_tensor("bias_table", table, qkv, None)
    if table.dim() != 2 or table.shape[1] != num_heads or table.shape[0] < 1:
        raise ValueError(f"bias_table must have shape (T, {num_heads}), got {tuple(table.shape)}")
    if not isinstance(index, Tensor):
        raise TypeError(f"bias_index must be a Tensor or None, got {type(index).__name__}")
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"bias_index must be int64 or int32, got {index.dtype}")
    if index.device != qkv.device:
        raise ValueError(f"bias_index must be on qkv's device {qkv.device}, got {index.device}")
    if tuple(index.shape) != (tokens, tokens):
        raise ValueError(
            f"bias_index must have shape {(tokens, tokens)} for window_size {window}, got {tuple(index.shape)}"
        )
    if not torch.compiler.is_compiling():
        _check_index_range(index, table.shape[0])


# id -> (weakref, version, rows): reading the values costs a pass, and a sync on a GPU
_checked_indices: dict[int, tuple] = {}


def _check_index_range(index: Tensor, rows: int) -> None:
    known = _checked_indices.get(id(index))
    if known is not None and known[0]() is index and known[1:] == (index._version, rows):
        return
    if index.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "bias_index is new in this CUDA graph, and its values cannot be read while one is captured: run the call "
            "once before the capture, with this very tensor"
        )
    low, high = (int(v) for v in torch.aminmax(index))
    if low < -rows or high >= rows:
        raise ValueError(
            f"bias_index must be in [-{rows}, {rows}) for a bias_table of {rows} rows, got [{low}, {high}]"
        )
    key = id(index)
    _checked_indices[key] = (weakref.ref(index, lambda _: _checked_indices.pop(key, None)), index._version, rows)


def _check_mask(mask: Tensor | None, qkv: Tensor, window: tuple[int, ...], tokens: int) -> None:
    if mask is None:
        return
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        raise TypeError("mask must be floating (it is added to the logits), got torch.bool; use 0 and -inf")
    _check_tensor("mask", mask, qkv, None)
    total = qkv.shape[0] * prod(num_windows(qkv.shape[1:-1], window))
    if mask.dim() != 3 or tuple(mask.shape[1:]) != (tokens, tokens) or mask.shape[0] < 1 or total % mask.shape[0]:
        raise ValueError(
            f"mask must have shape (M, {tokens}, {tokens}) with M dividing the {total} windows, got {tuple(mask.shape)}"
        )
