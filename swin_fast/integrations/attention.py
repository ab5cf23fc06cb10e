"""What the integrations share: the projections, the padding vector and the bias index around one call of the op."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import MAX_HEAD_DIM, MAX_WINDOW_TOKENS, window_attention
from ..geometry import relative_position_index
from .swap import hooked

LARGEST_LOGIT = math.log(100.0)  # Swin V2, section 3.2: the scale is clamped at 100


def why_not(head_dim: int, window: Sequence[int], shift: Sequence[int], *drops: nn.Module | float) -> str:
    """Why the op cannot take such an attention; empty where it can."""
    if head_dim % 2 or not 0 < head_dim <= MAX_HEAD_DIM:
        return f"head_dim {head_dim} is not an even number up to {MAX_HEAD_DIM}"
    if prod(window) > MAX_WINDOW_TOKENS:
        return f"a window of {tuple(window)} has more than {MAX_WINDOW_TOKENS} tokens"
    if any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
        return f"the shift {tuple(shift)} is not below the window {tuple(window)}"
    for drop in drops:
        if isinstance(drop, nn.Module) and type(drop) not in (nn.Dropout, nn.Identity):
            return f"its attention dropout is a {type(drop).__name__}"
        if dropout_rate(drop, True) >= 1:
            return "it drops all attention weights"
    return ""


def dropout_rate(drop: nn.Module | float, training: bool) -> float:
    rate = getattr(drop, "p", 0.0) if isinstance(drop, nn.Module) else drop
    return float(rate) if training else 0.0


def padded(x: Tensor, window: Sequence[int]) -> bool:
    """Whether the window does not divide the map x (B, *grid, C). A compiled graph is for any size, so it says yes."""
    return torch.compiler.is_compiling() or any(g % w for g, w in zip(x.shape[1:-1], window, strict=True))


def pad_vector(linear: nn.Module, x: Tensor) -> Tensor:
    """(3 * C), what `linear` makes of a token of zeros: its bias, or what a wrapper (LoRA, quantized) makes of it."""
    if type(linear) is not nn.Linear:
        return linear(x.new_zeros(1, x.shape[-1]))[0]
    return x.new_zeros(linear.out_features) if linear.bias is None else linear.bias


# id of a buffer -> (weakref, version, what was found out or made for each key); reading the values costs a pass
_known: dict[int, tuple[weakref.ref, int, dict]] = {}


def _memory(buffer: Tensor) -> dict:
    """A place to keep what depends on the values of `buffer`, empty again once they change."""
    if buffer.is_inference():
        return {}
    kept = _known.get(id(buffer))
    if kept is None or kept[0]() is not buffer or kept[1] != buffer._version:
        key = id(buffer)
        kept = _known[key] = weakref.ref(buffer, lambda _: _known.pop(key, None)), buffer._version, {}
    return kept[2]


def bias_index(buffer: Tensor, window: Sequence[int]) -> Tensor | None:
    """The op's `bias_index` for a library's index buffer, (N, N) or flat: None where it is the standard one.

    Where the window is smaller than the buffer's, the library reads ``buffer[:N, :N]``, and so does this.
    """
    tokens, window = prod(window), tuple(window)
    side = buffer.shape[0] if buffer.dim() == 2 else math.isqrt(buffer.numel())
    if torch.compiler.is_compiling():
        return buffer.view(side, side)[:tokens, :tokens].contiguous()
    memory = _memory(buffer)
    if window not in memory:
        with torch.inference_mode(False), torch.no_grad():
            index = buffer.view(side, side)
            # the same numbers read another table where the buffer was made for a larger window
            standard = side == tokens and torch.equal(index, relative_position_index(window).to(index))
            memory[window] = None if standard else index[:tokens, :tokens].contiguous()
    return memory[window]


def shrunk_index(window: Sequence[int], smaller: Sequence[int], device: torch.device) -> Tensor:
    """(N, N), the rows of `window`'s table for the offsets inside a `smaller` window: what the clamped window means."""
    offset, stride = torch.zeros((), dtype=torch.int64, device=device), 1
    for axis in reversed(range(len(window))):
        w, n = window[axis], smaller[axis]
        shape = [1] * len(window)
        shape[axis] = n
        position = torch.arange(n, device=device).view(shape).expand(tuple(smaller)).reshape(-1)
        offset = offset + (position[:, None] - position[None, :] + w - 1) * stride
        stride *= 2 * w - 1
    return offset


def offset_pairs(buffer: Tensor, window: Sequence[int]) -> Tensor:
    """(T,), for each offset inside a window one pair that has it, as ``query * N + key``; kept with `buffer`."""
    memory = {} if torch.compiler.is_compiling() else _memory(buffer)
    key = "pairs", tuple(window)
    if key not in memory:
        with torch.inference_mode(False), torch.no_grad():
            query = key_ = torch.zeros((), dtype=torch.int64, device=buffer.device)
            for w in window:
                offset = torch.arange(1 - w, w, device=buffer.device)
                query = (query * w)[..., None] + offset.clamp(min=0)
                key_ = (key_ * w)[..., None] + (-offset).clamp(min=0)
            memory[key] = (query * prod(window) + key_).flatten()
    return memory[key]


def softmax_attention(
    attn: nn.Module, x: Tensor, window: Sequence[int], shift: Sequence[int], index: Tensor | None, pad_order: str
) -> Tensor:
    """The original WindowAttention on a map: x (B, *grid, C) -> (B, *grid, C), with its `qkv` and `proj` as modules."""
    out = window_attention(
        attn.qkv(x),
        attn.relative_position_bias_table,
        num_heads=attn.num_heads,
        window_size=window,
        shift_size=shift,
        scale=attn.scale,
        bias_index=index,
        pad_qkv=pad_vector(attn.qkv, x) if padded(x, window) else None,
        pad_order=pad_order,
        dropout_p=dropout_rate(attn.attn_drop, attn.attn_drop.training),
    )
    return attn.proj_drop(attn.proj(out))


def position_bias(attn: nn.Module, mlp: nn.Module) -> Tensor:
    """(T, heads), Swin V2's continuous bias; the sigmoid is taken of the table, which is smaller than the bias."""
    heads = attn.logit_scale.numel()
    return 16 * torch.sigmoid(mlp(attn.relative_coords_table).view(-1, heads))


def cosine_attention(
    attn: nn.Module, x: Tensor, window: Sequence[int], shift: Sequence[int], index: Tensor | None, pad_order: str,
    largest: float = LARGEST_LOGIT,
) -> Tensor:  # fmt: skip
    """Swin V2's WindowAttention on a map, its bias for q and v beside a `qkv` without one."""
    separate = getattr(attn, "qkv_bias_separate", False)
    if attn.q_bias is None:
        qkv, bias = attn.qkv(x), None
    else:
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias, requires_grad=False), attn.v_bias))
        qkv = attn.qkv(x) + bias if separate else F.linear(x, attn.qkv.weight, bias)
    pad = None
    if padded(x, window):
        pad = pad_vector(attn.qkv, x) if bias is None else bias
    out = window_attention(
        qkv,
        position_bias(attn, attn.cpb_mlp),
        num_heads=attn.num_heads,
        window_size=window,
        shift_size=shift,
        bias_index=index,
        pad_qkv=pad,
        pad_order=pad_order,
        logit_scale=attn.logit_scale.clamp(max=largest).exp().flatten(),
        dropout_p=dropout_rate(attn.attn_drop, attn.attn_drop.training),
    )
    return attn.proj_drop(attn.proj(out))


def packed_projection(q: nn.Module, k: nn.Module, v: nn.Module, x: Tensor) -> Tensor:
    """(..., 3 * C), the three projections of x side by side.

    Without gradients each Linear writes its third of one buffer, so nothing is copied or kept; with them the weights
    are joined, which is cheaper than joining the results. Linears that are wrapped or watched are called as modules.
    """
    linears = q, k, v
    if not all(type(m) is nn.Linear and type(m.weight) is nn.Parameter and not hooked(m) for m in linears):
        return torch.cat([m(x) for m in linears], -1)
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        bias = None
        if any(m.bias is not None for m in linears):
            bias = torch.cat([_bias(m) for m in linears])
        return F.linear(x, torch.cat([m.weight for m in linears]), bias)
    if torch.compiler.is_compiling():  # the compiler writes the products to where they are joined
        return torch.cat([F.linear(x, m.weight, m.bias) for m in linears], -1)
    rows = x.reshape(-1, x.shape[-1])
    out = x.new_empty(rows.shape[0], sum(m.out_features for m in linears))
    for m, part in zip(linears, out.split([m.out_features for m in linears], 1), strict=True):
        if m.bias is None:
            torch.mm(rows, m.weight.t(), out=part)
        else:
            torch.addmm(m.bias, rows, m.weight.t(), out=part)
    return out.view(*x.shape[:-1], -1)


def packed_pad_vector(q: nn.Module, k: nn.Module, v: nn.Module, x: Tensor) -> Tensor:
    """(3 * C), what the three projections make of a token of zeros."""
    return torch.cat([pad_vector(m, x) for m in (q, k, v)])


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
