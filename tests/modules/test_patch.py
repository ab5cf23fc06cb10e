"""PatchEmbed and PatchMerging against their definitions written out with slices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swin_fast import PatchEmbed, PatchMerging

from ..weights import distance, randomize


@pytest.mark.parametrize(
    ("size", "patches"), [((8, 12), (4, 4)), ((7, 10), (4, 4)), ((9, 13), (5, 5)), ((1, 2), (1, 1))]
)
@pytest.mark.parametrize("norm", [nn.LayerNorm, None])
def test_embedding(size, patches, norm):
    embed = randomize(PatchEmbed(img_size=8, patch_size=(2, 3), in_chans=2, embed_dim=6, norm_layer=norm)).double()
    image = torch.randn(2, 2, *size, dtype=torch.float64)
    padded = torch.zeros(2, 2, patches[0] * 2, patches[1] * 3, dtype=torch.float64)
    padded[:, :, : size[0], : size[1]] = image
    cells = [(2 * i, 3 * j) for i in range(patches[0]) for j in range(patches[1])]
    pixels = torch.stack([padded[:, :, i : i + 2, j : j + 3].flatten(1) for i, j in cells], 1)
    want = pixels @ embed.proj.weight.flatten(1).T + embed.proj.bias
    want = want if norm is None else embed.norm(want)
    assert embed.output_size(size) == patches
    assert distance(embed(image), want) < 1e-13


def test_embedding_attributes():
    embed = PatchEmbed(img_size=(64, 32), patch_size=4)
    assert (embed.img_size, embed.patch_size) == ((64, 32), (4, 4))
    assert (embed.patches_resolution, embed.num_patches) == ((16, 8), 128)
    assert sorted(embed.state_dict()) == ["proj.bias", "proj.weight"]


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 3), (7, 7), (1, 1)])
def test_merging(size):
    merge = randomize(PatchMerging((4, 6), 3)).double()
    x = torch.randn(2, size[0] * size[1], 3, dtype=torch.float64)
    grid = torch.zeros(2, size[0] + size[0] % 2, size[1] + size[1] % 2, 3, dtype=torch.float64)
    grid[:, : size[0], : size[1]] = x.unflatten(1, size)
    group = torch.cat([grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2]], -1)
    want = merge.norm(group.flatten(1, 2)) @ merge.reduction.weight.T
    assert want.shape == (2, merge.output_size(size)[0] * merge.output_size(size)[1], 6)
    assert distance(merge(x, size), want) < 1e-13
    if size == merge.input_resolution:
        assert torch.equal(merge(x), merge(x, size))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"img_size": 0}, ValueError, r"img_size must be at least 1 along both axes, got \(0, 0\)"),
        ({"patch_size": (4, 4, 4)}, ValueError, "patch_size must have one entry per grid axis"),
        ({"in_chans": 0}, ValueError, "in_chans must be at least 1, got 0"),
        ({"embed_dim": 9.5}, TypeError, "embed_dim must be an int, got float"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        PatchEmbed(**options)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8), (1, 3, 0, 8)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match=r"x must be an image \(B, 3, H, W\), got "):
        PatchEmbed(8)(torch.zeros(shape))
    with pytest.raises(TypeError, match="x must be a Tensor, got str"):
        PatchEmbed(8)("picture.jpg")
