"""From a file to the model's input, and the attention that the figure shows."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from swin_fast import functional
from swin_fast.cli import picture
from swin_fast.cli.attention import Core, cores, query_attention, query_to_show
from swin_fast.geometry import bias_table_size
from swin_fast.models import SwinTransformer

from .conftest import TINY


def test_normalised_as_imagenet():
    square = Image.new("RGB", (90, 90), (255, 0, 124))
    x = picture.to_batch(square, 32, 2)
    assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32
    want = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (124 / 255 - 0.406) / 0.225]
    torch.testing.assert_close(x, torch.tensor(want).view(3, 1, 1).expand(2, 3, 32, 32))


def test_rows_are_rows_and_entries_differ():
    square = Image.new("RGB", (32, 32))
    square.paste((255, 255, 255), (0, 0, 32, 8))  # the upper quarter
    square.paste((255, 255, 255), (0, 0, 4, 32))  # and a strip at the left
    x = picture.to_batch(square, 32, 3)[:, 0]
    assert (x[0, :8] > 0).all() and (x[0, 8:, 4:] < 0).all()
    assert torch.equal(x[1, :, 4:], x[0, :, :-4]) and not torch.equal(x[1], x[0])
    assert torch.equal(x[2, :, 8:], x[0, :, :-8])


@pytest.mark.parametrize(("size", "side"), [((451, 300), 262), ((100, 640), 88), ((1, 1), 1), ((8, 8), 7)])
def test_centre_square(size, side):
    image = Image.new("RGB", size, "red")
    left, top = ((n - side) // 2 for n in size)
    image.putpixel((left, top), (0, 0, 255))
    square = picture.centre_square(image)
    assert square.size == (side, side)
    assert square.getpixel((0, 0)) == (0, 0, 255)


def test_turned_photograph_is_turned_back(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert picture.read(str(tmp_path / "turned.jpg")).size == (10, 20)


SHAPES = [
    ((8, 12), (4, 4), (0, 0)),
    ((8, 12), (4, 4), (2, 2)),
    ((8, 12), (4, 6), (1, 5)),
    ((9, 7), (4, 4), (2, 2)),
    ((9, 7), (4, 5), (0, 3)),
    ((3, 5), (4, 4), (0, 2)),
]


@pytest.mark.parametrize(("grid", "window", "shift"), SHAPES)
def test_query_attention_is_the_ops(grid, window, shift):
    """The weights times v, padded tokens included, are the op's output at every query."""
    torch.manual_seed(0)
    heads, head_dim = 2, 6
    channels = heads * head_dim
    qkv, pad = torch.randn(2, *grid, 3 * channels), torch.randn(3 * channels)
    core = Core(qkv, torch.randn(bias_table_size(window), heads), pad, heads, window, shift, 0.6)
    out = functional.window_attention(
        qkv, core.bias_table, num_heads=heads, window_size=window, shift_size=shift, scale=0.6, pad_qkv=pad
    )
    torch.testing.assert_close(core.run(), out)
    for row in range(grid[0]):
        for column in range(grid[1]):
            shown = query_attention(core, (row, column), image=1)
            assert row in shown.rows and column in shown.columns and shown.query == (row, column)
            got = torch.zeros(heads, head_dim)
            for i, r in enumerate(shown.rows.tolist()):
                for j, c in enumerate(shown.columns.tolist()):
                    source = qkv[1, r, c] if r < grid[0] and c < grid[1] else pad
                    got += shown.weights[:, i, j, None] * source[2 * channels :].view(heads, head_dim)
            torch.testing.assert_close(got.flatten(), out[1, row, column], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [32, 36])
def test_cores_are_what_the_blocks_compute(side):
    """Running a captured core and its block's projection gives what the block's attention gave."""
    torch.manual_seed(0)
    model, x = SwinTransformer(**TINY).eval(), torch.randn(2, 3, side, side)
    outputs = []
    blocks = [block for layer in model.layers for block in layer.blocks]
    hooks = [block.attn.register_forward_hook(lambda m, i, out: outputs.append(out)) for block in blocks]
    with torch.no_grad():
        found = cores(model, x)
        for hook in hooks:
            hook.remove()
        assert [core.shift_size for core in found[:2]] == [(0, 0), (2, 2)]
        assert [core.pad_qkv is None for core in found] == [side == 32] * 4
        for core, block, out in zip(found, blocks, outputs, strict=True):
            torch.testing.assert_close(block.attn.proj(core.run()), out)
    assert not any(block.attn._forward_pre_hooks for block in blocks)


def test_query_is_where_the_contrast_is():
    grid, window, shift = (56, 56), (7, 7), (3, 3)
    core = Core(torch.zeros(1, *grid, 6), torch.zeros(169, 1), None, 1, window, (0, 0), 1.0)
    image = torch.zeros(3, 224, 224)
    image[:, 28 * 3 + 20 : 28 * 3 + 26, 28 * 5 + 20 : 28 * 5 + 26] = 1  # at tokens (26, 40), in window (3, 5)
    assert query_to_show(image, core, shift) == (3 * 7 + 5, 5 * 7 + 5)
    small = core._replace(qkv=torch.zeros(1, 8, 8, 6))
    assert query_to_show(torch.rand(3, 32, 32), small, shift) == (4, 4)
