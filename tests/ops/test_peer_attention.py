"""The op against the libraries' own attention on the whole map, in float64, with every gradient."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention
from swin_fast.geometry import relative_position_index

from ..peers import define_torchvision_operators
from ..weights import assert_close

HEADS, HEAD_DIM = 2, 4
DIM = HEADS * HEAD_DIM


def peer(name: str):
    """A module of a library, all of which import torchvision."""
    define_torchvision_operators()
    return import_module(name)


def inputs(rows: int, *grid: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    shapes = {"x": (2, *grid, DIM), "weight": (3 * DIM, DIM), "bias": (3 * DIM,), "table": (rows, HEADS)}
    return {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in shapes.items()}


def with_gradients(function, tensors: dict) -> dict[str, torch.Tensor]:
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    out = function(**leaves)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(8), dtype=out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), grad)
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


def ours(window, shift, backend, **options):
    def function(x, weight, bias, table, logit_scale=None):
        if logit_scale is not None:
            options["logit_scale"] = logit_scale
        qkv, options["pad_qkv"] = F.linear(x, weight, bias), bias
        with use_backend(backend):
            return window_attention(qkv, table, num_heads=HEADS, window_size=window, shift_size=shift, **options)

    return function


@pytest.fixture(params=["reference", "auto"])
def backend(request):
    return request.param


MAPS = [((7, 7), (14, 14), (3, 3)), ((7, 7), (14, 14), (0, 0)), ((4, 5), (8, 15), (2, 0)), ((4, 5), (8, 15), (1, 4))]
UNEVEN = [((4, 5), (9, 12), (2, 2)), ((4, 5), (7, 23), (0, 3)), ((7, 7), (10, 10), (3, 3)), ((4, 5), (9, 11), (0, 0))]


@pytest.mark.parametrize("window, grid, shift", MAPS + UNEVEN)
def test_torchvision(window, grid, shift, backend):
    swin = peer("torchvision.models.swin_transformer")
    index = relative_position_index(window)

    def theirs(x, weight, bias, table):
        position = table[index].permute(2, 0, 1)[None]
        return swin.shifted_window_attention(
            x, weight, torch.eye(DIM, dtype=x.dtype), position, list(window), HEADS, list(shift), qkv_bias=bias
        )

    t = inputs((2 * window[0] - 1) * (2 * window[1] - 1), *grid)
    assert_close(with_gradients(ours(window, shift, backend), t), with_gradients(theirs, t), 1e-12)


@pytest.mark.parametrize("window, grid, shift", MAPS + UNEVEN)
def test_torchvision_cosine(window, grid, shift, backend):
    """Version 2 on maps the window divides or not: there is no bias of k, so a padded key is all zeros."""
    swin = peer("torchvision.models.swin_transformer")
    index = relative_position_index(window)

    def theirs(x, weight, bias, table, logit_scale):
        position = table[index].permute(2, 0, 1)[None]
        return swin.shifted_window_attention(
            x, weight, torch.eye(DIM, dtype=x.dtype), position, list(window), HEADS, list(shift), qkv_bias=bias,
            logit_scale=logit_scale.log().view(HEADS, 1, 1),
        )  # fmt: skip

    def mine(x, weight, bias, table, logit_scale):
        no_k = torch.cat([torch.ones(DIM), torch.zeros(DIM), torch.ones(DIM)]).double()
        return ours(window, shift, backend)(x, weight, bias * no_k, table, logit_scale)

    t = inputs((2 * window[0] - 1) * (2 * window[1] - 1), *grid)
    t["logit_scale"] = torch.tensor([3.0, 20.0], dtype=torch.float64)
    assert_close(with_gradients(mine, t), with_gradients(theirs, t), 1e-12)


@pytest.mark.parametrize("window, grid, shift", MAPS + UNEVEN)
def test_timm(window, grid, shift, backend):
    """Rolls first and pads the rolled map, so its seam is off where the window does not divide the map."""
    swin = peer("timm.models.swin_transformer")
    block = swin.SwinTransformerBlock(
        DIM, grid, HEADS, window_size=window, shift_size=shift, always_partition=True, dtype=torch.float64
    ).eval()

    def theirs(x, weight, bias, table):
        names = {"attn.qkv.weight": weight, "attn.qkv.bias": bias, "attn.relative_position_bias_table": table}
        names |= {"attn.proj.weight": torch.eye(DIM, dtype=x.dtype), "attn.proj.bias": torch.zeros(DIM, dtype=x.dtype)}
        return torch.func.functional_call(_Attention(block), {f"block.{k}": v for k, v in names.items()}, (x,))

    t = inputs((2 * window[0] - 1) * (2 * window[1] - 1), *grid)
    mine = with_gradients(ours(window, shift, backend, pad_order="roll_then_pad"), t)
    assert_close(mine, with_gradients(theirs, t), 1e-12)


class _Attention(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block._attn(x)


@pytest.mark.parametrize("grid, shift", [((14, 21), 3), ((10, 16), 3), ((9, 8), 0)])
def test_transformers(grid, shift, backend):
    swin = peer("transformers.models.swin.modeling_swin")
    config = swin.SwinConfig(embed_dim=DIM, window_size=7, attn_implementation="sdpa")  # its eager softmax is float32
    layer = swin.SwinLayer(config, DIM, grid, HEADS, shift_size=shift).double().eval()
    layer.layernorm_before = layer.layernorm_after = torch.nn.Identity()
    layer.mlp = _Zero()
    eye, zero = torch.eye(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)

    def theirs(x, weight, bias, table):
        names = {"relative_position_bias.relative_position_bias_table": table}
        names |= {"o_proj.weight": eye, "o_proj.bias": zero}
        for name, w, b in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True):
            names |= {f"{name}_proj.weight": w, f"{name}_proj.bias": b}
        names = {f"attention.{k}": v for k, v in names.items()}
        out = torch.func.functional_call(layer, names, (x.flatten(1, 2), grid, True))[0]
        return out.view_as(x) - x  # the layer adds its input

    t = inputs(13 * 13, *grid)
    assert_close(with_gradients(ours((7, 7), shift, backend), t), with_gradients(theirs, t), 1e-12)


class _Zero(torch.nn.Module):
    def forward(self, x):
        return x * 0


VIDEO = [
    ((2, 4, 3), (4, 8, 6), (1, 2, 1)),
    ((2, 4, 3), (3, 9, 7), (1, 2, 1)),
    ((2, 4, 3), (5, 6, 4), (0, 0, 0)),
    ((4, 3, 3), (2, 7, 5), (2, 1, 1)),  # clamped along the first axis
    ((2, 4, 3), (5, 3, 2), (1, 2, 1)),  # clamped along the others: the bias is read through the first rows of the index
]


def clamped(window, grid, shift):
    """Video Swin's rule: an axis no longer than its window is the window, unshifted, and N x N of the index is kept."""
    shift = [0 if g <= w else s for g, w, s in zip(grid, window, shift, strict=True)]
    size = tuple(min(g, w) for g, w in zip(grid, window, strict=True))
    tokens = size[0] * size[1] * size[2]
    return size, shift, relative_position_index(window)[:tokens, :tokens]


@pytest.mark.parametrize("window, grid, shift", VIDEO)
def test_torchvision_video(window, grid, shift, backend):
    swin = peer("torchvision.models.video.swin_transformer")
    layer = swin.ShiftedWindowAttention3d(DIM, list(window), list(shift), HEADS).double()
    eye, zero = torch.eye(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)

    def theirs(x, weight, bias, table):
        names = {"qkv.weight": weight, "qkv.bias": bias, "proj.weight": eye, "proj.bias": zero}
        return torch.func.functional_call(layer, {**names, "relative_position_bias_table": table}, (x,))

    t = inputs((2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1), *grid)
    size, moved, index = clamped(window, grid, shift)
    mine = with_gradients(ours(size, moved, backend, bias_index=index), t)
    assert_close(mine, with_gradients(theirs, t), 1e-12)


@pytest.mark.parametrize("window, grid, shift", VIDEO)
def test_monai(window, grid, shift, backend):
    swin = peer("monai.networks.nets.swin_unetr")
    block = swin.SwinTransformerBlock(DIM, HEADS, window, shift).double()
    block.norm1 = torch.nn.Identity()
    size, moved = swin.get_window_size(grid, window, shift)
    mask = swin.compute_mask([-(-g // w) * w for g, w in zip(grid, size, strict=True)], size, moved, "cpu")
    eye, zero = torch.eye(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)

    def theirs(x, weight, bias, table):
        names = {"qkv.weight": weight, "qkv.bias": bias, "proj.weight": eye, "proj.bias": zero}
        names = {f"block.attn.{k}": v for k, v in {**names, "relative_position_bias_table": table}.items()}
        return torch.func.functional_call(_Part1(block), names, (x, mask))

    t = inputs((2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1), *grid)
    size, moved, index = clamped(window, grid, shift)
    mine = with_gradients(ours(size, moved, backend, bias_index=index), t)
    assert_close(mine, with_gradients(theirs, t), 1e-12)


class _Part1(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, mask):
        return self.block.forward_part1(x, mask)
