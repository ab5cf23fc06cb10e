"""Files that are no checkpoint, or half of one: one error that names the file's own key, and nothing is written."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
import torch

from swin_fast.models import SwinConfig, SwinV2Config, from_config
from swin_fast.models.checkpoints import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint

V1 = SwinConfig(
    img_size=16, patch_size=2, num_classes=3, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
)  # fmt: skip
V2 = SwinV2Config(img_size=16, patch_size=2, num_classes=3, embed_dim=8, depths=(2, 2), num_heads=(2, 4),
                  window_size=4, pretrained_window_sizes=(0, 0))  # fmt: skip


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Read a file that must be refused, into a model that must stay as it is, and write nothing."""
    monkeypatch.chdir(tmp_path)

    def run(file: str, **options) -> str:
        model = from_config(V1)
        before, listing = {k: v.clone() for k, v in model.state_dict().items()}, sorted(os.listdir())
        messages = set()
        for load in (lambda: load_checkpoint(file, model), lambda: read_checkpoint(file, **options)):
            with pytest.raises(CheckpointError) as caught:
                load()
            messages.add(str(caught.value))
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert sorted(os.listdir()) == listing
        (message,) = messages
        assert "\n" not in message
        return message

    return run


def written(format: str, change, config=V1, file="w.pth") -> str:
    """A file of this format, after `change` of its tensors, which it gets as a dict."""
    save_checkpoint(from_config(config), file, format)
    content = torch.load(file, weights_only=True)
    state = content.get("model", content.get("state_dict", content))
    change(state)
    torch.save(content, file)
    return file


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("keep", [0, 1, 7, 100, 5000])
def test_truncated(refused, tmp_path, ending, keep):
    file = tmp_path / f"w.{ending}"
    save_checkpoint(from_config(V1), file)
    file.write_bytes(file.read_bytes()[:keep])
    message = refused(file.name)
    assert message.startswith(f"cannot read {file.name}: truncated, damaged or no weights file: ")


class Harmful:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("made_by_the_checkpoint", "w")[: 1 if self.function is os.system else 2]


@pytest.mark.parametrize(("function", "name"), [(open, r"(_?io|builtins).open"), (os.system, r"(posix|nt).system")])
@pytest.mark.parametrize("wrap", [lambda bad: {"model": bad}, lambda bad: {"model": {}, "config": bad}], ids="ab")
def test_code_is_not_run_and_is_named(refused, tmp_path, wrap, function, name):
    torch.save(wrap(Harmful(function)), tmp_path / "bad.pth")
    message = refused("bad.pth")
    assert re.match(rf"cannot read bad.pth: it holds code \({name}\), which is not run; if you trust", message)


def test_no_advice_to_run_a_damaged_pickle(refused, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01\xff.")
    message = refused("w.pth")
    assert message.startswith("cannot read w.pth: truncated, damaged or no weights file: ")
    assert "weights_only" not in message


def test_no_file(refused, tmp_path):
    assert refused("absent.pth") == "there is no weights file absent.pth"
    (tmp_path / "w.onnx").touch()
    assert refused("w.onnx") == "weights must be a .safetensors or .pth file, got w.onnx"
    assert refused(".") == ". is not a file"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["conv1.weight", "fc.bias"], r"it has conv1.weight, fc.bias, and none of layers.0.blocks.0.attn.qkv.weight"),
        (["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"], "it has blocks.0.attn"),  # ViT
        (["features.0.0.weight", "features.1.0.block.0.weight"], "it has features.0.0.weight"),  # torchvision's others
        (["stages.0.blocks.0.attn.meta_mlp.fc1.weight"], "it is one of timm's SwinTransformerV2Cr, for which"),
        (["layers.0.residual_group.blocks.0.attn.qkv.weight"], "it is one of SwinIR, for which"),
        (["swinViT.layers1.0.blocks.0.attn.qkv.weight"], "it is one of MONAI's SwinUNETR, for which"),
    ],
)
def test_another_model(refused, keys, words):
    torch.save({key: torch.ones(2, 2) for key in keys}, "other.pth")
    assert re.match(f"other.pth is not a checkpoint of a Swin Transformer known here: {words}", refused("other.pth"))


PROJ = {  # what one and the same weight is called
    "original": "layers.1.blocks.0.attn.proj.weight",
    "timm": "layers.1.blocks.0.attn.proj.weight",
    "torchvision": "features.3.0.attn.proj.weight",
    "transformers": "swin.encoder.layers.1.blocks.0.attention.o_proj.weight",
    "transformers4": "swin.encoder.layers.1.blocks.0.attention.output.dense.weight",
    "mmdet": "backbone.stages.1.blocks.0.attn.w_msa.proj.weight",
}


@pytest.mark.parametrize("format", PROJ)
def test_missing_unknown_and_misshapen_keys_are_the_files_own(refused, format):
    key = PROJ[format]
    assert f": 1 keys missing ({key})" in refused(written(format, lambda state: state.pop(key)))
    stray = key.replace("weight", "gain")
    message = refused(written(format, lambda state: state.update({stray: torch.ones(2)})))
    assert f": 1 keys unknown ({stray})" in message
    message = refused(written(format, lambda state: state.update({key: torch.ones(16, 7)})))
    assert f": 1 of another shape ({key} (16, 7) instead of (16, 16))" in message
    message = refused(written(format, lambda state: state[key].fill_(float("nan"))))
    assert message == f"w.pth holds NaN or infinite values: {key}"


def test_all_faults_in_one_message(refused):
    def spoil(state):
        for i in range(5):
            state[f"head.extra{i}"] = torch.ones(1)
        del state["norm.bias"], state["layers.0.blocks.1.mlp.fc1.bias"]
        state["layers.0.blocks.1.norm2.weight"] = torch.ones(9)

    message = refused(written("original", spoil))
    assert "2 keys missing (layers.0.blocks.1.mlp.fc1.bias, norm.bias), " in message
    assert "5 keys unknown (head.extra0, head.extra1, head.extra2, ...), " in message
    assert message.endswith("1 of another shape (layers.0.blocks.1.norm2.weight (9,) instead of (8,))")


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_one_of_q_k_and_v_is_missing(refused, part, what):
    key = f"swin.encoder.layers.1.blocks.1.attention.{part}.{what}"
    assert f": 1 keys missing ({key})" in refused(written("transformers", lambda state: state.pop(key)))


def rename(state, old, new):
    for key in [k for k in state if old in k]:
        state[key.replace(old, new)] = state.pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("patch_embed.proj.weight"), "patch_embed.proj.weight is missing"),
        (lambda s: s.update({"patch_embed.proj.weight": torch.ones(8, 12)}), "proj.weight must have 4 or 5 axes"),
        (lambda s: s.update({"head.weight": torch.ones(8)}), r"head.weight must have 2 axes, its shape is \(8,\)"),
        (lambda s: rename(s, "layers.0.blocks.1.", "layers.0.blocks.2."), "layers.0.blocks.1 is missing"),
        (lambda s: rename(s, "layers.1.", "layers.3."), "layers.1.blocks.0 is missing"),
        (
            lambda s: s.update({"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(50, 2)}),
            "table is of no square window: 50 rows are no square of an odd number",
        ),
        (
            lambda s: s.update({"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(999**2, 2)}),
            "layers.0.blocks.0.attn has windows of 500x500 tokens, more than 1024",
        ),
        (lambda s: s.pop("layers.1.blocks.0.attn.relative_position_bias_table"), "layers.1.*table is missing"),
        (lambda s: s["layers.1.blocks.0.attn.relative_position_index"].add_(1), "index is not the index of its window"),
        (lambda s: s.update({"absolute_pos_embed": torch.ones(1, 63, 8)}), "63 positions, of no square image"),
    ],
)  # fmt: skip
def test_what_the_config_is_read_from(refused, change, words):
    assert re.search(words, refused(written("original", change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.update({"layers.0.blocks.0.attn.relative_coords_table": torch.ones(1, 7, 6, 2)}),
            r"coords_table is of no square window: its shape is \(1, 7, 6, 2\)",
        ),
        (
            lambda s: s.update({"layers.0.blocks.0.attn.logit_scale": torch.ones(2)}),
            "logit_scale must have 3 axes",
        ),
        (lambda s: s.pop("layers.0.blocks.1.attn.v_bias"), r"1 keys missing \(layers.0.blocks.1.attn.v_bias\)"),
    ],
)  # fmt: skip
def test_what_the_config_of_v2_is_read_from(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(written("original", change, V2))


def test_heads_that_do_not_divide_the_channels(refused):
    def spoil(state):
        for key in [k for k in state if k.endswith("bias_table") and ".0.blocks" in k]:
            state[key] = torch.zeros(49, 3)

    message = refused(written("original", spoil))
    assert re.match(
        "w.pth is of a model that cannot be built, SwinConfig.*: dim must be a multiple of num_heads", message
    )


def test_windows_of_every_stage_must_be_those_of_one_model(refused):
    """timm's S3 has another window in each stage."""

    def spoil(state):
        for key in [k for k in state if k.endswith("bias_table") and k.startswith("layers.0")]:
            state[key] = torch.zeros(9, 2)

    message = refused(written("timm", spoil, replace(V1, img_size=64)))
    assert "layers.0.blocks.0.attn has windows of 2, another stage of 4, which no square image makes so" in message


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, ending):
    file = tmp_path / f"w.{ending}"
    file.write_bytes(b"old")

    def full_disk(tensors, name, *args, **kwargs):
        with open(name, "wb") as half:
            half.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    monkeypatch.setattr(pytest.importorskip("safetensors.torch"), "save_file", full_disk)
    with pytest.raises(CheckpointError, match=f"cannot write .*w.{ending}: .*No space left on device"):
        save_checkpoint(from_config(V1), file)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(file.name, b"old")]


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_old_file_is_replaced_and_not_written_into(tmp_path, ending):
    """Who has the old one open goes on reading it whole."""
    file = tmp_path / f"w.{ending}"
    file.write_bytes(b"old")
    os.link(file, tmp_path / "link")
    save_checkpoint(from_config(V1), file)
    assert (tmp_path / "link").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", file.name]
    assert read_checkpoint(file).config.depths == (2, 2)
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "words"),
    [("w.onnx", "weights must be a"), ("nowhere/w.pth", "no directory .*nowhere"), ("dir.pth", "is a directory")],
)
def test_places_that_cannot_be_written(tmp_path, name, words):
    (tmp_path / "dir.pth").mkdir()
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(from_config(V1), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["dir.pth"]
