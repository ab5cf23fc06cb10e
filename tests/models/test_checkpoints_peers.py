"""Files of timm, torchvision and transformers: theirs run in our models, ours load strictly into theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swin_fast.models import Swin3DConfig, SwinConfig, SwinV2Config, from_config
from swin_fast.models.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint

from ..peers import define_torchvision_operators
from ..weights import distance, randomize

SIZES = {"patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
V1 = SwinConfig(img_size=32, num_classes=5, **SIZES)
V2 = SwinV2Config(img_size=32, num_classes=5, pretrained_window_sizes=(0, 0), **SIZES)
# where a file says no window: timm and transformers keep no table for V2
SAID = {"window_size": 4, "img_size": 32}


def timm_model(v2: bool):
    if v2:
        timm = pytest.importorskip("timm.models.swin_transformer_v2")
        return timm.SwinTransformerV2(img_size=32, num_classes=5, **SIZES)
    return pytest.importorskip("timm.models.swin_transformer").SwinTransformer(img_size=32, num_classes=5, **SIZES)


def torchvision_model(v2: bool):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if v2 else {}
    return swin.SwinTransformer(**SIZES | {"patch_size": [2, 2], "window_size": [4, 4]}, num_classes=5, **parts)


def transformers_model(v2: bool):
    transformers = pytest.importorskip("transformers")
    kind = "Swinv2" if v2 else "Swin"
    config = getattr(transformers, f"{kind}Config")(image_size=32, num_labels=5, **SIZES)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


PEERS = {"timm": timm_model, "torchvision": torchvision_model, "transformers": transformers_model}


@pytest.fixture(autouse=True)
def torchvision_imports():
    define_torchvision_operators()


def output(model, x):
    with torch.inference_mode():
        y = model(x)
    return getattr(y, "logits", y)


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("library", PEERS)
def test_theirs_run_in_ours(tmp_path, library, v2):
    peer = randomize(PEERS[library](v2)).eval()
    file = tmp_path / "peer.pth"
    torch.save(peer.state_dict(), file)
    said = SAID if v2 and library != "torchvision" else {}
    x = torch.randn(2, 3, 32, 32)
    want = output(peer, x)
    model = load_checkpoint(file, **said)
    assert type(model.config) is (SwinV2Config if v2 else SwinConfig)
    assert model.config.num_classes == 5 and model.config.depths == (2, 2) and model.config.window_size == 4
    assert distance(output(model, x), want) < 1e-5
    # the library's own way with a size that the window does not divide comes with the file; timm's models take one size
    other = torch.randn(1, 3, 36, 44)
    if library != "timm":
        assert distance(output(model, other), output(peer, other)) < 1e-5


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_ours_load_strictly_into_theirs(tmp_path, library, v2, ending):
    model = randomize(from_config(V2 if v2 else V1)).eval()
    file = tmp_path / f"ours.{ending}"
    save_checkpoint(model, file, library)
    peer = PEERS[library](v2).eval()
    peer.load_state_dict(read(file), strict=True)
    x = torch.randn(2, 3, 32, 32)
    assert distance(output(peer, x), output(model, x)) < 1e-5


def read(file):
    if file.suffix == ".pth":
        return torch.load(file, weights_only=True)
    return pytest.importorskip("safetensors.torch").load_file(file)


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("format", ["transformers", "transformers4"])
def test_from_pretrained_takes_both_names(tmp_path, v2, format):
    peer = transformers_model(v2)
    model = randomize(from_config(V2 if v2 else V1)).eval()
    peer.config.save_pretrained(tmp_path)
    save_checkpoint(model, tmp_path / "model.safetensors", format)
    loaded, report = type(peer).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    x = torch.randn(1, 3, 32, 32)
    assert distance(output(loaded.eval(), x), output(model, x)) < 1e-5


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_saved_by_transformers_with_its_config_beside(tmp_path, v2):
    """save_pretrained writes the names of 4.x; config.json says the window."""
    peer = randomize(transformers_model(v2)).eval()
    peer.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.format == "transformers4" and checkpoint.left_out == ()
    x = torch.randn(1, 3, 36, 44)
    assert distance(output(load_checkpoint(tmp_path / "model.safetensors"), x), output(peer, x)) < 1e-5


def test_transformers_v2_shifts_as_it_was_built(tmp_path):
    """Built for 16 pixels its last map is one window, unshifted, and stays so with a larger picture."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Swinv2Config(image_size=16, num_labels=5, **SIZES)
    peer = randomize(transformers.Swinv2ForImageClassification(config)).eval()
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    model = load_checkpoint(tmp_path / "w.pth", window_size=4, img_size=16)
    x = torch.randn(1, 3, 32, 40)
    assert distance(output(model, x), output(peer, x)) < 1e-5


def test_transformers_backbone(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(image_size=32, out_features=["stage1", "stage2"], **SIZES)
    peer = randomize(transformers.SwinBackbone(config)).eval()
    torch.save(peer.state_dict(), tmp_path / "backbone.pth")
    model = load_checkpoint(tmp_path / "backbone.pth")
    assert model.config.out_indices == (0, 1)
    assert read_checkpoint(tmp_path / "backbone.pth").left_out == ("swin.layernorm.bias", "swin.layernorm.weight")
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        pairs = zip(model(x), peer(x).feature_maps, strict=True)
    assert all(distance(got, want) < 1e-5 for got, want in pairs)


def test_torchvision_3d(tmp_path):
    swin = pytest.importorskip("torchvision.models.video.swin_transformer")
    sizes = SIZES | {"patch_size": [2, 2, 2], "window_size": [2, 3, 3], "depths": [2, 2], "num_heads": [2, 4]}
    peer = randomize(swin.SwinTransformer3d(**sizes, num_classes=5)).eval()
    torch.save(peer.state_dict(), tmp_path / "video.pth")
    model = load_checkpoint(tmp_path / "video.pth")
    assert model.config.window_size == (2, 3, 3) and isinstance(model.config, Swin3DConfig)
    assert read_checkpoint(tmp_path / "video.pth").left_out == ("head.bias", "head.weight")
    x = torch.randn(1, 3, 4, 20, 24)
    with torch.inference_mode():
        got = torch.nn.functional.linear(model(x).mean((2, 3, 4)), peer.head.weight, peer.head.bias)
        assert distance(got, peer(x)) < 1e-5
    save_checkpoint(model, tmp_path / "back.pth", "torchvision")
    missing, unexpected = peer.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True), strict=False)
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])


def test_timm_window_that_shrinks(tmp_path):
    """Windows of 8 on a last map of 6: timm's table shrinks with it, and tells the size of the picture."""
    timm = pytest.importorskip("timm.models.swin_transformer")
    peer = randomize(timm.SwinTransformer(img_size=24, num_classes=5, **SIZES | {"window_size": 8})).eval()
    torch.save(peer.state_dict(), tmp_path / "timm.pth")
    model = load_checkpoint(tmp_path / "timm.pth")
    assert replace(model.config, policy=None) == replace(V1, img_size=24, window_size=8, policy=None)
    x = torch.randn(1, 3, 24, 24)
    assert distance(output(model, x), output(peer, x)) < 1e-5


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_v2_pretrained_on_smaller_windows(tmp_path, library):
    """The coordinates' divisor is in no file of these; the name, or config.json, or the caller says it."""
    if library == "timm":
        timm = pytest.importorskip("timm.models.swin_transformer_v2")
        peer = timm.SwinTransformerV2(img_size=32, num_classes=5, pretrained_window_sizes=(3, 2), **SIZES)
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.Swinv2Config(image_size=32, num_labels=5, pretrained_window_sizes=(3, 2), **SIZES)
        peer = transformers.Swinv2ForImageClassification(config)
    torch.save(randomize(peer).eval().state_dict(), tmp_path / "w.pth")
    x = torch.randn(1, 3, 32, 32)
    model = load_checkpoint(tmp_path / "w.pth", pretrained_window_sizes=(3, 2), **SAID)
    assert distance(output(model, x), output(peer, x)) < 1e-5
    assert distance(output(load_checkpoint(tmp_path / "w.pth", **SAID), x), output(peer, x)) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_files_stay_half(tmp_path, dtype):
    model = randomize(from_config(V1)).to(dtype)
    save_checkpoint(model, tmp_path / "half.safetensors", "transformers")
    checkpoint = read_checkpoint(tmp_path / "half.safetensors")
    assert {t.dtype for t in checkpoint.state_dict.values()} == {dtype}
    save_checkpoint(checkpoint, tmp_path / "back.safetensors", "timm")
    back = read_checkpoint(tmp_path / "back.safetensors").state_dict
    assert all(torch.equal(t, back[name]) for name, t in checkpoint.state_dict.items())
