"""The summary of benchmarks/gpu.sh: made-up rows against the targets, what is kept, what is copied."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from benchmarks import rows
from benchmarks.gpu import state as states
from benchmarks.gpu import summary, targets
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.profiler import STAGES, Line
from benchmarks.gpu.state import PARTS, State
from benchmarks.gpu.targets import BOTH, FORWARD

GPU = "NVIDIA H100 80GB HBM3"
COLUMNS = [field.name for field in fields(rows.Row)]
SHAPE = "64x56x56x96"


def row(op: str, shape: str, candidate: str, ms: float, floor: float = 0.1, **more: str) -> targets.Row:
    cells = {"suite": "core", "op": op, "shape": shape, "dtype": "bfloat16", "candidate": candidate}
    return dict.fromkeys(COLUMNS, "0") | cells | {"p50_ms": str(ms), "floor_ms": str(floor)} | more


def values(found: list[targets.Check]) -> dict[tuple[str, str], tuple[float, bool | None]]:
    return {(c.what, c.backend): (pytest.approx(c.value), c.ok) for c in found}


def test_the_targets_are_those_of_each_backend():
    """Just within and just beyond each of the eight."""
    for share, ok in ((0.999, True), (1.001, False)):
        given = []
        for backend, forward, backward in (("cuda", 1.15, 1.35), ("triton", 1.25, 1.5)):
            ms = 0.1 * forward * share
            given.append(row(FORWARD, SHAPE, f"swin_fast {backend}", ms))
            given.append(row(BOTH, SHAPE, f"swin_fast {backend}", ms + 0.2 * backward * share, 0.3))
        given.append(row(FORWARD, SHAPE, "sdpa compiled", 0.1 * 1.25 * share * 3 / share**2))
        given.append(row(BOTH, SHAPE, "flex compiled", (0.1 * 1.25 + 0.2 * 1.5) * share * 3 / share**2))
        given.append(row(FORWARD, "1x56x56x96", "swin_fast triton", 0.02))
        given.append(row(FORWARD, "1x56x56x96", "swin_fast cuda", 0.01 * share))
        found = targets.checks(given)
        held = {(c.what, c.backend): c for c in found if c.ok is not None}
        assert set(held) == {
            ("forward over floor", "cuda"), ("backward over floor", "cuda"),
            ("forward over floor", "triton"), ("backward over floor", "triton"),
            ("forward, times as fast as sdpa compiled", "triton"),
            ("forward+backward, times as fast as flex compiled", "triton"),
            ("batch 1, share of triton's time", "cuda"),
        }  # fmt: skip
        assert all(check.ok is ok for check in held.values()), held
        assert all((check.short_by > 1) is not ok for check in held.values())
        assert {c.stage for c in found} == {"Swin-T stage 1"}
        # against peers, cuda has a figure and no target
        assert ("forward, times as fast as sdpa compiled", "cuda") in {(c.what, c.backend) for c in found}


def test_a_backward_of_its_own_is_not_a_difference():
    given = [row(FORWARD, SHAPE, "swin_fast cuda", 0.1), row(BOTH, SHAPE, "swin_fast cuda", 0.4, 0.3)]
    assert values(targets.checks(given))["backward over floor", "cuda"] == (1.5, False)
    given.append(row("attention backward", SHAPE, "swin_fast cuda", 0.25, 0.2))
    assert values(targets.checks(given))["backward over floor", "cuda"] == (1.25, True)


def test_stage_4_and_other_rows_have_no_target():
    others = [
        row(FORWARD, "64x7x7x768", "swin_fast cuda", 0.5),
        row(FORWARD, SHAPE, "swin_fast cuda", 0.5, dtype="float32"),
        row(FORWARD, SHAPE, "swin_fast cuda", 0.5, suite="layer"),
        row(FORWARD, "8x56x56x96", "swin_fast cuda", 0.5),
        row(FORWARD, "64x64x64x180", "swin_fast cuda", 0.5),
        row("swin_t inference", "64x3x224x224", "swin_fast cuda", 0.5),
    ]
    (check,) = targets.checks(others)
    assert (check.stage, check.target, check.ok) == ("Swin-T stage 4", None, None)


def test_the_last_of_several_rows_counts_and_the_fastest_of_the_peers():
    given = [row(FORWARD, SHAPE, "swin_fast triton", ms) for ms in (0.5, 0.1)]
    given += [
        row(FORWARD, SHAPE, name, ms) for name, ms in (("eager", 0.9), ("swin_fast reference", 0.4), ("sdpa", 0.6))
    ]
    found = values(targets.checks(given))
    assert found["forward over floor", "triton"] == (1.0, True)
    assert found["forward, times as fast as swin_fast reference", "triton"] == (4.0, True)


@pytest.mark.parametrize(
    ("shape", "stage"),
    [
        ("64x56x56x96", ("Swin-T", 1)), ("64x28x28x192", ("Swin-T", 2)), ("1x14x14x384", ("Swin-T", 3)),
        ("64x7x7x1024", ("Swin-B", 4)), ("64x56x56x128", ("Swin-B", 1)), ("64x56x56x192", None),
        ("64x64x64x96", None), ("1x16x56x56x96", None), ("8x3x224x224", None),
    ],
)  # fmt: skip
def test_stages_by_shape(shape, stage):
    assert targets.stage_of(shape) == stage
    if stage and shape.startswith("64"):
        name, number = stage
        assert f"64x{STAGES[f'{name} stage {number}'].name}" == shape


def line(kernel: str = "", **more) -> dict:
    given = {
        "stage": "Swin-T stage 1", "backend": "cuda", "direction": "forward", "shape": SHAPE, "dtype": "bfloat16",
        "kernel": kernel, "microseconds": 200.0, "gbytes": 1500.0, "share": 0.5, **more,
    }  # fmt: skip
    return vars(Line(**given))


@pytest.mark.parametrize(
    ("lines", "said", "not_said"),
    [
        ([], "", "copy"),
        ([line(backend="triton")], "", "copy"),
        ([line()], "its kernels alone take 0.200 ms, 50% of a copy's rate", "the rest is the call"),
        ([line(share=0.9)], "90% of a copy's rate, so the rest is the call", ";"),
        (
            [line(), line("window_attention_forward", occupancy_percent=20.0, possible_percent=25.0, registers=168)],
            "window_attention_forward has 20 % of the warps, 25 % possible, 168 registers", "the rest",
        ),
    ],
)  # fmt: skip
def test_the_reason_is_what_was_profiled(lines, said, not_said):
    check = targets.Check("forward over floor", "Swin-T stage 1", "cuda", 0.4, 2.0, 1.15)
    found = targets.reason(check, lines)
    assert said in found and not_said not in found


@pytest.fixture
def state(tmp_path, monkeypatch) -> State:
    """A run on a GPU in which one part failed, and one was not run."""
    monkeypatch.setattr(states, "gpu", lambda: GPU)
    monkeypatch.setattr(summary, "RESULTS", tmp_path / "results")
    states.key.cache_clear()
    state = State(tmp_path / "state")
    for part in PARTS:
        if part != "models":
            state.record(part, part == "tests", 12, 600)
            (state.folder / f"{part}.log").write_text("note: no ncu\nthe last word\n")
    state.keep("info", {"gpu": GPU, "torch": "2.11.0"})
    state.keep("tests", {"tests/ops/test_gpu.py": {"passed": 9, "failed": ["test_autocast"], "skipped": {"why": 2}}})
    state.keep("sanitizer", {"racecheck, cuda": {"verdict": "1 errors, 0 warnings", "passed": False, "said": ["Race"]}})
    state.keep("tuner", {"forward, 7x7, head_dim 32, bf16": 1.07})
    state.keep("profile", {"copy_gbytes": 3000.0, "lines": [line()]})
    (state.folder / "profile.csv").write_text("stage\n")
    state.tuned.write_text("{}")
    cells = [row(FORWARD, SHAPE, "swin_fast cuda", 0.2), row(FORWARD, SHAPE, "eager", 0.9)]
    lines = [",".join(COLUMNS), *(",".join(cell.values()) for cell in cells)]
    state.rows.write_text("\n".join(lines) + "\n")
    yield state
    states.key.cache_clear()


def test_the_summary_says_everything(state, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--state", str(state.folder), "summary", "--out", str(out)]) == 1
    text = capsys.readouterr().out
    for said in (
        f"# {GPU}", "| tests | failed | 12 | the last word; no ncu |", "| models | not run |  |  |", "torch 2.11.0",
        "tests/ops/test_gpu.py: 9 passed, 1 failed, 2 skipped", "- failed: test_autocast",
        "racecheck, cuda: 1 errors, 0 warnings", "- Race", "a copy moves 3000 GB/s",
        "| forward, 7x7, head_dim 32, bf16 | 1.07 |",
        "/tuned-nvidia-h100-80gb-hbm3.json swin_fast/triton_kernels/configs/nvidia-h100-80gb-hbm3.json",
        "| forward over floor | Swin-T stage 1 | cuda | 0.2 | 2.00 | at most 1.15 | **no** |",
        "- cuda, Swin-T stage 1, forward over floor: 2.00, the target is 1.15; it would have to be 1.74 times as fast; "
        "its kernels alone take 0.200 ms, 50% of a copy's rate",
        "| forward, times as fast as eager | Swin-T stage 1 | cuda | 0.2 | 4.50 |  |  |",
    ):  # fmt: skip
        assert said in text, said
    found = json.loads((out / "summary.json").read_text())
    assert found["rows"] == 2 and found["parts"]["tests"]["status"] == "failed"
    assert (out / "summary.md").read_text() == text.removesuffix("\n")
    names = sorted(file.name for file in out.iterdir())
    assert names == [
        "logs.txt", "profile.csv", "rows-nvidia-h100-80gb-hbm3.csv", "summary.json", "summary.md",
        "tuned-nvidia-h100-80gb-hbm3.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "status"), [(["info"], 0), (["info", "tests"], 1), (["models"], 1), (["summary"], 1)]
)
def test_the_exit_status_is_about_what_was_asked_for(state, asked, status):
    assert main(["--state", str(state.folder), "summary", *asked]) == status


def test_figures_are_kept_once(state, tmp_path):
    results = tmp_path / "results"
    for _ in range(2):
        summary.write(state, None)
    kept = results / "nvidia-h100-80gb-hbm3.csv"
    assert kept.read_text() == state.rows.read_text()
    with state.rows.open("a") as handle:
        handle.write(",".join(row(FORWARD, SHAPE, "sdpa", 0.7).values()) + "\n")
    summary.write(state, None)
    assert kept.read_text() == state.rows.read_text()
    folder = results / "nvidia-h100-80gb-hbm3"
    assert sorted(file.name for file in folder.iterdir()) == [
        "profile.csv",
        "summary.json",
        "summary.md",
        f"tuned-{folder.name}.json",
    ]
    kept.write_text("suite,op\n")
    assert "not among the kept results" in summary.write(state, None)
    assert kept.read_text() == "suite,op\n"


def test_nothing_is_kept_where_no_gpu_was_seen(state, tmp_path):
    state.forget("info")
    summary.write(state, None)
    assert not (tmp_path / "results").exists()


def test_rows_that_the_runner_wrote_can_be_read(state):
    """The columns that the targets need are those of the kept rows."""
    assert {"suite", "op", "shape", "dtype", "candidate", "p50_ms", "floor_ms"} <= set(COLUMNS)
    assert [r["candidate"] for r in summary.read_rows(state.rows)] == ["swin_fast cuda", "eager"]
