"""The training benchmark: both roads agree step by step, runs repeat to the bit, faults are named, curves are drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import training
from benchmarks.training import ROADS, TASKS, Curve, train
from swin_fast import native

from ..fixtures import one_thread  # noqa: F401


@pytest.fixture(autouse=True)
def digits_are_there():
    pytest.importorskip("sklearn")


@pytest.mark.skipif(not native.loaded, reason=f"needs the compiled library: {native.reason}")
@pytest.mark.parametrize("name", TASKS)
def test_the_first_steps(name):
    task = TASKS[name]
    fused, plain = (train(task, road, steps=training.FIRST_STEPS) for road in ROADS)
    assert len(fused.losses) == training.FIRST_STEPS
    assert max(training.apart(fused, plain)) <= training.FEW * training.ROUNDING
    assert fused.losses == train(task, "fused", steps=training.FIRST_STEPS).losses
    other = train(task, "fused", seed=1, steps=2).losses
    assert other[0] != fused.losses[0] and fused.losses[0] != fused.losses[1]


def test_both_roads_are_taken(monkeypatch):
    taken = []
    right = training.swin_fast.use_backend
    monkeypatch.setattr(training.swin_fast, "use_backend", lambda name: taken.append(name) or right(name))
    for road in ROADS:
        train(TASKS["digits"], road, steps=1)
    assert taken == ["auto", "reference"]


@pytest.mark.parametrize("name", ["digits", "video"])
def test_data(name):
    data = TASKS[name].data()
    shape = {"digits": (1, 8, 8), "video": (1, 8, 12, 12)}[name]
    for inputs, classes in (data.train, data.test):
        assert inputs.shape[1:] == shape and len(inputs) == len(classes) and inputs.dtype == torch.float32
        assert len(classes.unique()) == {"digits": 10, "video": 8}[name]
    train_set, test_set = ({x.numpy().tobytes() for x in part[0]} for part in (data.train, data.test))
    assert not train_set & test_set


def test_the_direction_is_in_no_single_frame():
    """The square is somewhere: its mean place in each frame is the same for every class, its step is the class."""
    inputs, classes = TASKS["video"].data().train
    brightest = inputs[:, 0].unfold(2, 2, 1).unfold(3, 2, 1).sum((-1, -2)).flatten(2).argmax(2)
    rows, columns = brightest // 11, brightest % 11
    inside = ((rows.diff().abs() <= 1) & (columns.diff().abs() <= 1)).all(1)
    steps = torch.stack([rows.diff().float().mean(1), columns.diff().float().mean(1)], 1)[inside]
    means = torch.stack([steps[classes[inside] == c].mean(0) for c in range(8)])
    want = torch.tensor([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)])
    assert (means - want).abs().max() < 0.3


def curve(losses=(2.0,) * 20, accuracies=(0.5, 0.98)) -> Curve:
    return Curve(list(losses), list(accuracies), 1.0)


def test_what_is_wrong_is_said():
    task = replace(TASKS["digits"], least=0.97)
    both = {"fused": curve(), "reference": curve()}
    assert training.judge(task, both, curve()) == []
    far = both | {"fused": curve(losses=[2.00001] + [2.0] * 19)}
    assert training.judge(task, far, far["fused"]) == ["the first 20 losses are up to 5.0e-06 apart"]
    assert training.judge(task, both, curve(losses=[2.0] * 19 + [2.1])) == ["a second run has other losses"]
    unlike = both | {"fused": curve(accuracies=(0.9, 0.99))}
    assert training.judge(task, unlike, curve()) == []
    unlike = {"fused": curve(accuracies=(0.9, 1.0)), "reference": curve(accuracies=(0.5, 0.975))}
    assert training.judge(task, unlike, curve()) == ["the roads end 2.5% of the test set apart"]
    poor = both | {"reference": curve(accuracies=(0.99, 0.965))}
    assert training.judge(task, poor, curve()) == ["reference gets 96.5% right, which must be 97%"]


def test_report_and_picture(monkeypatch, tmp_path, capsys, one_thread):  # noqa: F811
    """The whole command, with trainings that take no time."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(training.native, "loaded", True)
    monkeypatch.setattr(training, "train", lambda task, road, seed, steps=None: curve())
    file = tmp_path / "curves.svg"
    assert training.main(["--task", "digits", "video", "--figure", str(file)]) == 0
    out, err = capsys.readouterr()
    assert file.read_text().startswith("<?xml") and err == ""
    assert "digits: loss of the first 20 steps" in out and " 98.00%" in out
    monkeypatch.setattr(training, "train", lambda task, road, seed, steps=None: curve(accuracies=(0.5,)))
    assert training.main(["--task", "digits", "--figure", str(file)]) == 1
    assert "wrong: digits: fused gets 50.0% right" in capsys.readouterr().err
