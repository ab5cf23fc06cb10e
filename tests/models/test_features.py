"""The models as backbones: the detection code's tensors, which maps come out and how, frozen stages, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swin_fast import SwinTransformer, SwinTransformer3D, SwinTransformerV2

from ..golden import Golden
from ..weights import assert_close, distance, randomize
from . import stored

SMALL = {"patch_size": 4, "embed_dim": 8, "depths": (2, 2, 1), "num_heads": (2, 2, 2), "window_size": 4}
CASES = ["det_45x37", "det_28x30_ape"]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_detection_code(one_thread, name):
    assert "pretrain_img_size" in Golden(name).init
    stored.assert_equals_float32(name, SwinTransformer, policy="detection")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_detection_code_in_float64(name):
    stored.assert_equals_float64(name, SwinTransformer, policy="detection")


def test_the_detection_code_shifts_a_map_of_one_window():
    """28 x 30 pixels end as a 4 x 4 map in one window of 7: by default that is not shifted, and the output another."""
    golden = Golden("det_28x30_ape")
    model = SwinTransformer(**golden.init).eval()
    model.load_state_dict(golden.under("sd/"), strict=True)
    first, second = model(golden["x"])
    assert distance(first, golden["y/0"]) > 1e-3 and distance(second, golden["y/1"]) > 1e-3
    assert [b.shift_of((4, 4)) for b in model.layers[1].blocks] == [(0, 0), (0, 0)]
    assert [b.shift_of((8, 4)) for b in model.layers[1].blocks] == [(0, 0), (3, 0)]


@pytest.mark.parametrize("ape", [False, True])
@pytest.mark.parametrize("model_class", [SwinTransformer, SwinTransformerV2])
def test_the_maps_of_a_backbone(model_class, ape):
    model = randomize(model_class(img_size=64, out_indices=(0, 2), ape=ape, **SMALL)).eval()
    image = torch.randn(2, 3, 70, 49)
    maps = model(image)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 18, 13), (2, 32, 5, 4)]
    assert all(m.is_contiguous() for m in maps)
    assert model.num_features == [8, 16, 32]
    keys = model.state_dict().keys()
    assert {"norm0.weight", "norm2.bias"} <= keys
    assert not [k for k in keys if k.startswith(("norm1", "norm.", "head")) or k.endswith("attn_mask")]

    # step by step, with the blocks of the model itself
    x, size = model._embed(image)
    for i, layer in enumerate(model.layers):
        for block in layer.blocks:
            x = block(x, size)
        if i in (0, 2):
            want = getattr(model, f"norm{i}")(x).transpose(1, 2).unflatten(2, size)
            assert distance(maps[i // 2], want) < 1e-6
        if layer.downsample is not None:
            x, size = layer.downsample(x, size), layer.output_size(size)


def test_channels_last():
    options = {**SMALL, "features_only": True}
    first, last = (randomize(SwinTransformer(**options, channels_last=value)).eval() for value in (False, True))
    image = torch.randn(1, 3, 32, 48)
    maps = last(image)
    assert [tuple(m.shape) for m in maps] == [(1, 8, 12, 8), (1, 4, 6, 16), (1, 2, 3, 32)]
    assert all(torch.equal(a, b.movedim(-1, 1)) for a, b in zip(first(image), maps, strict=True))


def test_features_only_is_all_stages():
    model = SwinTransformer(**SMALL, features_only=True)
    assert model.out_indices == (0, 1, 2) and model.config == SwinTransformer(**SMALL, out_indices=[0, 1, 2]).config
    assert model.config == SwinTransformer(pretrain_img_size=224, **SMALL).config


def test_stages_after_the_last_map_are_not_run():
    model = SwinTransformer(**SMALL, out_indices=(0,)).eval()
    model.layers[1].register_forward_pre_hook(lambda *_: pytest.fail("stage 1 ran"))
    assert len(model(torch.zeros(1, 3, 32, 32))) == 1


def test_the_blocks_are_those_of_a_classifier():
    """The weights of a classifier give the maps of a backbone, where no window of the classifier has shrunk."""
    classifier = randomize(SwinTransformer(img_size=128, **SMALL)).eval()
    backbone = SwinTransformer(**SMALL, out_indices=(2,)).eval()
    state = {k: t for k, t in classifier.state_dict().items() if not k.startswith("head") and "attn_mask" not in k}
    state = {k.replace("norm.", "norm2.") if k.startswith("norm.") else k: t for k, t in state.items()}
    backbone.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, 128, 120)
    pooled = F.adaptive_avg_pool2d(backbone(image)[0], 1).flatten(1)
    assert distance(pooled, classifier.forward_features(image)) < 1e-6


@pytest.mark.parametrize(("stages", "count"), [(-1, 0), (0, 1), (1, 2), (2, 4), (3, 5)])
def test_frozen_stages(stages, count):
    model = SwinTransformer(img_size=64, features_only=True, ape=True, frozen_stages=stages, **SMALL)
    parts = [model.patch_embed, model.absolute_pos_embed, model.pos_drop, *model.layers]
    frozen = parts[:count]
    assert model.train() is model
    for part in parts:
        parameters = list(part.parameters()) if isinstance(part, nn.Module) else [part]
        assert all(p.requires_grad != any(part is f for f in frozen) for p in parameters)
        if isinstance(part, nn.Module):
            assert part.training != any(part is f for f in frozen)
    sum(m.sum() for m in model(torch.randn(1, 3, 32, 32))).backward()
    assert (model.patch_embed.proj.weight.grad is None) == (stages >= 0)


@pytest.mark.parametrize(("stages", "count"), [(-1, 0), (0, 1), (1, 3), (2, 4)])
def test_frozen_stages_3d(stages, count):
    model = SwinTransformer3D(depths=(1, 1), num_heads=(2, 2), embed_dim=8, frozen_stages=stages)
    parts = [model.patch_embed, model.pos_drop, *model.layers]
    for i, part in enumerate(parts):
        assert part.training == (i >= count)
        assert all(p.requires_grad == (i >= count) for p in part.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out_indices": (3,)}, ValueError, r"out_indices must be stages from 0 to 2, got \(3,\)"),
        ({"out_indices": ()}, ValueError, "out_indices must hold at least one stage"),
        ({"out_indices": (1, 0)}, ValueError, r"out_indices must rise, got \(1, 0\)"),
        ({"out_indices": 2}, ValueError, "out_indices must hold at least one stage, got 2"),
        ({"out_indices": (0.5,)}, TypeError, "out_indices must be an int, got float"),
        ({"frozen_stages": 4}, ValueError, "frozen_stages must be at most 3, got 4"),
        ({"features_only": True, "policy": "timm"}, ValueError, "input_resolution must be given for the policy"),
        ({"policy": "mmdet"}, ValueError, "policy must be a WindowPolicy or one of"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        SwinTransformer(**SMALL, **options)


def test_a_backbone_refuses_a_classifier_and_the_other_way():
    classifier, backbone = SwinTransformer(img_size=64, **SMALL), SwinTransformer(features_only=True, **SMALL)
    with pytest.raises(RuntimeError, match="Missing key.*norm0.weight"):
        backbone.load_state_dict(classifier.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key.*norm0.weight"):
        classifier.load_state_dict(backbone.state_dict())


def test_maps_of_both_layouts_hold_the_same(one_thread):
    model = randomize(SwinTransformerV2(features_only=True, **SMALL)).eval()
    image = torch.randn(1, 3, 40, 40)
    alone = [randomize(SwinTransformerV2(out_indices=(i,), **SMALL)) for i in range(3)]
    for other in alone:
        other.load_state_dict({k: t for k, t in model.state_dict().items() if k in other.state_dict()})
    got = {i: other.eval()(image)[0] for i, other in enumerate(alone)}
    assert_close(got, dict(enumerate(model(image))), 0)
