"""Our models beside those of timm, torchvision, transformers and MONAI: same weights, outputs and gradients.

Each library has rules of its own for small maps, padding and the mask; ours take them by `policy`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import swin_fast
from swin_fast import SwinTransformer, SwinTransformer3D, SwinTransformerV2, WindowPolicy
from swin_fast.models import SwinUNETREncoder

from ..peers import define_torchvision_operators
from ..weights import assert_close, distance, gradients, randomize
from . import peer_weights as names

SMALL = {"patch_size": 4, "embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 4, 2), "window_size": 7}
SMALL_V2 = {**SMALL, "window_size": 8}
# the window divides each map; a rectangle; it divides none; maps of one window along an axis or both; smaller maps
SIZES = [(224, 224), (112, 224), (200, 168), (232, 92), (28, 112), (112, 112), (64, 64)]
SIZES_V2 = [(256, 256), (128, 256), (200, 168), (232, 92), (32, 128), (128, 128), (64, 64)]


@pytest.fixture(autouse=True)
def torchvision_imports():
    define_torchvision_operators()


def same(named: dict) -> dict:
    return named


def outputs_of(out) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def assert_same(
    model: nn.Module,
    peer: nn.Module,
    rename: Callable[[dict], dict],
    image: Tensor,
    pick: Callable = same,
    join: Callable[[dict], dict] = same,
    split: Callable[[dict], dict] = same,
) -> None:
    """Copy the weights; then outputs to 1e-5 of their largest value, parameter gradients to 1e-4.

    `rename` works for each parameter alone; `join` puts renamed ones together, `split` takes them apart.
    """
    randomize(model).eval()
    missing, unexpected = peer.load_state_dict(join(rename(dict(model.named_parameters()))), strict=False)
    assert not unexpected
    assert all(key.endswith(names.BUFFERS) for key in missing)
    peer.eval()
    want, got = outputs_of(pick(peer(image))), outputs_of(model(image))
    assert_close(dict(enumerate(got)), dict(enumerate(want)), 1e-5)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(y.shape, generator=generator) for y in want]
    torch.autograd.backward(got, grads)
    torch.autograd.backward(want, grads)
    theirs = split(gradients(peer))
    joined = {k: torch.cat([theirs.pop(name) for name in rename({k: p})]) for k, p in model.named_parameters()}
    assert not theirs
    assert_close(gradients(model), joined, 1e-4)


def images(size, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size)


@pytest.mark.parametrize("always_partition", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_timm(size, always_partition):
    swin = pytest.importorskip("timm.models.swin_transformer")
    peer = swin.SwinTransformer(img_size=size, num_classes=5, always_partition=always_partition, **SMALL)
    policy = "timm_always_partition" if always_partition else "timm"
    ours = SwinTransformer(img_size=size, num_classes=5, policy=policy, **SMALL)
    assert_same(ours, peer, names.to_timm, images(size))


@pytest.mark.parametrize("size", [(224, 224), (120, 100), (28, 112)])
def test_timm_at_a_size_it_is_not_built_for(size):
    swin = pytest.importorskip("timm.models.swin_transformer")
    peer = swin.SwinTransformer(img_size=112, num_classes=5, strict_img_size=False, **SMALL)
    ours = SwinTransformer(img_size=112, num_classes=5, policy="timm", **SMALL)
    assert_same(ours, peer, names.to_timm, images(size))


@pytest.mark.parametrize("size", SIZES)
def test_torchvision(size):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    peer = swin.SwinTransformer(**{**SMALL, "patch_size": [4, 4], "window_size": [7, 7]}, num_classes=5)
    ours = SwinTransformer(num_classes=5, policy="torchvision", **SMALL)
    assert_same(ours, peer, names.to_torchvision, images(size))


@pytest.mark.parametrize("size", [s for s in SIZES if min(s) >= 112])  # transformers fails where a map is below 7
def test_transformers(size):
    transformers = pytest.importorskip("transformers")
    peer = transformers.SwinModel(transformers.SwinConfig(image_size=224, **SMALL))  # anew: calls change it
    ours = SwinTransformer(num_classes=0, policy="transformers", **SMALL)
    assert_same(ours, peer, names.to_transformers, images(size), lambda out: out.pooler_output)


@pytest.mark.parametrize("size", SIZES)
def test_transformers_backbone(size):
    """Its features, where it shifts maps of one window, too, as the detection code does."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(image_size=224, out_features=["stage1", "stage3"], **SMALL)
    ours = SwinTransformer(out_indices=(0, 2), policy="detection", **SMALL)

    def rename(named: dict) -> dict:
        body = names.to_transformers({k: t for k, t in named.items() if not k.startswith("norm")})
        norms = {k: t for k, t in named.items() if k.startswith("norm")}
        renamed = {f"hidden_states_norms.stage{int(k[4]) + 1}{k[5:]}": t for k, t in norms.items()}
        return renamed | {f"swin.{k}": t for k, t in body.items()}

    peer = transformers.SwinBackbone(config)
    peer.swin.layernorm = nn.Identity()  # of the last stage, and not used in a backbone
    assert_same(ours, peer, rename, images(size), lambda out: out.feature_maps)


@pytest.mark.parametrize("size", SIZES_V2)
def test_timm_v2(size):
    swin = pytest.importorskip("timm.models.swin_transformer_v2")
    peer = swin.SwinTransformerV2(img_size=size, num_classes=5, **SMALL_V2)
    ours = SwinTransformerV2(img_size=size, num_classes=5, policy="timm", **SMALL_V2)
    assert_same(ours, peer, names.to_timm, images(size))


def test_timm_v2_pretrained_windows():
    swin = pytest.importorskip("timm.models.swin_transformer_v2")
    options = {**SMALL_V2, "img_size": 128, "num_classes": 5, "pretrained_window_sizes": (12, 6, 0)}
    ours, peer = SwinTransformerV2(policy="timm", **options), swin.SwinTransformerV2(**options)
    assert_same(ours, peer, names.to_timm, images((128, 128)))


@pytest.mark.parametrize("size", SIZES_V2)
def test_torchvision_v2(size):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    peer = swin.SwinTransformer(
        **{**SMALL_V2, "patch_size": [4, 4], "window_size": [8, 8]}, num_classes=5, block=swin.SwinTransformerBlockV2,
        downsample_layer=swin.PatchMergingV2,
    )  # fmt: skip
    ours = SwinTransformerV2(num_classes=5, policy="torchvision", **SMALL_V2)
    assert_same(
        ours, peer, names.to_torchvision, images(size), join=names.join_qkv_bias, split=names.split_qkv_bias
    )  # fmt: skip


@pytest.mark.parametrize("built_for", [256, 64])
@pytest.mark.parametrize("size", SIZES_V2)
def test_transformers_v2(size, built_for):
    transformers = pytest.importorskip("transformers")
    peer = transformers.Swinv2Model(transformers.Swinv2Config(image_size=built_for, **SMALL_V2))
    ours = SwinTransformerV2(img_size=built_for, num_classes=0, policy="transformers_v2", **SMALL_V2)
    assert_same(ours, peer, names.to_transformers_v2, images(size), lambda out: out.pooler_output)


def test_transformers_v2_adds_the_mask_twice():
    """Seen where the scale is 100 and windows are so small that a query may have no unmasked key like it."""
    transformers = pytest.importorskip("transformers")
    options = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": (2,), "num_heads": (4,), "window_size": 2}
    peer = transformers.Swinv2Model(transformers.Swinv2Config(**options)).eval()
    options["img_size"] = options.pop("image_size")
    ours = [randomize(SwinTransformerV2(num_classes=0, policy=p, **options)) for p in ("transformers_v2", "original")]
    for model in ours:
        for block in model.eval().layers[0].blocks:
            torch.nn.init.constant_(block.attn.logit_scale, 5.0)
    peer.load_state_dict(names.to_transformers_v2(dict(ours[0].named_parameters())), strict=False)
    image = images((16, 16), batch=8)
    with torch.no_grad():
        want = peer(image).pooler_output
        assert distance(ours[0](image), want) < 1e-5
        assert distance(ours[1](image), want) > 1e-2


CLIPS = [(8, 64, 64), (4, 48, 80), (3, 30, 38), (9, 17, 50), (2, 8, 8)]
SMALL_3D = {"patch_size": [2, 4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [3, 4, 5]}


@pytest.mark.parametrize("size", CLIPS)
def test_torchvision_3d(size):
    swin = pytest.importorskip("torchvision.models.video.swin_transformer")
    peer = swin.SwinTransformer3d(**SMALL_3D, norm_layer=nn.LayerNorm)
    peer.head = peer.avgpool = nn.Identity()
    ours = SwinTransformer3D(**SMALL_3D, patch_norm=True, policy="video")
    video = torch.randn(2, 3, *size)
    assert_same(ours, peer, names.to_torchvision_3d, video, lambda out: out.unflatten(1, ours(video).shape[1:]))


@pytest.mark.parametrize("merging", ["monai", "monai_v2"])
@pytest.mark.parametrize("size", [(32, 32, 32), (16, 48, 32), (40, 33, 28)])
def test_monai(size, merging):
    nets = pytest.importorskip("monai.networks.nets.swin_unetr")
    options = {
        "in_chans": 1, "embed_dim": 12, "window_size": (4, 4, 4), "patch_size": (2, 2, 2), "depths": (2, 2, 2, 2),
        "num_heads": (3, 3, 2, 2),
    }  # fmt: skip
    peer = nets.SwinTransformer(**options, downsample={"monai": "merging", "monai_v2": "mergingv2"}[merging])
    assert_same(SwinUNETREncoder(**options, merging=merging), peer, names.to_monai, torch.randn(1, 1, *size))


def test_monai_swin_unetr_takes_our_encoder():
    nets = pytest.importorskip("monai.networks.nets.swin_unetr")
    theirs = nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, use_v2=False).eval()
    encoder = randomize(swin_fast.models.build("swin_unetr", embed_dim=12)).eval()
    theirs.swinViT.load_state_dict(names.to_monai(dict(encoder.named_parameters())), strict=False)
    volume = torch.randn(1, 1, 32, 64, 32)
    with torch.no_grad():
        want = theirs(volume)
        theirs.swinViT = encoder
        assert_close({"y": theirs(volume)}, {"y": want}, 1e-5)


def whole_v1(library: str, image: Tensor) -> tuple:
    if library == "timm":
        swin = pytest.importorskip("timm.models.swin_transformer")
        return swin.swin_tiny_patch4_window7_224(num_classes=10), names.to_timm, same
    if library == "torchvision":
        swin = pytest.importorskip("torchvision.models.swin_transformer")
        return swin.swin_t(num_classes=10), names.to_torchvision, same
    transformers = pytest.importorskip("transformers")
    return transformers.SwinModel(transformers.SwinConfig()), names.to_transformers, lambda out: out.pooler_output


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_swin_t(library):
    image = images((224, 224))
    peer, rename, pick = whole_v1(library, image)
    ours = swin_fast.swin_t(num_classes=0 if library == "transformers" else 10, policy=library)
    assert_same(ours, peer, rename, image, pick)


def test_a_policy_is_needed():
    """The libraries do differ: without its policy, timm's output is another one where the window divides no map."""
    swin = pytest.importorskip("timm.models.swin_transformer")
    peer = swin.SwinTransformer(img_size=(200, 168), num_classes=5, **SMALL)
    ours = SwinTransformer(img_size=(200, 168), num_classes=5, policy=WindowPolicy(), **SMALL)
    with pytest.raises(AssertionError, match="further than"):
        assert_same(ours, peer, names.to_timm, images((200, 168)))
