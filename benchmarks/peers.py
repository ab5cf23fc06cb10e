"""The attention core as others compute it, and every candidate held to the same truth before it is timed.

The core starts at the qkv map and ends at the map of the heads' outputs. The original code rolls and partitions x
before the qkv Linear, which moves a third of the channels: candidates "on windows" are that road. They are given x and
the windows of qkv, and their time is the roll and partition of x plus the attention on those windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from swin_fast import native, testing
from swin_fast.functional import window_attention
from swin_fast.geometry import relative_position_index

WINDOW = 7
OURS = "swin_fast"
# Swin-T at 224 x 224
STAGES = {
    1: testing.Case("56x56x96", (56, 56), (WINDOW, WINDOW), (3, 3), num_heads=3, pad="masked"),
    2: testing.Case("28x28x192", (28, 28), (WINDOW, WINDOW), (3, 3), num_heads=6, pad="masked"),
    3: testing.Case("14x14x384", (14, 14), (WINDOW, WINDOW), (3, 3), num_heads=12, pad="masked"),
    4: testing.Case("7x7x768", (7, 7), (WINDOW, WINDOW), (0, 0), num_heads=24, pad="masked"),
}


def to_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, N, C)"""
    batch, height, width, channels = x.shape
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, height: int, width: int, window: int, shift: int) -> Tensor:
    """(B * windows, N, C) -> (B, H, W, C)"""
    channels = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, channels)
    x = x.transpose(2, 3).reshape(-1, height, width, channels)
    return torch.roll(x, (shift, shift), (1, 2)) if shift else x


def shift_mask(height: int, width: int, window: int, shift: int, dtype: torch.dtype) -> Tensor | None:
    """(windows, N, N), -100 where query and key come from different parts of the map; a model keeps it in a buffer."""
    if not shift:
        return None
    bands = [(torch.arange(n) >= n - window).long() + (torch.arange(n) >= n - shift).long() for n in (height, width)]
    parts = (3 * bands[0][:, None] + bands[1]).view(1, height, width, 1)
    parts = to_windows(parts, window, 0).squeeze(-1)
    return torch.where(parts[:, :, None] == parts[:, None, :], 0.0, -100.0).to(dtype)


def _bias(table: Tensor, index: Tensor) -> Tensor:
    """(1, heads, N, N)"""
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


def eager(qkv: Tensor, table: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    """(B * windows, N, 3 * C) -> (B * windows, N, C), step by step as in the original model code."""
    count, tokens, channels = qkv.shape
    heads = table.shape[1]
    q, k, v = qkv.view(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    attn = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + _bias(table, index)
    if mask is not None:
        attn = attn.view(-1, len(mask), heads, tokens, tokens) + mask[None, :, None]
        attn = attn.view(count, heads, tokens, tokens)
    return (attn.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, channels // 3)


def sdpa(qkv: Tensor, table: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    """The same through PyTorch's fused attention, which wants bias and mask as one tensor, made in every call."""
    count, tokens, channels = qkv.shape
    heads = table.shape[1]
    q, k, v = qkv.view(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    added = _bias(table, index)
    if mask is not None:
        repeated = mask[None, :, None].expand(count // len(mask), -1, heads, -1, -1)
        added = added + repeated.reshape(count, heads, tokens, tokens)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    return out.transpose(1, 2).reshape(count, tokens, channels // 3)


@dataclass(frozen=True)
class Candidate:
    """A core with its inputs. The last two inputs are qkv and the bias table, the last output is the core's."""

    name: str
    forward: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    incoming: tuple[Tensor, ...]
    qkv_to_map: Callable[[Tensor], Tensor]
    backward: bool

    def __call__(self) -> tuple[Tensor, ...]:
        """Outputs, then the gradients where there is a backward."""
        if self.backward:
            outputs = self.forward(*self.inputs)
            return *outputs, *torch.autograd.grad(outputs, self.inputs, self.incoming)
        with torch.inference_mode():
            return self.forward(*self.inputs)

    def results(self) -> dict[str, Tensor]:
        """One call's tensors under the names of `swin_fast.testing.run`."""
        called = self()
        named = {"out": called[len(self.incoming) - 1].detach()}
        if self.backward:
            parts = self.qkv_to_map(called[-2]).chunk(3, -1)
            named |= {f"grad {name}": part for name, part in zip("qkv", parts, strict=True)}
            named["grad bias_table"] = called[-1]
        return named


def candidates(
    case: testing.Case, dtype: torch.dtype, backward: bool = False, compiled: bool = False, on_windows: bool = False
) -> dict[str, Candidate]:
    """Ours, then the peers, all on the same numbers."""
    if not native.loaded:
        raise RuntimeError(f"nothing to time: {native.reason}")
    tensors, options = testing.make_inputs(case, dtype)
    qkv, table = tensors["qkv"], tensors["bias_table"]
    (height, width), window, shift = case.grid, case.window_size[0], case.shift_size[0]
    index, mask = relative_position_index(case.window_size), shift_mask(height, width, window, shift, dtype)
    split = partial(to_windows, window=window, shift=shift)
    join = partial(from_windows, height=height, width=width, window=window, shift=shift)
    rng = torch.Generator().manual_seed(0)
    grad = torch.randn(*qkv.shape[:-1], qkv.shape[-1] // 3, generator=rng).bfloat16().to(dtype)  # as in `testing.run`

    def make(name, forward, inputs, incoming, qkv_to_map=lambda t: t) -> Candidate:
        inputs = tuple(t.clone().requires_grad_(backward) for t in inputs)
        return Candidate(name, forward, inputs, incoming, qkv_to_map, backward)

    def ours(qkv, table):
        return (window_attention(qkv, table, **options),)

    found = [make(OURS, ours, (qkv, table), (grad,))]
    for attend in (eager, sdpa):

        def peer(qkv, table, attend=attend):
            return (join(attend(split(qkv), table, index, mask)),)

        def windows_peer(x, qkv_windows, table, attend=attend):
            return split(x), join(attend(qkv_windows, table, index, mask))

        for suffix, wrap in [("", lambda f: f)] + compiled * [(" compiled", _compile)]:
            found.append(make(attend.__name__ + suffix, wrap(peer), (qkv, table), (grad,)))
            if on_windows:
                inputs, incoming = (torch.randn_like(grad), split(qkv), table), (split(grad), grad)
                name = f"{attend.__name__} on windows{suffix}"
                found.append(make(name, wrap(windows_peer), inputs, incoming, join))
    return {candidate.name: candidate for candidate in found}


def _compile(function):
    return torch.compile(function, fullgraph=True, dynamic=False)


def check(case: testing.Case, dtype: torch.dtype, found: dict[str, Candidate]) -> None:
    """Raise unless every candidate's error is at most twice that of the plain formula in `dtype`, against float64."""
    tensors, options = testing.make_inputs(case, dtype)
    exact = testing.run({name: t.double() for name, t in tensors.items()}, options, "reference")
    plain = testing.run(tensors, options, "reference")
    for name, candidate in found.items():
        truth = exact if candidate.backward else {"out": exact["out"]}
        wrong = [e for e in testing.errors(candidate.results(), plain, truth, dtype) if not e.ok]
        if wrong:
            raise RuntimeError(f"{name} is not timed, because it is wrong at {case.name}, {dtype}: {wrong}")
