"""Ours against another commit: pairs of blocks, and processes that take turns."""

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import swin_fast
from benchmarks import base, base_road, measure, registry
from benchmarks.measure import LEAST

TINY = registry.GROUPS["core/swin_t-stage4/b1/float32/forward"]


def pairs(*ratios, here=2.0, waited=0.0):
    return [((here, 0.0), (here * ratio, waited)) for ratio in ratios]


def test_ratios_are_of_pairs():
    """A machine that slows down for a while does so for both."""
    slowing = [((1.0 * k, 0.0), (1.5 * k, 0.0)) for k in range(1, 11)]
    found = base.compared("swin_fast", slowing)
    assert found.ratios.seconds == pytest.approx([1.5] * 10)
    assert found.here.quantile(0.5) == 5.5 and found.there.quantile(0.5) == 8.25
    assert str(found).split("there/here ")[1] == "1.500 (1.500 to 1.500), faster"


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.01, 1.02, 1.3, 1.4, 1.5), "faster"),
        ((0.5, 0.6, 0.7, 0.8, 0.9), "slower"),
        ((0.9, 0.95, 1.1, 1.2, 1.3), "no difference seen"),
    ],
)
def test_a_difference_is_what_most_pairs_agree_on(ratios, said):
    assert base.verdict(base.compared("x", pairs(*ratios)).ratios) == said


def test_disturbed_pairs_are_dropped_where_enough_are_left():
    found = base.compared("x", pairs(*[1.0] * LEAST) + pairs(9.0, 9.0, waited=0.3))
    assert (found.ratios.seconds, found.ratios.dropped) == ((1.0,) * LEAST, 2)
    found = base.compared("x", pairs(*[1.0] * (LEAST - 2)) + pairs(5.0, waited=0.1) + pairs(9.0, 9.0, waited=0.3))
    assert (found.ratios.quantile(1), len(found.ratios.seconds), found.ratios.dropped) == (9.0, LEAST, 1)


def test_a_process_times_what_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(measure, "repetitions", lambda call, device: call())
    monkeypatch.setattr(measure, "block", lambda call, repeat, device: (repeat * call() * 1.0, 2.0))
    answers = io.StringIO()
    base_road.serve({"a": lambda: 2, "b": lambda: 4}, ["b\n", "a\n"], answers)
    assert [json.loads(text) for text in answers.getvalue().splitlines()] == [
        {"ready": ["a", "b"]}, {"block": [4.0, 2 / 16]}, {"block": [2.0, 2 / 4]},
    ]  # fmt: skip


def test_the_roads_take_turns(monkeypatch, tmp_path):
    asked = []

    class Road:
        def __init__(self, group, threads, device, base):
            self.there = base is not None

        def ask(self, name=None):
            if name is None:
                return {"ready": ["a", "b"] if self.there else ["b", "a", "c"]}
            asked.append((name, self.there))
            return {"block": [3.0 if self.there else 2.0, 0.0]}

        def close(self):
            asked.append("closed")

    monkeypatch.setattr(base, "Road", Road)
    args = SimpleNamespace(device="cpu", rounds=3)
    found = base.one(TINY, 1, args, tmp_path)
    two_rounds = [(name, there) for pair in ((False, True), (True, False)) for name in "ba" for there in pair]
    assert asked == two_rounds * (LEAST // 2) + ["closed"] * 2
    assert [(c.candidate, set(c.ratios.seconds)) for c in found] == [("b", {1.5}), ("a", {1.5})]


def test_two_processes_with_this_package_on_both_sides():
    """The real processes; the other package is this one again."""
    args = SimpleNamespace(device="cpu", rounds=8)
    (found,) = base.one(TINY, 1, args, Path(swin_fast.__file__).parents[1])
    assert found.candidate == "swin_fast" and len(found.ratios.seconds) >= LEAST
    assert min(found.here.seconds) > 0 and min(found.there.seconds) > 0


def test_the_other_package_is_the_one_that_is_timed(tmp_path):
    package = tmp_path / "swin_fast"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the other one')")
    road = base.Road(TINY, 1, "cpu", tmp_path)
    with pytest.raises(RuntimeError, match="forward there: the process ended with status 1"):
        road.ask()
    road.close()


def test_a_commit_that_is_not_there_is_said(capsys):
    args = SimpleNamespace(device="cpu", threads=[1], rounds=8)
    assert base.compare("no-such-commit", [TINY], args) == 1
    assert "error: no-such-commit could not be built" in capsys.readouterr().err


def test_a_build_is_of_that_commit_and_in_place(monkeypatch, tmp_path):
    ran = []

    def start(command, **options):
        ran.append((command, options))
        return SimpleNamespace(stdout=b"tar")

    monkeypatch.setattr(subprocess, "run", start)
    base.build("v1", tmp_path, "cpu")
    archive, unpack, build = ran
    assert archive[0] == ["git", "archive", "v1"] and unpack[1]["input"] == b"tar" and unpack[0][-1] == tmp_path
    assert build[0][1:] == ["setup.py", "build_ext", "--inplace"] and build[1]["cwd"] == tmp_path
    assert build[1]["env"]["SWIN_FAST_CUDA"] == "0"
