"""Inputs as nobody wishes them: views over NaN, slices, permuted and expanded strides, nothing at all."""

from __future__ import annotations

import pytest
import torch

from swin_fast.functional import window_attention

from ..weights import assert_close
from .cases import DTYPES, Case, run

CASE = Case((4, 3), (9, 7), shift=(2, 1), head_dim=16, batch=3, pad="attended", mask="batch", bias="index", cosine=True)
CUBE = Case((2, 3, 2), (3, 5, 4), shift=1, heads=3, head_dim=10, pad="attended", mask="one", bias="index", cosine=True)


def offset_view(t):
    buffer = _sentinel(t, t.numel() + 23)
    return buffer[11 : 11 + t.numel()].view(t.shape), buffer


def slice_of_larger(t):
    buffer = _sentinel(t, *(n + 3 for n in t.shape))
    return buffer[tuple(slice(2, 2 + n) for n in t.shape)], buffer


def every_third(t):
    buffer = _sentinel(t, *t.shape[:-1], 3 * t.shape[-1])
    return buffer[..., 1::3], buffer


def axes_reversed_in_memory(t):
    buffer = _sentinel(t, *reversed(t.shape))
    return buffer.permute(*reversed(range(t.dim()))), buffer


def channels_first(t):
    buffer = _sentinel(t, t.shape[0], t.shape[-1], *t.shape[1:-1])
    return buffer.movedim(1, -1), buffer


def outer_axes_swapped(t):
    order = [*reversed(range(t.dim() - 1)), t.dim() - 1]
    buffer = _sentinel(t, *(t.shape[i] for i in order))
    return buffer.permute(order), buffer  # the last axis stays contiguous


OF_A_VECTOR = [offset_view, slice_of_larger, every_third]
LAYOUTS = [*OF_A_VECTOR, axes_reversed_in_memory, channels_first, outer_axes_swapped]
PAIRS = [(name, layout) for name in ("qkv", "bias_table", "bias_index", "mask", "grad") for layout in LAYOUTS]
PAIRS += [(name, layout) for name in ("pad_qkv", "logit_scale") for layout in OF_A_VECTOR]


def _sentinel(t: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.full(shape, torch.nan if t.is_floating_point() else 2**40, dtype=t.dtype, device=t.device)


@pytest.mark.parametrize("name, layout", PAIRS)
@pytest.mark.parametrize("case", [CASE, CUBE], ids=["2d", "3d"])
def test_layout(case, name, layout):
    """The values decide, not where they lie; nothing around them is read or written."""
    tensors = case.tensors(torch.float32)
    want = run(case, tensors)
    view, buffer = layout(tensors[name])
    view.copy_(tensors[name])
    before = buffer.clone()
    assert_close(run(case, {**tensors, name: view}), want, 1e-5)
    assert torch.equal(buffer.nan_to_num(nan=-7e7), before.nan_to_num(nan=-7e7))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_all_layouts_at_once(dtype):
    tensors = CASE.tensors(dtype)
    views = {k: slice_of_larger(t)[0] for k, t in tensors.items()}
    for k, view in views.items():
        view.copy_(tensors[k])
    got, want = run(CASE, views), run(CASE, tensors)
    assert_close(got, want, 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_expanded_map(axis):
    """A stride of zero, as `expand` makes it."""
    tensors = CASE.tensors(torch.float32)
    for k in ("qkv", "grad"):
        tensors[k] = tensors[k].narrow(axis, 0, 1).expand_as(tensors[k])
    assert tensors["qkv"].stride(axis) == 0
    assert_close(run(CASE, tensors), run(CASE, {k: t.contiguous() for k, t in tensors.items()}), 1e-5)


def test_expanded_mask():
    tensors = CASE.tensors(torch.float32)
    tensors["mask"] = tensors["mask"][:1, :1].expand_as(tensors["mask"])
    assert_close(run(CASE, tensors), run(CASE, {k: t.contiguous() for k, t in tensors.items()}), 1e-5)


def test_gradient_of_a_sum():
    """`out.sum()` hands back one number expanded to the whole map, a stride of zero on every axis."""
    tensors = CASE.tensors(torch.float64)
    ones = torch.ones_like(tensors["grad"])
    want = run(CASE, {**tensors, "grad": ones})
    assert_close(run(CASE, {**tensors, "grad": ones[:1, :1, :1, :1].clone().expand_as(ones)}), want, 1e-12)


@pytest.mark.parametrize("case", [CASE, CUBE], ids=["2d", "3d"])
def test_output_is_contiguous_and_inputs_stay(case):
    tensors = case.tensors(torch.float32)
    before = {k: t.clone() for k, t in tensors.items() if t is not None}
    view, _ = slice_of_larger(tensors["qkv"])
    view.copy_(tensors["qkv"])
    arguments = {k: t for k, t in tensors.items() if k != "grad"}
    assert window_attention(**{**arguments, "qkv": view}, **case.options).is_contiguous()
    run(case, tensors)
    assert all(torch.equal(tensors[k], t) for k, t in before.items())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("mask", ["none", "image", "one"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_empty_batch(dtype, mask, dropout):
    """Nothing in, nothing out, and a gradient of zeros, not of whatever lay in memory."""
    case = Case((4, 3), (9, 7), shift=1, batch=0, pad="attended", mask=mask, cosine=True, dropout=dropout)
    got = run(case, case.tensors(dtype))
    assert got["out"].shape == (0, 9, 7, 16) and got["dq"].shape == (0, 9, 7, 16)
    for name in ("d_bias_table", "d_pad_qkv", "d_logit_scale"):
        assert torch.count_nonzero(got[name]) == 0 and got[name].numel()


def test_window_layout_is_a_view_of_the_map():
    """(num_windows * B, N, 3C) seen as maps of one window each: the original code's partitioned road."""
    case = Case((4, 6), (8, 12), head_dim=16)
    tensors = case.tensors(torch.float64)
    want = window_attention(tensors["qkv"], tensors["bias_table"], **case.options)
    windows = tensors["qkv"].unflatten(1, (2, 4)).unflatten(3, (2, 6)).transpose(2, 3).flatten(0, 2)
    out = window_attention(windows.flatten(1, 2).unflatten(1, (4, 6)), tensors["bias_table"], **case.options)
    out = out.unflatten(0, (2, 2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
