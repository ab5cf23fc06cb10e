"""Tables and position embeddings for other windows: as the original's formula, and as timm's function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from swin_fast.models import Swin3DConfig, SwinConfig, from_config
from swin_fast.models.checkpoints import (
    CheckpointError,
    load_checkpoint,
    resize_bicubic,
    resize_geometric,
    save_checkpoint,
)

from ..peers import define_torchvision_operators
from ..weights import randomize

V1 = SwinConfig(
    img_size=32, patch_size=2, num_classes=3, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
)  # fmt: skip
SQUARE = [((a, a), (b, b)) for a, b in ((7, 12), (12, 7), (4, 5), (1, 4), (4, 1), (2, 2))]
WINDOWS = [*SQUARE, ((7, 4), (8, 8)), ((5, 5), (3, 5)), ((4, 6), (6, 4))]


@pytest.mark.parametrize(("before", "after"), WINDOWS)
def test_geometric_is_timms(before, after):
    define_torchvision_operators()
    timm = pytest.importorskip("timm.layers.pos_embed_rel")
    table = torch.randn((2 * before[0] - 1) * (2 * before[1] - 1), 3)
    shape = ((2 * after[0] - 1) * (2 * after[1] - 1), 3)
    want = timm.resize_rel_pos_bias_table(table, after, shape, old_window_size=before)
    torch.testing.assert_close(resize_geometric(table, before, after), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("before", "after"), WINDOWS)
def test_bicubic_is_an_image_of_offsets(before, after):
    """Each head's table laid out as an image, resized as PyTorch resizes images, and flattened again."""
    heads = 3
    table = torch.randn((2 * before[0] - 1) * (2 * before[1] - 1), heads)
    got = resize_bicubic(table, before, after)
    for head in range(heads):
        image = table[:, head].reshape(1, 1, 2 * before[0] - 1, 2 * before[1] - 1)
        want = F.interpolate(image, size=(2 * after[0] - 1, 2 * after[1] - 1), mode="bicubic").flatten()
        torch.testing.assert_close(got[:, head], want)


@pytest.mark.parametrize("resize", [resize_bicubic, resize_geometric])
def test_rows_follow_rows(resize):
    """A table that grows along one axis only still does so after it."""
    table = torch.arange(7.0).repeat_interleave(5)[:, None]  # windows of 4 x 3
    image = resize(table, (4, 3), (6, 5)).reshape(11, 9)
    torch.testing.assert_close(image, image[:, :1].expand(11, 9))
    assert (image[1:, 0] > image[:-1, 0]).all() and image[5, 0] == pytest.approx(3.0)


@pytest.mark.parametrize("resize", [resize_bicubic, resize_geometric])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_stays(resize, dtype):
    assert resize(torch.randn(49, 2, dtype=dtype), (4, 4), (6, 6)).dtype == dtype


@pytest.mark.parametrize("resize", [resize_bicubic, resize_geometric])
def test_impossible_tables(resize):
    with pytest.raises(ValueError, match=r"table must be \(49, heads\) for windows of \(4, 4\), got"):
        resize(torch.randn(50, 2), (4, 4), (6, 6))
    with pytest.raises(ValueError, match=r"2D windows only, got one of \(2, 3, 3\)"):
        resize(torch.randn(75, 2), (2, 3, 3), (6, 6, 6))


@pytest.mark.parametrize("name", ["bicubic", "geometric"])
def test_load_with_another_window(tmp_path, name):
    source = randomize(from_config(V1))
    save_checkpoint(source, tmp_path / "w.pth")
    model = load_checkpoint(tmp_path / "w.pth", resize=name, img_size=64, window_size=8)
    assert model.config == replace(V1, img_size=64, window_size=8)
    resize = {"bicubic": resize_bicubic, "geometric": resize_geometric}[name]
    for key, tensor in source.state_dict().items():
        got = model.state_dict()[key]
        if key.endswith("relative_position_bias_table"):
            assert torch.equal(got, resize(tensor, (4, 4), (8, 8)))
        elif not key.endswith(("relative_position_index", "attn_mask")):
            assert torch.equal(got, tensor)


def test_a_window_that_does_not_fit_says_what_to_do(tmp_path):
    save_checkpoint(from_config(V1), tmp_path / "w.pth", "timm")
    words = r"bias_table \(49, 2\) instead of \(121, 2\), windows of 4x4 instead of 6x6"
    advice = r"give resize='bicubic' \(.*\) or 'geometric' \(.*\), or window_size=4"
    with pytest.raises(CheckpointError, match=rf"layers\.0\.blocks\.0\.attn\.relative_position_{words}: {advice}"):
        load_checkpoint(tmp_path / "w.pth", window_size=6)
    model = from_config(replace(V1, window_size=6))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "w.pth", model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_positions_for_another_picture(tmp_path):
    config = replace(V1, ape=True)
    source = randomize(from_config(config))
    save_checkpoint(source, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match="absolute_pos_embed is for a map of 16x16, the model's is 24x32: give resize"
    ):
        load_checkpoint(tmp_path / "w.pth", img_size=(48, 64))
    model = load_checkpoint(tmp_path / "w.pth", img_size=(48, 64), resize="bicubic")
    grid = source.absolute_pos_embed.detach().reshape(1, 16, 16, 8).permute(0, 3, 1, 2)
    want = F.interpolate(grid, size=(24, 32), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.absolute_pos_embed.detach(), want)
    with pytest.warns(UserWarning, match="norm0.weight"):
        backbone = load_checkpoint(tmp_path / "w.pth", out_indices=(0, 1))
    assert torch.equal(backbone.absolute_pos_embed.detach(), grid)  # the detection code's layout


def test_3d_tables_are_not_resized(tmp_path):
    config = Swin3DConfig(patch_size=2, embed_dim=8, depths=(1,), num_heads=(2,), window_size=(2, 3, 3))
    save_checkpoint(from_config(config), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"windows of 2x3x3 instead of 2x5x5: give window_size=\(2, 3, 3\)"):
        load_checkpoint(tmp_path / "w.pth", window_size=(2, 5, 5), resize="bicubic")
