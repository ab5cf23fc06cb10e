"""Answers a launch with the formula: reads CudaParams as a kernel would and writes what a kernel should."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from math import prod

import torch
from torch import Tensor

from swin_fast import reference
from tests.emulation.window_attention import Params

MAPS = [torch.float32, torch.float32, torch.bfloat16, torch.float16]  # by mode
SMALL = [torch.float32, torch.bfloat16, torch.float16]  # as DType counts them


def at(address: int | None, dtype: torch.dtype, shape: tuple, strides: tuple | None = None) -> Tensor | None:
    """The memory at an address as a tensor; None for a null pointer."""
    if address is None:
        return None
    if prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    strides = strides or torch.empty(shape, device="meta").stride()
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    buffer = (ctypes.c_char * (span * dtype.itemsize)).from_address(address)
    return torch.frombuffer(buffer, dtype=dtype).as_strided(shape, strides)


class Formula:
    """`launches` keeps (mode, backward, Params) of every launch."""

    def __init__(self, workspace_bytes):
        self.launches: list[tuple[int, bool, Params]] = []
        self.workspace_bytes = workspace_bytes

    def __call__(self, mode: int, backward: bool, address: int) -> int:
        p = Params.from_buffer_copy((ctypes.c_char * ctypes.sizeof(Params)).from_address(address))
        self.launches.append((mode, backward, p))
        with ThreadPoolExecutor(1) as fresh:  # in the caller's thread autograd is off: a kernel runs below it
            fresh.submit(self._backward if backward else self._forward, p, mode).result()
        return 0

    def _leaves(self, p: Params, dtype: torch.dtype) -> dict[str, Tensor | None]:
        channels = 3 * p.heads * p.head_dim
        maps = (p.batch, *p.geometry.grid, channels)
        return {
            "qkv": at(p.qkv, dtype, maps, (*p.qkv_stride, 1)),
            "bias_table": at(p.bias, SMALL[p.bias_dtype], (p.bias_rows, p.heads)),
            "pad_qkv": at(p.pad_qkv, dtype, (channels,)),
            "logit_scale": at(p.logit_scale, SMALL[p.logit_scale_dtype], (p.heads,)),
        }

    def _out(self, p: Params, leaves: dict) -> Tensor:
        g, n = p.geometry, (p.tokens, p.tokens)
        wide = {k: None if t is None else t.double() for k, t in leaves.items()}
        mask, index = at(p.mask, torch.float32, (p.mask_windows, *n)), at(p.bias_index, torch.int32, n)
        return reference.window_attention(
            **wide, num_heads=p.heads, window_size=tuple(g.window), shift_size=tuple(g.shift), scale=p.scale,
            bias_index=index, pad_order="roll_then_pad" if g.roll_then_pad else "pad_then_roll",
            mask=None if mask is None else mask.double(), mask_value=p.mask_value, dropout_p=p.dropout_p,
            dropout_seed=at(p.dropout_seed, torch.int64, (1,)),
        )  # fmt: skip

    def _forward(self, p: Params, mode: int) -> None:
        out = self._out(p, self._leaves(p, MAPS[mode]))
        at(p.out, MAPS[mode], out.shape).copy_(out)
        if p.lse is not None:
            at(p.lse, torch.float32, (p.batch, p.heads, *p.geometry.grid)).fill_(0.5)  # a kernel's own test has values

    def _backward(self, p: Params, mode: int) -> None:
        size = self.workspace_bytes(mode, ctypes.byref(p))
        if size:
            at(p.workspace, torch.uint8, (size,)).fill_(0)
        leaves = {k: t if t is None else t.clone().requires_grad_() for k, t in self._leaves(p, MAPS[mode]).items()}
        out = self._out(p, leaves)
        grad = at(p.grad_out, MAPS[mode], out.shape, (*p.grad_out_stride, 1)).double()
        wanted = {
            "qkv": p.grad_qkv,
            "bias_table": p.grad_bias,
            "pad_qkv": p.grad_pad,
            "logit_scale": p.grad_logit_scale,
        }
        wanted = {name: address for name, address in wanted.items() if address is not None}
        if not wanted:
            return
        inputs = [leaves[name] for name in wanted]
        grads = torch.autograd.grad(out, inputs, grad, allow_unused=True, materialize_grads=True)
        for address, leaf, value in zip(wanted.values(), inputs, grads, strict=True):
            at(address, leaf.dtype, leaf.shape).copy_(value)
