"""SwinTransformerBlock and BasicLayer: which windows and shifts a map gets, buffers, stochastic depth, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swin_fast import BasicLayer, PatchMerging, SwinTransformerBlock
from swin_fast.modules import DropPath

from ..weights import distance, randomize


def by_parts(block: SwinTransformerBlock, x: torch.Tensor, size: tuple[int, int], shift) -> torch.Tensor:
    y = block.attn(block.norm1(x).unflatten(1, size), shift_size=shift).flatten(1, 2)
    x = x + y
    return x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))


@pytest.mark.parametrize(
    ("built_for", "window", "window_used", "size", "shift"),
    [
        ((8, 8), 4, 4, None, (2, 2)),
        ((8, 12), 4, 4, (8, 12), (2, 2)),
        ((8, 8), 4, 4, (4, 8), (0, 2)),  # one window along the first axis: no shift there
        ((8, 8), 4, 4, (3, 9), (0, 2)),
        ((8, 8), 4, 4, (7, 5), (2, 2)),  # two windows each, padded
        ((4, 8), 4, 4, None, (0, 0)),  # the original: the shorter side fits in a window, so neither axis shifts
        ((4, 8), 4, 4, (8, 4), (2, 0)),
        ((4, 8), 8, 4, None, (0, 0)),
        ((3, 9), 8, 3, None, (0, 0)),
        ((3, 9), 8, 3, (9, 9), (1, 1)),  # the window has shrunk for good; its shift elsewhere is half of it
        ((4, 4), 4, 4, (8, 8), (2, 2)),
    ],
)
def test_windows_and_shifts(built_for, window, window_used, size, shift):
    block = SwinTransformerBlock(8, built_for, 2, window_size=window, shift_size=window // 2)
    randomize(block).double()
    assert block.attn.window_size == (window_used, window_used)
    height, width = size or built_for
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    got = block(x) if size is None else block(x, size)
    assert distance(got, by_parts(block, x, (height, width), shift)) < 1e-13
    other = (0, 0) if any(shift) else (1, 1)
    if height > window_used or width > window_used:
        assert distance(got, by_parts(block, x, (height, width), other)) > 1e-3


def test_only_shifted_blocks_hold_a_mask():
    layer = BasicLayer(8, (8, 8), depth=3, num_heads=2, window_size=4)
    assert [block.shift_size for block in layer.blocks] == [0, 2, 0]
    assert [key for key in layer.state_dict() if "attn_mask" in key] == ["blocks.1.attn_mask"]
    mask = layer.blocks[1].attn_mask
    assert mask.shape == (4, 16, 16) and mask[0].eq(0).all() and set(mask.unique().tolist()) == {-100.0, 0.0}
    # the window at the lower right joins four parts of the map: each token sees the quarter that it came from
    assert mask[3].eq(0).sum(1).eq(4).all()


def test_the_mask_is_not_read():
    block = randomize(SwinTransformerBlock(8, (8, 8), 2, window_size=4, shift_size=2))
    x = torch.randn(1, 64, 8)
    before = block(x)
    block.attn_mask.fill_(float("nan"))
    assert torch.equal(block(x), before)


def test_another_mask_is_refused():
    block = SwinTransformerBlock(8, (8, 8), 2, window_size=4, shift_size=2)
    state = block.state_dict() | {"attn_mask": block.attn_mask * 2}
    with pytest.raises(ValueError, match=r"attn_mask must be the shift mask of a \(8, 8\) map, windows of 4, shift 2"):
        block.load_state_dict(state)


def test_dropout_is_in_both_branches():
    x = torch.randn(2, 64, 8)
    block = randomize(SwinTransformerBlock(8, (8, 8), 2, window_size=4, drop=1.0))
    assert torch.equal(block(x), x)
    block.mlp.drop.p, shapes = 0.0, []
    assert not torch.equal(block(x), x)
    block.mlp.drop.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    assert torch.equal(block(x), x + block.mlp(block.norm2(x)))
    assert shapes[:2] == [(2, 64, 32), (2, 64, 8)]


def test_drop_path_drops_whole_samples():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    rows = drop(x).flatten(1)
    assert (rows == rows[:, :1]).all()
    assert rows.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert abs(rows[:, 0].mean().item() - 1) < 0.05
    assert drop.eval()(x) is x


def test_drop_path_leaves_the_residual():
    torch.manual_seed(0)
    block = randomize(SwinTransformerBlock(8, (4, 4), 2, window_size=4, drop_path=0.5))
    x = torch.randn(64, 16, 8)
    kept = (block(x) == x).flatten(1).all(1)
    assert 0 < kept.sum() < 64  # both branches dropped: a quarter of the samples


def test_drop_path_of_each_block():
    layer = BasicLayer(8, (8, 8), 2, 2, 4, drop_path=[0.0, 0.3])
    assert isinstance(layer.blocks[0].drop_path, nn.Identity) and layer.blocks[1].drop_path.drop_prob == 0.3
    with pytest.raises(ValueError, match="drop_path must be a number or one for each of the 2 blocks, got 3"):
        BasicLayer(8, (8, 8), 2, 2, 4, drop_path=[0.0, 0.1, 0.2])
    with pytest.raises(ValueError, match=r"drop_prob must be in \[0, 1\), got 1.5"):
        BasicLayer(8, (8, 8), 2, 2, 4, drop_path=1.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shift_size": 4}, ValueError, "shift_size must be below window_size=4, got 4"),
        ({"shift_size": -1}, ValueError, "shift_size must be at least 0, got -1"),
        ({"shift_size": 1.5}, TypeError, "shift_size must be an int, got float"),
        ({"window_size": 0}, ValueError, "window_size must be at least 1, got 0"),
        ({"window_size": (4, 4)}, TypeError, "window_size must be an int, got tuple"),
        ({"input_resolution": (8, 0)}, ValueError, r"input_resolution must be at least 1 .*, got \(8, 0\)"),
        ({"num_heads": 3}, ValueError, "dim must be a multiple of num_heads, got dim=8 and num_heads=3"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        SwinTransformerBlock(**{"dim": 8, "input_resolution": (8, 8), "num_heads": 2, "window_size": 4, **options})


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((1, 63, 8), None, r"x must hold 8 x 8 = 64 tokens by its input_resolution \(pass size=.*, got 63"),
        ((1, 64, 8), (8, 9), "x must hold 8 x 9 = 72 tokens by its size, got 64"),
        ((1, 64, 8), (8, 8, 1), r"size must have one entry per grid axis \(2\), got 3"),
        ((1, 64, 12), None, r"x must be \(B, H\*W, 8\), got \(1, 64, 12\)"),
        ((1, 8, 8, 8), None, r"x must be \(B, H\*W, 8\), got \(1, 8, 8, 8\)"),
    ],
)
def test_bad_inputs(shape, size, message):
    block = SwinTransformerBlock(8, (8, 8), 2, window_size=4)
    with pytest.raises(ValueError, match=message):
        block(torch.zeros(shape), size)
    with pytest.raises(ValueError, match=message):
        PatchMerging((8, 8), 8)(torch.zeros(shape), size)
    with pytest.raises(TypeError, match="x must be a Tensor, got NoneType"):
        block(None)
