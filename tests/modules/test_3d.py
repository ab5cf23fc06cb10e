"""The 3D modules against their definitions written out: bias of shrunk windows, shifts, merging orders, errors."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swin_fast import WindowAttention3D, WindowPolicy
from swin_fast.modules import BasicLayer3D, PatchEmbed3D, PatchMerging3D
from swin_fast.modules.block_3d import SwinTransformerBlock3D
from swin_fast.reference import shift_regions, window_partition, window_reverse

from ..weights import assert_close, distance, gradients, randomize


def bias_of(attention: WindowAttention3D, window) -> torch.Tensor:
    """(heads, N, N), one pair of tokens at a time."""
    full = attention.window_size
    tokens = list(product(*map(range, window)))
    if attention.policy.clamped_bias == "sliced":  # the pairs of the full window's first tokens
        tokens = list(product(*map(range, full)))[: len(tokens)]
    rows = []
    for query, key in product(tokens, tokens):
        d, h, w = (q - k + f - 1 for q, k, f in zip(query, key, full, strict=True))
        rows.append((d * (2 * full[1] - 1) + h) * (2 * full[2] - 1) + w)
    return attention.relative_position_bias_table[rows].unflatten(0, (len(tokens),) * 2).permute(2, 0, 1)


def steps(attention: WindowAttention3D, x: torch.Tensor, window, shift) -> torch.Tensor:
    """Pad, roll, partition, attend with bias and mask as tensors, reverse, roll back, crop."""
    size, axes = x.shape[1:4], (1, 2, 3)
    ends = [-n % w for n, w in zip(size, window, strict=True)]
    x = F.pad(x, (0, 0, 0, ends[2], 0, ends[1], 0, ends[0]))
    padded = x.shape[1:4]
    windows = window_partition(x.roll([-s for s in shift], axes), window)
    q, k, v = attention.qkv(windows).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = (q * attention.scale) @ k.transpose(-2, -1) + bias_of(attention, window)
    regions = shift_regions(padded, window, shift)
    mask = torch.where(regions[:, :, None] != regions[:, None, :], -100.0, 0.0).to(x.dtype)
    logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    out = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    out = window_reverse(out, window, padded).roll(list(shift), axes)
    return out[:, : size[0], : size[1], : size[2]]


@pytest.mark.parametrize("clamped_bias", ["exact", "sliced"])
@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((4, 6, 8), (2, 3, 4), (1, 1, 2)),
        ((3, 5, 5), (2, 3, 4), (1, 1, 2)),
        ((1, 5, 7), (1, 3, 4), (0, 1, 2)),
        ((4, 2, 3), (2, 2, 3), (1, 0, 0)),
        ((4, 3, 2), (2, 3, 2), (0, 0, 0)),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
    ],
)
def test_attention_equals_its_steps(size, window, shift, clamped_bias):
    policy = WindowPolicy(clamp="per_axis", clamped_bias=clamped_bias)
    attention = randomize(WindowAttention3D(8, (2, 3, 4), 2, qkv_bias=True, policy=policy)).double()
    x, grad = (torch.randn(2, *size, 8, dtype=torch.float64) for _ in range(2))

    def run(road):
        leaf = x.clone().requires_grad_()
        attention.zero_grad()
        y = road(leaf)
        y.backward(grad)
        return {"y": y.detach(), "x": leaf.grad} | {k: g.clone() for k, g in gradients(attention).items()}

    got = run(lambda v: attention(v, None, shift, window))
    assert_close(got, run(lambda v: steps(attention, v, window, shift)), 1e-12)
    block = SwinTransformerBlock3D(8, 2, (2, 3, 4), (1, 1, 2) if any(shift) else 0, policy=policy).double()
    block.attn = attention
    parts = x + attention(block.norm1(x), None, shift, window)
    assert distance(block(x), parts + block.mlp(block.norm2(parts))) < 1e-13


def test_windows_and_a_map_are_the_same():
    attention = randomize(WindowAttention3D(8, (2, 3, 4), 2))
    assert attention.qkv.bias is None
    x, mask = torch.randn(3, 24, 8), torch.randn(3, 24, 24)
    assert torch.equal(attention(x, mask), attention(x.unflatten(1, (2, 3, 4)), mask).flatten(1, 3))
    small = attention(x[:, :12], None, 0, (2, 2, 3))
    assert torch.equal(small, attention(x[:, :12].unflatten(1, (2, 2, 3)), None, 0, (2, 2, 3)).flatten(1, 3))


def test_a_window_that_never_shrinks_is_padded():
    policy = WindowPolicy(clamp="none")
    block = randomize(SwinTransformerBlock3D(8, 2, (2, 3, 4), (1, 1, 2), policy=policy)).double()
    x = torch.randn(1, 1, 2, 7, 8, dtype=torch.float64)
    parts = x + steps(block.attn, block.norm1(x), (2, 3, 4), (0, 0, 2))
    assert distance(block(x), parts + block.mlp(block.norm2(parts))) < 1e-13
    always = SwinTransformerBlock3D(8, 2, (2, 3, 4), (1, 1, 2), policy=WindowPolicy("none", "always")).double()
    always.load_state_dict(block.state_dict())
    parts = x + steps(block.attn, block.norm1(x), (2, 3, 4), (1, 1, 2))
    assert distance(always(x), parts + block.mlp(block.norm2(parts))) < 1e-13


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_stage(checkpoint):
    layer = BasicLayer3D(8, 3, 2, (2, 4, 4), downsample=PatchMerging3D, use_checkpoint=checkpoint)
    randomize(layer)
    assert [block.shift_size for block in layer.blocks] == [(0, 0, 0), (1, 2, 2), (0, 0, 0)]
    x = torch.randn(1, 3, 6, 7, 8, requires_grad=True)
    out, blocks = layer(x, also_blocks=True)
    assert torch.equal(layer(x), out) and torch.equal(layer.downsample(blocks), out)
    assert out.shape == (1, *layer.output_size((3, 6, 7)), 16) == (1, 3, 3, 4, 16)


@pytest.mark.parametrize(("size", "patches"), [((4, 8, 9), (2, 2, 3)), ((3, 5, 7), (2, 2, 3)), ((1, 1, 1), (1, 1, 1))])
@pytest.mark.parametrize("norm", [nn.LayerNorm, None])
def test_embedding(size, patches, norm):
    embed = randomize(PatchEmbed3D((2, 4, 3), in_chans=2, embed_dim=6, norm_layer=norm)).double()
    video = torch.randn(2, 2, *size, dtype=torch.float64)
    padded = torch.zeros(2, 2, *(n * p for n, p in zip(patches, (2, 4, 3), strict=True)), dtype=torch.float64)
    padded[:, :, : size[0], : size[1], : size[2]] = video
    want = torch.stack(
        [
            padded[:, :, 2 * d : 2 * d + 2, 4 * h : 4 * h + 4, 3 * w : 3 * w + 3].flatten(1)
            @ embed.proj.weight.flatten(1).T + embed.proj.bias
            for d, h, w in product(*map(range, patches))
        ],
        1,
    ).unflatten(1, patches)  # fmt: skip
    assert distance(embed(video), want if norm is None else embed.norm(want)) < 1e-13


ORDERS = {
    "space": ["000", "010", "001", "011"],
    "monai": ["000", "100", "010", "001", "110", "101", "011", "111"],
    "monai_v2": ["000", "001", "010", "011", "100", "101", "110", "111"],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(4, 4, 6), (3, 5, 7), (1, 1, 2)])
def test_merging(size, order):
    merge = randomize(PatchMerging3D(3, order=order)).double()
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    step = 1 if order == "space" else 2
    halved = (-(-size[0] // step), (size[1] + 1) // 2, (size[2] + 1) // 2)
    grid = torch.zeros(2, halved[0] * step, halved[1] * 2, halved[2] * 2, 3, dtype=torch.float64)
    grid[:, : size[0], : size[1], : size[2]] = x
    rows = []
    for d, h, w in product(*map(range, halved)):
        at = [(step * d + int(a), 2 * h + int(b), 2 * w + int(c)) for a, b, c in ORDERS[order]]
        rows.append(torch.cat([grid[:, i, j, k] for i, j, k in at], -1))
    want = merge.norm(torch.stack(rows, 1)) @ merge.reduction.weight.T
    assert merge.output_size(size) == halved
    assert distance(merge(x), want.unflatten(1, halved)) < 1e-13


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WindowAttention3D(8, (2, 4), 2), ValueError, r"window_size must have one entry per grid axis \(3\)"),
        (lambda: PatchMerging3D(8, order="time"), ValueError, "order must be one of .*, got 'time'"),
        (lambda: SwinTransformerBlock3D(8, 2, 4, (4, 0, 0)), ValueError, r"shift_size must be at least 0 and below .*"),
        (lambda: SwinTransformerBlock3D(8, 2, 4, (0, 0)), ValueError, "shift_size must have one entry per grid axis"),
        (lambda: BasicLayer3D(8, 0, 2), ValueError, "depth must be at least 1, got 0"),
        (lambda: BasicLayer3D(8, 2, 2, drop_path=[0.1]), ValueError, "drop_path must be a number or one for each of"),
    ],
)
def test_bad_constructor_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_inputs():
    attention = WindowAttention3D(8, (2, 3, 4), 2)
    with pytest.raises(ValueError, match=r"x must be .* or \(B, D, H, W, 8\), got \(2, 4, 4, 8\)"):
        attention(torch.zeros(2, 4, 4, 8))
    with pytest.raises(ValueError, match=r"x must hold windows of \(2, 3, 4\) = 24 tokens, got \(2, 12, 8\)"):
        attention(torch.zeros(2, 12, 8))
    with pytest.raises(ValueError, match=r"window_size must be at most \(2, 3, 4\), that of the bias table"):
        attention(torch.zeros(1, 4, 4, 4, 8), None, 0, (2, 4, 4))
    with pytest.raises(ValueError, match=r"shift_size needs x as a map \(B, D, H, W, 8\)"):
        attention(torch.zeros(2, 24, 8), None, (1, 1, 1))
    for module in (SwinTransformerBlock3D(8, 2), PatchMerging3D(8)):
        with pytest.raises(ValueError, match=r"x must be \(B, D, H, W, 8\), got \(1, 4, 4, 8\)"):
            module(torch.zeros(1, 4, 4, 8))
