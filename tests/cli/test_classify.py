"""Naming what is in pictures: the picture's way into the model, labels, the table and JSON."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image

import swin_fast
from swin_fast.cli import classify, common, picture
from swin_fast.models import Swin3DConfig, SwinTransformer, from_config
from swin_fast.models.checkpoints import save_checkpoint

from ..peers import define_torchvision_operators
from ..weights import randomize
from .conftest import TINY


def save(classes: int, **bias) -> None:
    """w.pth, a small model whose head says the same classes whatever it sees: exp(bias) to 1."""
    model = SwinTransformer(num_classes=classes, **TINY)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    for name, value in bias.items():
        model.head.bias.data[int(name[1:])] = value
    save_checkpoint(model, "w.pth", "timm")


@pytest.fixture
def cats(call):
    for i in range(5):
        Image.effect_noise((40 + 3 * i, 50 - 2 * i), 80).convert("RGB").save(f"{i}.png")
    return [f"{i}.png" for i in range(5)]


@pytest.mark.parametrize(("classes", "names"), [(1000, ("Egyptian cat", "tabby")), (7, ("class 5", "class 1"))])
def test_table(call, cats, classes, names):
    first, second = (285, 281) if classes == 1000 else (5, 1)
    save(classes, **{f"c{first}": 20, f"c{second}": 19})
    code, out, err = call("classify", *cats[:2], "--weights", "w.pth")
    assert (code, err) == (0, "")
    rest = r"( +0\.0 %  .+\n){3}"
    each = rf"  73\.1 %  {names[0]}\n +26\.9 %  {names[1]}\n{rest}"
    assert re.fullmatch(rf"0.png\n +{each}1.png\n +{each}", out), out


def test_imagenet_22k(call, cats):
    save(21841, c359=20, c368=19)  # where map22kto1k of the original code has ImageNet-1k's classes 0 and 1
    out = call("classify", cats[0], "--weights", "w.pth", "--top", 2).out
    assert out == "0.png\n   73.1 %  tench\n   26.9 %  goldfish\n"
    names = classify.labels(None, 21841)
    assert len(set(names)) == 21841


def test_json_and_batches(call, cats):
    """Each picture's own answer, in its place, whatever the batch."""
    save_checkpoint(randomize(SwinTransformer(num_classes=6, **TINY)), "w.safetensors")
    answers = []
    for batch in (1, 2, 8):
        code, out, _ = call("classify", *cats, "--weights", "w.safetensors", "--json", "--batch", batch, "--top", 9)
        assert code == 0
        answers.append(json.loads(out))
    assert answers[0].keys() == {"weights", "format", "model", "size", "results"}
    assert (answers[0]["format"], answers[0]["size"]) == ("original", 32)
    from swin_fast.models import load_checkpoint

    model = load_checkpoint("w.safetensors")
    for answer in answers:
        assert [result["image"] for result in answer["results"]] == cats
        for result in answer["results"]:
            with torch.inference_mode():
                want = model(classify.to_input(picture.read(result["image"]), 32)[None])[0].softmax(-1)
            shares = [best["probability"] for best in result["top"]]
            assert shares == sorted(shares, reverse=True) and len(shares) == 6
            for best in result["top"]:
                assert best["probability"] == pytest.approx(want[best["class"]].item(), rel=1e-4)
                assert best["label"] == f"class {best['class']}"


@pytest.mark.parametrize("size", [(40, 40), (300, 451), (451, 300), (33, 97), (57, 20), (36, 39)])
@pytest.mark.parametrize("side", [32, 224])
def test_input_is_torchvisions(size, side):
    define_torchvision_operators()
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.effect_noise(size, 80).convert("RGB")
    pipeline = transforms.Compose(
        [
            transforms.Resize(int(side * 256 / 224), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(picture.MEAN, picture.STD),
        ]
    )
    torch.testing.assert_close(classify.to_input(image, side), pipeline(image))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 100)])
def test_thin_pictures_stay_small(size, monkeypatch):
    image = Image.new("RGB", size, (10, 20, 30))
    image.paste((200, 200, 200), (0, 0, min(size[0], 40), min(size[1], 40)))  # an end, which is cropped away
    assert classify.to_input(image, 32).shape == (3, 32, 32)
    middle = classify.to_input(Image.new("RGB", (40, 40), (10, 20, 30)), 32)
    torch.testing.assert_close(classify.to_input(image, 32), middle)


def test_other_sizes_and_labels(call, cats, tmp_path):
    save(3, c1=20)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    code, out, _ = call("classify", cats[0], "--weights", "w.pth", "--size", 45, "--labels", "names.txt", "--json")
    assert code == 0
    assert json.loads(out)["size"] == 45 and json.loads(out)["results"][0]["top"][0]["label"] == "bee"


def test_progress_only_on_a_terminal(call, cats, monkeypatch):
    save(3)
    seen = []
    monkeypatch.setattr(classify, "progress", lambda items, total, text: seen.append(total) or items)
    call("classify", *cats, "--weights", "w.pth", "--batch", 2)
    assert seen == [3]
    monkeypatch.setattr(classify, "progress", common.progress)
    assert call("classify", *cats, "--weights", "w.pth").err == ""


@pytest.mark.parametrize("content", [b"", b"no picture", "truncated"], ids=["empty", "text", "truncated"])
def test_a_picture_that_is_none_among_others(refused, cats, tmp_path, content):
    if content == "truncated":
        content = picture.DEFAULT.read_bytes()[:20_000]
    save(3)
    (tmp_path / "bad.jpg").write_bytes(content)
    assert refused("classify", *cats, "bad.jpg", "--weights", "w.pth", "--batch", 1).startswith(
        "cannot read bad.jpg as a "
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("0.png",), ("--weights", "required")),
        (("--weights", "w.pth"), ("IMAGE",)),
        (("0.png", "absent.png", "--weights", "w.pth"), ("no picture absent.png",)),
        ((".", "--weights", "w.pth"), (". is not a file",)),
        (("0.png", "--weights", "absent.pth"), ("no weights file absent.pth",)),
        (("0.png", "--weights", "0.png"), (".safetensors or .pth file, got 0.png",)),
        (("0.png", "--weights", "w.pth", "--top", "0"), ("--top", "at least 1")),
        (("0.png", "--weights", "w.pth", "--batch", "0"), ("--batch", "at least 1")),
        (("0.png", "--weights", "w.pth", "--size", "0"), ("--size", "at least 1")),
        (("0.png", "--weights", "w.pth", "--device", "tpu"), ("--device", "'tpu'")),
        (("0.png", "--weights", "w.pth", "--labels", "absent.txt"), ("cannot read the labels absent.txt",)),
        (("0.png", "--weights", "w.pth", "--labels", "two.txt"), ("the model's 3 classes, two.txt has 2 lines",)),
        (("0.png", "--weights", "w.pth", "--labels", "0.png"), ("cannot read the labels 0.png",)),
    ],
)
def test_impossible_wishes_are_one_line(refused, cats, tmp_path, argv, words):
    save(3)
    (tmp_path / "two.txt").write_text("a\nb\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    message = refused("classify", *argv)
    assert all(w in message for w in words), message
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: SwinTransformer(**TINY | {"num_classes": 0}), "has no classifier: there is no head.weight"),
        (lambda: SwinTransformer(**TINY, out_indices=(0, 1)), "has no classifier"),
        (lambda: SwinTransformer(**TINY, in_chans=1), "is of a model for pictures of 1 channels, not 3"),
        (
            lambda: from_config(Swin3DConfig(embed_dim=8, depths=(1,), num_heads=(2,), window_size=(2, 3, 3))),
            "is of a model for videos",
        ),
    ],
)
def test_models_that_cannot_classify(refused, cats, model, words):
    save_checkpoint(model(), "w.pth")
    assert refused("classify", cats[0], "--weights", "w.pth").startswith(f"w.pth {words}")


def test_labels_of_imagenet_22k():
    """The classes of ImageNet-1k are among them, by the same lemma."""
    assert swin_fast.__file__
    large, small = classify.labels(None, 21841), classify.labels(None, 1000)
    assert all(name == name.strip() and name for name in large)
    plain = {name.partition(" (n")[0].lower() for name in large}
    assert sum(name.lower() in plain for name in small) > 900
