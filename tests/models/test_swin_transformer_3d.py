"""SwinTransformer3D against Video Swin's tensors, small clips, other sizes, the sizes' table, errors."""

from __future__ import annotations

import pytest
import torch

import swin_fast
from swin_fast import SwinTransformer3D, WindowPolicy
from swin_fast.models import CONFIGS, SwinUNETREncoder, build

from ..golden import Golden
from ..weights import distance, randomize
from . import stored

SMALL = {"patch_size": (1, 2, 2), "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": (2, 4, 4)}
CASES = ["video_w277", "video_w877_short_clip"]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original(one_thread, name):
    stored.assert_equals_float32(name, SwinTransformer3D, policy="video")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original_in_float64(name):
    stored.assert_equals_float64(name, SwinTransformer3D, policy="video")


def test_by_default_a_shrunk_window_reads_the_bias_of_its_offsets():
    """Video Swin reads other entries once a window has shrunk along another axis than the first (stage 2 here)."""
    golden = Golden("video_w277")
    model = SwinTransformer3D(**golden.init).eval()
    model.load_state_dict(golden.under("sd/"), strict=True)
    assert distance(model(golden["x"]), golden["y/0"]) > 1e-3


@pytest.mark.parametrize("policy", [None, "video", WindowPolicy(clamp="none"), WindowPolicy("none", "always")])
def test_any_size_and_no_call_changes_a_later_one(policy):
    def new():
        return randomize(SwinTransformer3D(**SMALL, policy=policy)).eval()

    model = new()
    videos = [torch.randn(2, 3, *size) for size in [(4, 16, 16), (6, 32, 20), (1, 7, 9), (3, 5, 30), (1, 1, 1)]]
    with torch.no_grad():
        alone = [new()(video) for video in videos]
        for video, want in zip([*videos, *reversed(videos)], [*alone, *reversed(alone)], strict=True):
            got = model(video)
            assert torch.equal(got, want) and got.isfinite().all()


def test_the_map_of_a_video():
    model = SwinTransformer3D(**SMALL).eval()
    assert model(torch.randn(2, 3, 5, 18, 30)).shape == (2, 16, 5, 5, 8)  # time is not halved
    last = SwinTransformer3D(**SMALL, channels_last=True).eval()
    last.load_state_dict(model.state_dict())
    video = torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(last(video).movedim(-1, 1), model(video))


def test_features():
    model = randomize(SwinTransformer3D(**SMALL, features_only=True)).eval()
    plain = SwinTransformer3D(**SMALL).eval()
    assert [k for k in model.state_dict() if "norm0" in k or "norm1." in k and not k.startswith("layers")]
    state = {k.replace("norm1.", "norm.") if k.startswith("norm1.") else k: t for k, t in model.state_dict().items()}
    plain.load_state_dict({k: t for k, t in state.items() if not k.startswith("norm0")}, strict=True)
    video = torch.randn(1, 3, 4, 12, 20)
    first, second = model(video)
    assert first.shape == (1, 8, 4, 6, 10)
    assert torch.equal(second, plain(video))


def test_time_matters():
    model = randomize(SwinTransformer3D(**SMALL)).eval()
    video = torch.randn(1, 3, 4, 8, 8)
    played = model(video).mean((2, 3, 4))
    assert distance(model(video.flip(2)).mean((2, 3, 4)), played) > 1e-3


@pytest.mark.parametrize(
    ("build_it", "blocks", "parameters"),
    [
        (swin_fast.swin3d_t, (2, 2, 6, 2), 27_850_470),
        (swin_fast.swin3d_s, (2, 2, 18, 2), 49_509_078),
        (swin_fast.swin3d_b, (2, 2, 18, 2), 87_638_984),
    ],
)
def test_the_sizes_of_the_paper(build_it, blocks, parameters):
    with torch.device("meta"):
        model = build_it()
    assert tuple(layer.depth for layer in model.layers) == blocks
    # torchvision's swin3d models have these numbers plus their heads (307 600 for T and S, 410 000 for B)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.layers[0].blocks[1].shift_size == (4, 3, 3)


def test_swin_unetr():
    model = build("swin_unetr", embed_dim=12).eval()
    assert isinstance(model, SwinUNETREncoder) and model.config == CONFIGS["swin_unetr"].__class__(embed_dim=12)
    maps = model(torch.randn(1, 1, 32, 32, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 12 * 2**i, 16 >> i, 16 >> i, 32 >> i) for i in range(5)]
    for m in maps:
        assert m.mean(1).abs().max() < 1e-5 and (m.square().mean(1) - 1).abs().max() < 2e-2
    assert not [k for k in model.state_dict() if k.startswith("norm")]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window_size": (2, 4)}, ValueError, r"window_size must have one entry per grid axis \(3\), got 2"),
        ({"window_size": (2, 4, 0)}, ValueError, "window_size must be at least 1 along all three axes"),
        ({"patch_size": (0, 2, 2)}, ValueError, "patch_size must be at least 1 along all three axes"),
        ({"num_heads": (3, 2)}, ValueError, "dim must be a multiple of num_heads, got dim=8 and num_heads=3"),
        ({"depths": (2,)}, ValueError, "num_heads must have one entry per stage"),
        ({"policy": "original"}, ValueError, "policy must clamp per axis or not at all, and shift by the map"),
        ({"policy": "timm"}, ValueError, "policy must clamp per axis or not at all, and shift by the map"),
        ({"policy": WindowPolicy("per_axis", "always")}, ValueError, r"policy must not clamp \(clamp='none'\)"),
        ({"pretrained": "file.pth"}, ValueError, "pretrained must be None"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        SwinTransformer3D(**{**SMALL, **options})


@pytest.mark.parametrize("options", [{"merging": "space"}, {"out_indices": (0,)}])
def test_bad_encoder_arguments(options):
    with pytest.raises(ValueError, match="merging must be|out_indices must be None"):
        SwinUNETREncoder(**options)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 1, 4, 8, 8), (1, 3, 0, 8, 8)])
def test_bad_videos(shape):
    with pytest.raises(ValueError, match=r"x must be a video \(B, 3, D, H, W\), got "):
        SwinTransformer3D(**SMALL)(torch.zeros(shape))
    with pytest.raises(TypeError, match="x must be a Tensor, got str"):
        SwinTransformer3D(**SMALL)("film.mp4")
