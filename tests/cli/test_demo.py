"""The main job: both roads, the figures it prints, the exit status, the picture."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from swin_fast import dispatch, functional
from swin_fast.cli import attention, figure, picture
from swin_fast.modules import window_attention as modules

SMALL = ("demo", "--size", 32, "--repeat", 1, "--threads", 1)


def test_default_picture(call, tiny, tmp_path):
    code, out, err = call(*SMALL)
    assert (code, err) == (0, "")
    assert "chelsea.jpg (ships with the package), 451 x 300; batch 1 at 32 x 32" in out
    assert re.search(r"\nlogits +\d\.\de\S+ +\d\.\de\S+\n  ok: relative difference at most 1e-4\n", out)
    assert re.search(r"\n4 attention cores, the worst +\S+ +\S+\n  ok: relative difference at most 1e-4\n", out)
    for quantity, unit in (("time", "ms"), ("memory", "MiB")):
        for what in ("whole model", "attention core, stage 1"):
            assert re.search(rf"\n{what}, {quantity} +[\d.e-]+ {unit} +[\d.e-]+ {unit} +\d+\.\d\dx \w+\n", out), out
    assert "top 5" not in out
    assert [p.name for p in tmp_path.iterdir()] == ["swin_fast_demo.png"]
    with Image.open("swin_fast_demo.png") as png:
        assert png.format == "PNG" and min(png.size) > 1000
        assert len(png.convert("RGB").getcolors(2**24)) > 10_000  # a photograph is in it


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_padding_and_batch(call, tiny, no_figure, dtype):
    code, out, _ = call(*SMALL, "--dtype", dtype, "--size", 37, "--batch", 3)
    assert code == 0
    assert re.search(rf"ok: error against float32 \S+, at most twice the \S+ of plain {dtype}", out)
    assert "batch 3 at 37 x 37" in out


def test_own_picture_of_any_mode(call, tiny, tmp_path):
    Image.new("RGBA", (50, 20), (200, 10, 10, 128)).save("some picture.png")
    code, out, _ = call(*SMALL, "some picture.png", "--output", tmp_path / "out.png")
    assert code == 0
    assert "some picture.png, 50 x 20" in out
    assert (tmp_path / "out.png").exists()


def test_threads_are_put_back(call, tiny, no_figure):
    before = torch.get_num_threads()
    out = call(*SMALL[:-1], before + 1).out
    assert f"{before + 1} threads" in out
    assert torch.get_num_threads() == before


def test_random_weights_leave_the_generator_alone(call, tiny, no_figure):
    before = torch.get_rng_state()
    assert "random weights (seed 3)" in call(*SMALL, "--seed", 3).out
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", [lambda out: out * 1.05, lambda out: out.flip(1), lambda out: out / 0], ids="abc")
def test_roads_that_disagree_exit_with_1(call, tiny, no_figure, monkeypatch, dtype, fault):
    right = functional.window_attention

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return out if dispatch.forced_backend() == "reference" else fault(out)

    monkeypatch.setattr(modules, "window_attention", wrong)
    monkeypatch.setattr(attention, "window_attention", wrong)
    code, out, _ = call(*SMALL, "--dtype", dtype)
    assert code == 1
    assert "  FAILED: " in out


def test_environment_can_turn_the_fused_road_off(call, tiny, no_figure):
    with dispatch.use_backend("reference"):
        code, out, _ = call(*SMALL)
    assert code == 0
    assert "backend 'reference'" in out and "nothing is fused here, both roads are plain PyTorch" in out


def test_swin_t(call):
    code, out, _ = call("demo", "--repeat", 1, "--threads", 1)
    assert code == 0
    assert "swin_t, 28.3 M parameters, float32" in out
    assert "batch 1 at 224 x 224" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--model", "swin_xl"), ("--model", "'swin_xl'", "swin_t")),
        (("--dtype", "int8"), ("--dtype", "'int8'", "bfloat16")),
        (("--batch", "-1"), ("--batch", "at least 1", "-1")),
        (("--batch", "two"), ("--batch", "integer", "'two'")),
        (("--threads", "-4"), ("--threads", "at least 1", "-4")),
        (("--threads", "0"), ("--threads", "at least 1", "0")),
        (("--repeat", "0"), ("--repeat", "at least 1", "0")),
        (("--size", "31"), ("--size", "at least 32", "31")),
        (("--seed", "-1"), ("--seed", "at least 0", "-1")),
        (("--seed", str(2**64)), ("--seed", "below 2**31")),
        (("--device", "tpu"), ("--device", "cpu or cuda", "'tpu'")),
        (("--device", "meta"), ("--device", "cpu or cuda", "'meta'")),
        (("--device", "cuda:99"), ("--device", "cuda:99", "no such GPU")),
        (("--output", "nowhere/out.png"), ("nowhere", "no directory")),
        (("--output", "."), ("--output", "is a directory")),
        (("absent.jpg",), ("no picture absent.jpg",)),
        ((".",), (". is not a file",)),
        (("--weights", "absent.pth"), ("no weights file absent.pth",)),
        (("--frobnicate",), ("unrecognized", "--frobnicate")),
    ],
)
def test_impossible_wishes_are_one_line(refused, tiny, tmp_path, argv, words):
    message = refused("demo", *argv)
    assert all(w in message for w in words), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"this is no picture", "truncated"], ids=["empty", "text", "truncated"])
def test_a_picture_that_is_none(refused, tiny, tmp_path, content):
    if content == "truncated":
        content = picture.DEFAULT.read_bytes()[:20_000]
    (tmp_path / "cat.jpg").write_bytes(content)
    assert refused("demo", "cat.jpg").startswith("cannot read cat.jpg as a picture: ")
    assert [p.name for p in tmp_path.iterdir()] == ["cat.jpg"]


def test_failed_write_leaves_the_old_picture(call, tiny, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def full_disk(self, path, **kwargs):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    (tmp_path / "out.png").write_bytes(b"old")
    code, _, err = call(*SMALL, "--output", "out.png")
    assert (code, err) == (2, "swin-fast: error: cannot write out.png: [Errno 28] No space left on device\n")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.png", b"old")]


def test_out_of_memory_is_one_line(call, tiny, monkeypatch):
    def too_much(*args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: 8 bytes")

    monkeypatch.setattr(picture, "to_batch", too_much)
    code, _, err = call(*SMALL, "--batch", 9)
    assert (code, err) == (2, "swin-fast: error: out of memory at batch 9, size 32; try smaller ones\n")


def test_other_runtime_errors_are_not_hidden(call, tiny, monkeypatch):
    def broken(*args):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(picture, "to_batch", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        call(*SMALL)


def test_ratio_words():
    assert figure.Bars("t", "ms", (3.0, 2.0), ("faster", "slower")).ratio == "1.50x faster"
    assert figure.Bars("t", "ms", (2.0, 3.0), ("faster", "slower")).ratio == "1.50x slower"
    assert figure.Bars("t", "MiB", (2.0, 0.0), ("less", "more")).ratio == ""
