"""Writing a checkpoint as another library has it, from the command line."""

from __future__ import annotations

import pytest
import torch

from swin_fast.models import SwinTransformer, SwinTransformerV2
from swin_fast.models.checkpoints import read_checkpoint, save_checkpoint

from ..weights import randomize
from .conftest import TINY

FORMATS = ("original", "timm", "torchvision", "transformers", "transformers4", "mmdet")


@pytest.fixture
def file(call):
    """w.pth in the folder that the commands run in."""
    save_checkpoint(randomize(SwinTransformer(num_classes=3, **TINY)), "w.pth")
    return "w.pth"


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_convert(call, file, tmp_path, to, ending):
    code, out, err = call("convert", file, f"out.{ending}", "--to", to)
    assert (code, err) == (0, "")
    assert out.startswith("read   w.pth: original, 0.0 M parameters, SwinConfig(img_size=32, num_classes=3, ")
    assert out.endswith(f"wrote  out.{ending}: {to}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"out.{ending}", "w.pth"]
    before, after = read_checkpoint(file), read_checkpoint(f"out.{ending}")
    assert after.format == to
    assert all(torch.equal(before.state_dict[k], v) for k, v in after.state_dict.items())


def test_over_itself(call, file):
    before = read_checkpoint(file).state_dict
    assert call("convert", file, file, "--to", "torchvision").code == 0
    assert read_checkpoint(file).format == "torchvision"
    assert all(torch.equal(before[k], v) for k, v in read_checkpoint(file).state_dict.items())


def test_what_is_left_out_is_said(call):
    state = SwinTransformer(**TINY).state_dict()
    torch.save({f"backbone.{k}": v for k, v in state.items()} | {"neck.weight": torch.ones(2)}, "w.pth")
    out = call("convert", "w.pth", "out.pth", "--to", "timm").out
    assert "left out 1 keys of other parts: neck.weight\n" in out


def test_v2_of_timm_needs_and_loses_its_window(call, refused):
    sizes = TINY | {"pretrained_window_sizes": (0, 0)}
    save_checkpoint(SwinTransformerV2(**sizes), "v2.pth")
    out = call("convert", "v2.pth", "t.pth", "--to", "timm").out
    assert out.endswith("it does not say that its window is 4 and its image 32\n")
    assert "does not say the window of its Swin V2: give --window-size and --img-size (" in refused(
        "convert", "t.pth", "o.pth", "--to", "original"
    )
    code, out, _ = call("convert", "t.pth", "o.pth", "--to", "original", "--window-size", 4, "--img-size", "32x32")
    assert code == 0
    whole, back = (torch.load(name, weights_only=True)["model"] for name in ("v2.pth", "o.pth"))
    assert whole.keys() == back.keys() and all(torch.equal(whole[k], back[k]) for k in whole)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("w.pth", "out.pth"), ("--to", "required")),
        (("w.pth", "out.pth", "--to", "keras"), ("--to", "'keras'", "torchvision")),
        (("absent.pth", "out.pth", "--to", "timm"), ("no weights file absent.pth",)),
        (("w.pth", "out.onnx", "--to", "timm"), (".safetensors or .pth file, got out.onnx",)),
        (("w.pth", "nowhere/out.pth", "--to", "timm"), ("no directory nowhere",)),
        (("w.pth", ".", "--to", "timm"), (".",)),
        (("w.pth", "out.pth", "--to", "timm", "--prefix", "ema."), ("--prefix 'ema.'", "['']")),
        (("w.pth", "out.pth", "--to", "timm", "--img-size", "1x2x3"), ("--img-size", "N or HxW")),
        (("w.pth", "out.pth", "--to", "timm", "--img-size", "0"), ("--img-size", "at least 1")),
    ],
)
def test_impossible_wishes_are_one_line(refused, file, tmp_path, argv, words):
    message = refused("convert", *argv)
    assert all(w in message for w in words), message
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_bad_files_leave_the_old_output(refused, file, tmp_path):
    (tmp_path / "out.pth").write_bytes(b"old")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[:3000])
    assert refused("convert", "w.pth", "out.pth", "--to", "timm").startswith("cannot read w.pth: ")
    save_checkpoint(SwinTransformer(ape=True, **TINY), "w.pth")
    message = refused("convert", "w.pth", "out.pth", "--to", "timm")
    assert message == "cannot write out.pth as timm: timm has no absolute position embedding"
    assert (tmp_path / "out.pth").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.pth", "w.pth"]
