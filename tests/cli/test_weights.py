"""Checkpoints: what loads, what the labels say, and every file that is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import swin_fast
from swin_fast.models import SwinTransformer

from .conftest import TINY

SMALL = ("demo", "--size", 32, "--repeat", 1, "--threads", 1)


@pytest.fixture
def state(tiny):
    """A state_dict of the small model, whose head says class 285 and then 281 whatever it sees."""
    torch.manual_seed(1)
    state = {k: v.clone() for k, v in tiny().state_dict().items()}
    state["head.weight"].zero_()
    state["head.bias"].zero_()
    state["head.bias"][285], state["head.bias"][281] = 20, 19
    return state


def save(state, name):
    if name.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in state.items()}, name)
    else:
        torch.save(state, name)
    return name


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pth", "model.pth", "state_dict.pt"])
def test_labels(call, no_figure, state, kind):
    wrapper = kind.partition(".")[0]
    save(state if wrapper == "w" else {wrapper: state, "epoch": 300}, kind)
    code, out, _ = call(*SMALL, "--weights", kind)
    assert code == 0
    assert f"float32, {kind}\n" in out
    # exp(20) : exp(19) : 998 * exp(0)
    assert re.search(r"top 5\n +73\.1 %  Egyptian cat\n +26\.9 %  tabby\n( +0\.0 %  .+\n){3}", out), out


def test_weights_are_the_ones_that_run(call, no_figure, state, monkeypatch):
    """The model that is measured holds the file's values, not the random ones."""
    from swin_fast.cli import demo

    seen = []
    monkeypatch.setattr(demo, "query_to_show", lambda *args: (0, 0))
    right = demo.cores
    monkeypatch.setattr(demo, "cores", lambda model, x: seen.append(model) or right(model, x))
    call(*SMALL, "--weights", save(state, "w.safetensors"))
    loaded = seen[0].state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


def test_head_of_another_size(call, no_figure, tiny):
    state = tiny(num_classes=7).state_dict()
    code, out, _ = call(*SMALL, "--weights", save(state, "seven.pth"))
    assert code == 0
    assert len(re.findall(r"%  class [0-6]\n", out)) == 5


def as_timm(state):
    return {k.replace("layers.0.down", "layers.1.down").replace("head.", "head.fc."): v for k, v in state.items()}


LEAN = ("relative_position_index", "attn_mask")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {k: v for k, v in state.items() if not k.endswith(LEAN)},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: as_timm({k: v for k, v in state.items() if not k.endswith(LEAN)}),
    ],
    ids=["without the computed buffers", "inside another module", "timm's"],
)
def test_other_ways_to_write_the_same_weights(call, no_figure, state, change):
    code, out, _ = call(*SMALL, "--weights", save(change(state), "w.pth"))
    assert code == 0
    assert re.search(r"73\.1 %  Egyptian cat\n +26\.9 %  tabby", out), out


def test_wrong_architecture(refused, state):
    other = {f"module.{k}".replace("blocks.1", "parts.1"): v for k, v in state.items()}
    message = refused(*SMALL, "--weights", save(other, "other.pth"))
    assert message.startswith("other.pth is not a whole checkpoint of a SwinTransformer of the original code: ")
    assert re.search(r"\d+ keys unknown \(module.layers.0.parts.1.attn", message)


def test_no_swin_transformer(refused):
    message = refused(*SMALL, "--weights", save({"conv1.weight": torch.ones(2)}, "r.pth"))
    assert message.startswith("r.pth is not a checkpoint of a Swin Transformer known here: it has conv1.weight, ")


def test_wider_model(refused, tiny):
    state = tiny(embed_dim=32).state_dict()
    message = refused(*SMALL, "--weights", save(state, "wide.safetensors"))
    assert re.match(r"wide.safetensors is not a checkpoint of swin_t: \d+ of another shape \(", message)
    assert " instead of (" in message


def test_another_window(refused, state):
    other = SwinTransformer(**{**TINY, "window_size": 8}).state_dict()
    message = refused(*SMALL, "--weights", save(other, "w8.pth"))
    assert "layers.0.blocks.0.attn.relative_position_bias_table (225, 2) instead of (49, 2)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["w.safetensors", "w.pth"])
def test_values_that_are_no_numbers(refused, state, value, kind):
    state["layers.0.blocks.1.mlp.fc1.weight"][3, 2] = value
    message = refused(*SMALL, "--weights", save(state, kind))
    assert message == f"{kind} holds NaN or infinite values: layers.0.blocks.1.mlp.fc1.weight"


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("keep", [0, 1, 7, 100, 5000])
def test_truncated(refused, state, tmp_path, kind, keep):
    save(state, kind)
    whole = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(whole[:keep])
    assert refused(*SMALL, "--weights", kind).startswith(f"cannot read {kind}: ")


class Harmful:
    def __reduce__(self):
        return (open, ("made_by_the_checkpoint", "w"))


def test_code_in_a_checkpoint_does_not_run(refused, tmp_path):
    torch.save({"model": Harmful()}, "bad.pth")
    assert refused(*SMALL, "--weights", "bad.pth").startswith("cannot read bad.pth: ")
    assert not (tmp_path / "made_by_the_checkpoint").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "it is a list"),
        ({}, "it is empty"),
        ({"model": {}}, "it is empty"),
        (torch.ones(2), "it is a Tensor"),
        ({"epoch": 3, "lr": 0.1}, "no tensor under 'epoch', 'lr'"),
        ({1: torch.ones(2)}, "no tensor under 1"),
    ],
)
def test_no_state_dict(refused, content, words):
    torch.save(content, "odd.pth")
    assert refused(*SMALL, "--weights", "odd.pth") == f"odd.pth holds no state_dict: {words}"


def test_another_kind_of_file(refused, tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    assert refused(*SMALL, "--weights", "w.onnx") == "weights must be a .safetensors or .pth file, got w.onnx"
    assert refused(*SMALL, "--weights", ".") == ". is not a file"


def test_all_failing_files_leave_nothing(refused, state, tmp_path):
    state["head.bias"][0] = float("nan")
    refused(*SMALL, "--weights", save(state, "w.pth"))
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_labels_are_those_of_imagenet():
    """A few that every list of ImageNet-1k agrees on."""
    folder = Path(swin_fast.__file__).parent / "data"
    labels = (folder / "imagenet1k_labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == 1000 and all(label.strip() == label and label for label in labels)
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 285: "Egyptian cat", 999: "toilet tissue"}
    assert {i: labels[i] for i in known} == known
    sources = (folder / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"\n## {p.name}\n" in sources for p in folder.iterdir() if p.name != "SOURCES.md")
