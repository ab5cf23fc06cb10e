"""Round trips through every format and file, what cannot be written, heads, and other windows on load."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swin_fast.models import Swin3DConfig, SwinConfig, SwinV2Config, from_config
from swin_fast.models.checkpoints import FORMATS, CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from swin_fast.models.checkpoints.names import COMPUTED

from ..weights import randomize

SIZES = {"patch_size": 2, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
V1 = SwinConfig(img_size=16, num_classes=3, window_size=4, **SIZES)
V2 = SwinV2Config(img_size=16, num_classes=3, window_size=4, pretrained_window_sizes=(0, 0), **SIZES)
CONFIGS = {
    "v1": V1,
    "v1 without classes": replace(V1, num_classes=0),
    "v1 with positions": replace(V1, ape=True),
    "v1 without biases": replace(V1, qkv_bias=False),
    "v1, grey, other MLP": replace(V1, in_chans=1, mlp_ratio=2.5),
    "v1 whose window shrinks": replace(V1, img_size=24, window_size=8),
    "v1 backbone": replace(V1, num_classes=1000, out_indices=(0, 1)),
    "v1 backbone of one stage": replace(V1, num_classes=1000, out_indices=(0,), ape=True),
    "v2": V2,
    "v2 whose window shrinks, pre-trained": replace(V2, img_size=24, window_size=8, pretrained_window_sizes=(5, 3)),
    "v2 with extra norms": replace(V2, depths=(4, 2), extra_norm_period=2),
    "v2 without biases": replace(V2, qkv_bias=False),
    "video": Swin3DConfig(**SIZES | {"patch_size": (2, 4, 4)}, window_size=(2, 3, 3), patch_norm=True),
}
HAS_NO = {  # which of them a library has no place for
    "timm": ("positions", "backbone", "extra", "video"),
    "torchvision": ("positions", "backbone", "extra", "shrinks"),
    "transformers": ("backbone", "extra", "video", "v1 whose window shrinks"),
    "transformers4": ("backbone", "extra", "video", "v1 whose window shrinks"),
    "mmdet": ("video",),
    "original": (),
}


def parameters(model) -> dict:
    return {k: v for k, v in model.state_dict().items() if k.rpartition(".")[2] not in COMPUTED}


def triples():
    """Every model in every format that has it, as safetensors; a few also as a pickle."""
    assert HAS_NO.keys() == FORMATS.keys()
    pairs = [(c, f) for c in CONFIGS for f in FORMATS if not any(word in c for word in HAS_NO[f])]
    few = ("v1", "v1 backbone", "v2", "v2 whose window shrinks, pre-trained", "video")
    return [(c, f, "safetensors") for c, f in pairs] + [(c, f, "pth") for c, f in pairs if c in few]


def said(config, format, ending) -> dict:
    """What a pickle of these libraries does not say about a V2."""
    if isinstance(config, SwinV2Config) and ending == "pth" and format in ("timm", "transformers", "transformers4"):
        return {name: getattr(config, name) for name in ("window_size", "img_size", "pretrained_window_sizes")}
    return {}


@pytest.mark.parametrize(("name", "format", "ending"), triples())
def test_round_trip(tmp_path, name, format, ending):
    config, file = CONFIGS[name], tmp_path / f"w.{ending}"
    model = randomize(from_config(config))
    save_checkpoint(model, file, format)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    checkpoint = read_checkpoint(file, **said(config, format, ending))
    want = parameters(model)
    assert checkpoint.state_dict.keys() == want.keys()
    assert all(torch.equal(checkpoint.state_dict[k], v) for k, v in want.items())
    assert checkpoint.left_out == ()
    same = {"policy": None, "drop_path_rate": 0}
    if ending == "pth" and not isinstance(config, Swin3DConfig) and not config.ape:
        same["img_size"] = None  # not in every pickle
    assert replace(checkpoint.config, **same) == replace(config, **same)
    # the whole state_dict, buffers too, of a model under the same policy
    back = load_checkpoint(file, policy=config.policy, **said(config, format, ending) | image(config))
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(back.state_dict()[k], v) for k, v in model.state_dict().items())
    assert not back.training


def image(config) -> dict:
    return {} if isinstance(config, Swin3DConfig) else {"img_size": config.img_size}


@pytest.mark.parametrize(
    ("name", "format"), [(c, f) for c in CONFIGS for f in FORMATS if any(word in c for word in HAS_NO[f])]
)
def test_a_library_without_such_a_model_is_said(tmp_path, name, format):
    why = "(timm|torchvision|transformers|mmdet|layers.1.* has windows of .* load it for a larger img_size)"
    with pytest.raises(CheckpointError, match=f"cannot write .*w.pth as {format}: {why}"):
        save_checkpoint(from_config(CONFIGS[name]), tmp_path / "w.pth", format)
    assert not list(tmp_path.iterdir())


def test_through_all_formats_in_turn(tmp_path):
    """One file after another, each written from the one before."""
    model = randomize(from_config(V1))
    save_checkpoint(model, tmp_path / "0.pth")
    steps = ("timm", "mmdet", "torchvision", "transformers", "transformers4", "original")
    for i, format in enumerate(steps):
        checkpoint = read_checkpoint(tmp_path / f"{i}.pth")
        assert checkpoint.format == ("original", *steps)[i]
        save_checkpoint(checkpoint, tmp_path / f"{i + 1}.pth", format)
    first, last = (torch.load(tmp_path / f"{i}.pth", weights_only=True)["model"] for i in (0, len(steps)))
    assert first.keys() == last.keys() and all(torch.equal(first[k], last[k]) for k in first)


def test_weights_go_into_a_given_model(tmp_path):
    source, model = randomize(from_config(V1)), from_config(V1)
    save_checkpoint(source, tmp_path / "w.pth", "timm")
    assert load_checkpoint(tmp_path / "w.pth", model) is model
    assert all(torch.equal(model.state_dict()[k], v) for k, v in source.state_dict().items())


def test_loading_leaves_the_generator_alone(tmp_path):
    save_checkpoint(from_config(V1), tmp_path / "w.pth", "timm")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "w.pth")
    save_checkpoint(read_checkpoint(tmp_path / "w.pth"), tmp_path / "v.pth", "mmdet")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prefix", ["module.", "model.backbone."])
def test_backbone_of_a_larger_model(tmp_path, prefix):
    state = {prefix + k: v for k, v in parameters(from_config(V1)).items()}
    torch.save(state | {"decoder.weight": torch.ones(3)}, tmp_path / "w.pth")
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert checkpoint.left_out == ("decoder.weight",)
    assert checkpoint.state_dict.keys() == parameters(from_config(V1)).keys()


def test_two_backbones_need_a_choice(tmp_path):
    states = {p: parameters(randomize(from_config(V1), seed=i)) for i, p in enumerate(("student.", "teacher."))}
    torch.save({p + k: v for p, state in states.items() for k, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"2 Swin Transformers: .* prefix= one of \['student.', 'teacher.'\]"):
        read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"prefix='ema.', but behind \['student.', 'teacher.'\]"):
        read_checkpoint(tmp_path / "w.pth", prefix="ema.")
    found = read_checkpoint(tmp_path / "w.pth", prefix="teacher.").state_dict
    assert torch.equal(found["norm.bias"], states["teacher."]["norm.bias"])


def test_views_are_written_alone(tmp_path):
    """A small tensor that is a view of a large one does not take the large one into the file, nor fail."""
    model = from_config(V1)
    model.norm.weight.data = torch.randn(500_000)[7 : 7 + 16]
    for ending in ("pth", "safetensors"):
        file = tmp_path / f"w.{ending}"
        save_checkpoint(model, file)
        assert file.stat().st_size < 500_000
        assert torch.equal(read_checkpoint(file).state_dict["norm.weight"], model.norm.weight)


def test_what_a_v2_file_does_not_say(tmp_path):
    save_checkpoint(from_config(replace(V2, img_size=32)), tmp_path / "w.pth", "timm")
    with pytest.raises(CheckpointError, match="does not say the window .* give window_size= and img_size="):
        load_checkpoint(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not say the image size .* give img_size="):
        load_checkpoint(tmp_path / "w.pth", window_size=4)
    # its name
    (tmp_path / "w.pth").rename(tmp_path / "swinv2_window2to4_8to32.pth")
    config = read_checkpoint(tmp_path / "swinv2_window2to4_8to32.pth").config
    assert (config.window_size, config.img_size, config.pretrained_window_sizes) == (4, 32, (2, 1))
    # timm's config.json, which is closer than the name
    (tmp_path / "config.json").write_text('{"architecture": "swinv2_tiny_window4_16"}')
    config = read_checkpoint(tmp_path / "swinv2_window2to4_8to32.pth").config
    assert (config.window_size, config.img_size) == (4, 16)


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": 3}', '{"model_type": "bert", "image_size": "big"}'])
def test_another_config_beside_the_file_says_nothing(tmp_path, text):
    save_checkpoint(from_config(V2), tmp_path / "w.pth", "timm")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="does not say the window"):
        read_checkpoint(tmp_path / "w.pth")


def test_bad_hints(tmp_path):
    save_checkpoint(from_config(V2), tmp_path / "w.pth", "timm")
    (tmp_path / "config.json").write_text('{"model_type": "swinv2", "image_size": "big"}')
    with pytest.raises(CheckpointError, match="config.json: img_size must hold integers, got 'big'"):
        read_checkpoint(tmp_path / "w.pth")
    safetensors = pytest.importorskip("safetensors.torch")
    for text, words in (("{", "is no JSON"), ("[]", "must be a JSON object"), ('{"window_size": 1.5}', "got 1.5")):
        state = torch.load(tmp_path / "w.pth", weights_only=True)
        safetensors.save_file(state, tmp_path / "w.safetensors", {"swin_fast": text})
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(tmp_path / "w.safetensors")


def test_v2_keeps_its_divisor_with_another_window(tmp_path):
    """Offsets stay divided by the window of the file, also where that is only the window itself."""
    save_checkpoint(from_config(V2), tmp_path / "w.pth")
    model = load_checkpoint(tmp_path / "w.pth", window_size=8, img_size=32)
    assert model.config.pretrained_window_sizes == (4, 4)
    table = model.layers[0].blocks[0].attn.relative_coords_table
    assert table.shape == (1, 15, 15, 2)
    before = from_config(V2).layers[0].blocks[0].attn.relative_coords_table
    assert torch.equal(table[:, 4:-4, 4:-4], before)


def test_v2_of_another_divisor_is_refused(tmp_path):
    save_checkpoint(from_config(V2), tmp_path / "w.pth")
    other = from_config(replace(V2, window_size=8, img_size=32))
    words = r"divided by windows of \(4, 4\), the model's by \(8, 8\): give pretrained_window_sizes=\(4, 4\)"
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "w.pth", other)
    load_checkpoint(tmp_path / "w.pth", from_config(replace(other.config, pretrained_window_sizes=(4, 4))))


def test_a_file_of_timm_becomes_a_backbone(tmp_path):
    """timm chooses shifts for the size that a model is built for; a backbone is built for none."""
    source = randomize(from_config(V1))
    save_checkpoint(source, tmp_path / "w.pth", "timm")
    with pytest.warns(UserWarning, match="norm1.weight"):
        model = load_checkpoint(tmp_path / "w.pth", out_indices=(1,), img_size=16)
    assert (model.config.policy.pad_order, model.config.policy.shift) == ("roll_then_pad", "map")
    save_checkpoint(from_config(CONFIGS["v1 backbone"]), tmp_path / "all.pth")
    assert load_checkpoint(tmp_path / "all.pth", out_indices=(1,)).config.out_indices == (1,)


def test_number_of_classes(tmp_path):
    source = randomize(from_config(V1))
    save_checkpoint(source, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match="head.weight is for 3 classes, the model for 10: give num_classes=3, or new"
    ):
        load_checkpoint(tmp_path / "w.pth", num_classes=10)
    model = load_checkpoint(tmp_path / "w.pth", num_classes=10, new_head=True)
    assert model.head.weight.shape == (10, 16) and torch.equal(model.norm.bias, source.norm.bias)
    assert not list(load_checkpoint(tmp_path / "w.pth", num_classes=0).head.parameters())
    headless = replace(V1, num_classes=0)
    save_checkpoint(from_config(headless), tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="has no head.weight, and the model is for 3 classes: give num_classes=0"):
        load_checkpoint(tmp_path / "none.pth", num_classes=3)
    assert load_checkpoint(tmp_path / "none.pth", num_classes=3, new_head=True).head.weight.shape == (3, 16)


def test_arguments(tmp_path):
    model = from_config(V1)
    save_checkpoint(model, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="resize must be one of .*'bicubic', 'geometric'.* got 'linear'"):
        load_checkpoint(tmp_path / "w.pth", resize="linear")
    with pytest.raises(TypeError, match="model must be a model of swin_fast.models, got Linear"):
        load_checkpoint(tmp_path / "w.pth", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="img_size cannot be given together with a model"):
        load_checkpoint(tmp_path / "w.pth", model, img_size=32)
    with pytest.raises(TypeError, match="frobnicate"):
        load_checkpoint(tmp_path / "w.pth", frobnicate=1)
    with pytest.raises(ValueError, match="format must be one of .*'timm'.* got 'keras'"):
        save_checkpoint(model, tmp_path / "v.pth", "keras")
    with pytest.raises(TypeError, match="model must be a model of swin_fast.models or a Checkpoint, got dict"):
        save_checkpoint({}, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match="is of a SwinTransformer, and cannot be loaded into a SwinTransformerV2"):
        load_checkpoint(tmp_path / "w.pth", from_config(V2))
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]
