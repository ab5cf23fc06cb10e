"""The scaling benchmark: points in order, equality, the end of memory, rows and the line on linearity."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import roads, rows, scaling
from benchmarks.peers import OURS
from benchmarks.roads import CANDIDATES, Point
from swin_fast import native

from ..peers import define_torchvision_operators
from .made_up import row

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not native.loaded, reason=f"needs the compiled library: {native.reason}")


def test_small_points_come_first_and_once():
    points = scaling.plan(("core", "model"), (224, 448), {"core": 4, "model": 2}, "float32", False)
    assert len(points) == len(set(points)) == 3 * (1 + 1 + 2) + 3 * (1 + 1 + 1)
    assert [p.tokens for p in points] == sorted(p.tokens for p in points)
    assert {p.candidate for p in points[:6]} == {*CANDIDATES["core"], *CANDIDATES["model"]}


def test_shapes_and_tokens():
    core, model = Point("core", OURS, 2, 448), Point("model", OURS, 2, 448, train=True)
    assert (core.op, core.shape) == ("attention forward", "2x112x112x96")
    assert (model.op, model.shape) == ("swin_t training", "2x3x448x448")
    assert core.tokens == model.tokens == scaling.tokens(core.shape) == scaling.tokens(model.shape) == 2 * 112 * 112


@needs_kernels
@pytest.mark.parametrize("train", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_core_candidates_agree(dtype, train):
    """At a map that the window divides and at one that it does not; a fault of a peer is refused."""
    for name in CANDIDATES["core"]:
        roads.check(Point("core", name, 2, 56, dtype, train), CPU)
        padded = Point("core", name, 1, 64, dtype, train)
        roads.check(padded, CPU)
        assert roads.apart(padded, roads.road(padded, CPU), CPU) < 0.05


@needs_kernels
def test_a_wrong_candidate_is_refused(monkeypatch):
    right = roads.peers.eager
    monkeypatch.setattr(roads.peers, "eager", lambda qkv, table, index, mask, *rest: right(qkv, table, index, None))
    point = Point("core", "eager", 1, 56)
    with pytest.raises(RuntimeError, match="eager is not timed, because it is wrong at 1x14x14x96"):
        roads.check(point, CPU)
    with pytest.raises(RuntimeError, match="eager and ours are .* apart at 1x14x14x96"):
        roads.apart(point, roads.road(point, CPU), CPU)


@needs_kernels
@pytest.mark.parametrize("name", CANDIDATES["model"][1:])
def test_models_agree_where_they_pad(name):
    """228 pixels are 57 tokens a side, which no stage's window divides; libraries pad each in their own order."""
    define_torchvision_operators()
    pytest.importorskip(name)
    point = Point("model", name, 1, 228)
    assert roads.apart(point, roads.road(point, CPU), CPU) < 1e-4


def test_floor_grows_with_the_tokens():
    best = roads.ceilings.Ceilings(1e9, 1e12)
    small, large = (Point("model", OURS, 1, side).floor(best) for side in (224, 448))
    assert 3.9 < large / small < 4.1 and 8 < small < 10  # 4.5 G multiplications and additions, by the paper
    assert Point("core", OURS, 1, 224).floor(best) == pytest.approx(4 * 56 * 56 * 96 * 49 / 1e9)


@needs_kernels
def test_a_point_in_a_child():
    point = Point("core", OURS, 1, 56)
    found = scaling.ask(point, args(), checked=True)
    assert len(found["samples"]["seconds"]) >= scaling.LEAST and found["apart"] is None
    assert 14 * 14 * 96 * 4 <= found["peak"] < 2 * 14 * 14 * 96 * 4  # the output, and little beyond


@needs_kernels
def test_a_child_runs_out_of_memory():
    """The qkv map of 448 x 448 pixels alone has 14 MiB."""
    found = scaling.ask(Point("core", OURS, 1, 448), args(memory_gib=0.01), checked=False)
    assert found.keys() == {"memory"} and "memory" in found["memory"]


@needs_kernels
def test_the_command(tmp_path, capsys, monkeypatch):
    """Rows are written as they come, and a curve ends where memory does: a row without a time."""
    best = roads.ceilings.Ceilings(1e9, 1e9)
    monkeypatch.setattr(scaling.ceilings, "meter", lambda dtype, device: SimpleNamespace(read=lambda: best))

    def answer(point, given, checked, allocator):
        if (point.candidate, allocator) == ("eager", "retain") and point.batch > 1:
            return {"memory": "cannot allocate"}
        return {"samples": {"seconds": [1e-3 * point.tokens] * 3}, "peak": 2**20}

    monkeypatch.setattr(scaling, "ask", answer)
    file = tmp_path / "rows.csv"
    command = ["--part", "core", "--side", "56", "--most-core", "4", "--threads", "1", "--csv", str(file)]
    assert scaling.main([*command, "--memory-gib", "3"]) == 0
    written = rows.read(file)
    usual = [r for r in written if r.allocator == "default"]
    assert len(usual) == 9 and all(r.samples for r in usual)
    found = {(r.candidate, r.shape): r for r in written if r.allocator == "retain"}
    one, ended = found[OURS, "1x14x14x96"], found.pop(("eager", "2x14x14x96"))
    assert (one.suite, one.op, one.p50_ms, one.samples, one.peak_extra_mib) == (
        "scaling", "attention forward", 196.0, 3, 1.0,
    )  # fmt: skip
    assert ended.p50_ms == math.inf and ended.samples == 0 and math.isnan(ended.peak_extra_mib)
    assert "out of 3 GiB" in ended.versions and ("eager", "4x14x14x96") not in found
    assert [name for name, shape in found if shape.startswith("4x")] == [OURS, "sdpa"]
    printed = capsys.readouterr().out
    assert "attention forward, eager, retain: 3 GiB end at 2x14x14x96: cannot allocate" in printed
    for allocator in ("default", "retain"):
        assert f"attention forward, swin_fast, {allocator}: largest deviation from the median 0%, at " in printed


def args(**given):
    known = ["--part", "core", "--side", "56", "112", "--most-core", "4", "--most-model", "1", "--threads", "1"]
    parsed = scaling.arguments().parse_args(known)
    vars(parsed).update({"allocator": ["default"]} | given)
    return parsed


def test_errors_and_time_end_curves_not_the_run(monkeypatch):
    best = roads.ceilings.Ceilings(1e9, 1e9)
    monkeypatch.setattr(scaling.ceilings, "meter", lambda dtype, device: SimpleNamespace(read=lambda: best))
    asked = []

    def answer(point, given, checked, allocator):
        asked.append((point.candidate, point.batch, point.side))
        assert checked == (point.batch == 1 and point.side == 56)
        return {"error": "it is wrong"} if point.candidate == "sdpa" else {"samples": {"seconds": [1e-3]}, "peak": 1}

    monkeypatch.setattr(scaling, "ask", answer)
    found = list(scaling.run(args()))
    assert "wrong: attention forward, sdpa, default, 1x14x14x96: it is wrong" in found
    assert [c for c in asked if c[0] == "sdpa"] == [("sdpa", 1, 56), ("sdpa", 2, 56)]  # one try for each curve
    assert [c[1:] for c in asked if c[0] == OURS] == [(1, 56), (2, 56), (1, 112), (4, 56)]
    asked.clear()
    remarks = list(scaling.run(args(max_seconds=0.0)))
    assert not asked and "attention forward, swin_fast, default: no time for 1x14x14x96 and larger" in remarks


def test_the_line_on_linearity():
    times = {"1x14x14x96": 0.196, "2x14x14x96": 0.392, "1x28x28x96": 0.784 * 1.5}
    measured = [row("scaling", shape=shape, ms=ms) for shape, ms in times.items()]
    lines = scaling.linear([*measured, replace(measured[0], shape="4x14x14x96", p50_ms=math.inf)])
    assert lines == [
        "attention forward, swin_fast, default: 1x14x14x96 1.000, 2x14x14x96 1.000, 1x28x28x96 1.500 us a token",
        "attention forward, swin_fast, default: largest deviation from the median 50%, at 1x28x28x96",
    ]


def test_an_allocator_is_a_curve_of_its_own():
    measured = [row("scaling", shape="1x14x14x96", ms=0.196, allocator=name) for name in ("default", "retain")]
    assert [line.partition(":")[0] for line in scaling.linear(measured)[::2]] == [
        "attention forward, swin_fast, default", "attention forward, swin_fast, retain",
    ]  # fmt: skip


@needs_kernels
def test_a_child_has_the_setting_of_its_allocator(monkeypatch):
    seen = []

    def started(command, env, **_):
        seen.append({name: env.get(name) for name in ("MALLOC_MMAP_MAX_", "OMP_NUM_THREADS")})
        return SimpleNamespace(returncode=0, stdout="{}")

    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.setattr(scaling.subprocess, "run", started)
    for allocator in ("default", "retain"):
        scaling.ask(Point("core", OURS, 1, 56), args(), False, allocator)
    assert seen == [
        {"MALLOC_MMAP_MAX_": None, "OMP_NUM_THREADS": "1"},
        {"MALLOC_MMAP_MAX_": "0", "OMP_NUM_THREADS": "1"},
    ]


def test_bad_arguments(capsys):
    for wrong, text in ((["--side", "112"], "--side must be at least 224, got 112"), (["--dtype", "int8"], "int8")):
        with pytest.raises(SystemExit):
            scaling.main(wrong)
        assert text in capsys.readouterr().err
