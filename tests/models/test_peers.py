"""SwinTransformer beside timm's, torchvision's and transformers' own models: same weights, outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from swin_fast import SwinTransformer

from ..peers import define_torchvision_operators
from ..weights import assert_close, distance, gradients, randomize
from .peer_weights import to_timm, to_torchvision, to_transformers

SMALL = {"patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7}


@pytest.fixture(autouse=True)
def torchvision_imports():
    define_torchvision_operators()


def ours(img_size, num_classes=5) -> SwinTransformer:
    return randomize(SwinTransformer(img_size=img_size, num_classes=num_classes, **SMALL)).eval()


def assert_same(model, peer, rename, image, pick=lambda out: out) -> None:
    """Copy the weights; then outputs to 1e-5 of their largest value, parameter gradients to 1e-4."""
    missing, unexpected = peer.load_state_dict(rename(dict(model.named_parameters())), strict=False)
    assert not unexpected
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in missing)
    peer.eval()
    want = pick(peer(image))
    got = model(image)
    assert distance(got, want) < 1e-5
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    got.backward(grad)
    want.backward(grad)
    theirs = gradients(peer)
    joined = {k: torch.cat([theirs.pop(name) for name in rename({k: p})]) for k, p in model.named_parameters()}
    assert not theirs
    assert_close(gradients(model), joined, 1e-4)


@pytest.mark.parametrize("size", [(56, 56), (28, 56)])
def test_timm(size):
    swin = pytest.importorskip("timm.models.swin_transformer")
    peer = swin.SwinTransformer(img_size=size, num_classes=5, **SMALL)
    # at (28, 56) the last map is 7 x 14: timm and torchvision shift its longer axis, as ours built for 56
    assert_same(ours(56), peer, to_timm, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(56, 56), (28, 56), (40, 58), (30, 26), (60, 8)])
def test_torchvision(size):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    peer = swin.SwinTransformer(**{**SMALL, "patch_size": [2, 2], "window_size": [7, 7]}, num_classes=5)
    assert_same(ours(56), peer, to_torchvision, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(56, 56), (28, 28), (28, 56), (84, 56)])
def test_transformers(size):
    transformers = pytest.importorskip("transformers")
    peer = transformers.SwinModel(transformers.SwinConfig(image_size=56, **SMALL))
    # built for `size`, because transformers has the original's rule: no shift at all where one axis fits in a window
    assert_same(
        ours(size, num_classes=0), peer, to_transformers, torch.randn(2, 3, *size), lambda out: out.pooler_output
    )
