"""The processes that a run is spread over, what they leave behind, and what is read from their rows."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import child, gate, registry, rows, run
from benchmarks.ceilings import Ceilings
from benchmarks.group import Candidate, Group, Made
from benchmarks.summary import summary

from . import made_up
from .test_rows import make

TINY = "core/swin_t-stage4/b1/float32/forward"


@pytest.fixture(autouse=True)
def no_gate(monkeypatch):
    monkeypatch.setattr(gate, "red", lambda: [])


@pytest.fixture
def started(monkeypatch):
    """Processes that do not run, but leave a row and the notes of their groups; `ends` says how a group ends one."""
    calls = []
    make()  # asks for processor and commit once, which starts processes, too

    def start(command, env, cwd):
        args = run.parser().parse_args(command[3:])
        calls.append((args, env))
        for name in args.patterns:
            child._note(args.child, begin=name)
            if name in start.ends:
                return subprocess.CompletedProcess(command, start.ends[name])
            if name in start.fails:
                child._note(args.child, failed=name, why="no reason")
                continue
            for file in [args.child] + [args.csv] * bool(args.csv):
                rows.append(file, [make(allocator=env.get("MALLOC_MMAP_MAX_", "unset"))])
            child._note(args.child, done=name)
        return subprocess.CompletedProcess(command, start.status)

    start.ends, start.fails, start.status, start.calls = {}, (), 0, calls
    monkeypatch.setattr(run.subprocess, "run", start)
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    return start


def test_one_process_per_thread_count_and_allocator(started, tmp_path):
    file = tmp_path / "all.csv"
    assert run.main(["core/swin_t-*/b1/float32/forward", "--threads", "1", "3", "--csv", str(file), "--compiled"]) == 0
    seen = [(a.threads, a.allocator, e["OMP_NUM_THREADS"], e.get("MALLOC_TRIM_THRESHOLD_")) for a, e in started.calls]
    assert seen == [
        ([1], "default", "1", None), ([1], "retain", "1", "4000000000"), ([3], "default", "3", None),
        ([3], "retain", "3", "4000000000"),
    ]  # fmt: skip
    names = [f"core/swin_t-stage{n}/b1/float32/forward" for n in (1, 2, 3, 4)]
    assert all((a.patterns, a.compiled, a.device) == (names, True, "cpu") for a, _ in started.calls)
    assert [row.allocator for row in rows.read(file)] == ["unset"] * 4 + ["0"] * 4 + ["unset"] * 4 + ["0"] * 4


def test_a_crash_names_its_group_and_the_others_go_on(started, tmp_path, capsys):
    names = [f"core/swin_t-stage{n}/b1/float32/forward" for n in (1, 2, 3, 4)]
    started.ends, started.fails = {names[1]: -signal.SIGSEGV}, names[2:3]
    file = tmp_path / "all.csv"
    arguments = [*names, "--threads", "1", "--allocator", "default", "--csv", str(file)]
    assert run.main(arguments) == 1
    assert [args.patterns for args, _ in started.calls] == [names, names[2:]]
    assert len(rows.read(file)) == 2
    err = capsys.readouterr().err
    assert f"{names[1]}: the process ended with SIGSEGV; the others go on" in err
    assert f"{names[1]} (T1, default): the process ended with SIGSEGV" in err
    assert f"{names[2]} (T1, default): no reason" in err


def test_missing_leaves_out_what_the_file_has(started, tmp_path):
    """Of another thread count, allocator, device or not compiled, rows are missing."""
    names = [f"core/swin_t-stage{n}/b8/float32/forward" for n in (1, 2)]
    file = tmp_path / "all.csv"
    given = {"threads": 2, "allocator": "default", "device": rows.device_name(), "candidate": "swin_fast"}
    other = [{"threads": 1}, {"allocator": "retain"}, {"device": "another"}, {"dtype": "bfloat16"}]
    rows.append(
        file, [made_up.row(**given | {"shape": "8x28x28x192"} | change) for change in [{"shape": "8x56x56x96"}, *other]]
    )
    command = [*names, "--threads", "2", "--allocator", "default", "--csv", str(file), "--missing"]
    assert run.main(command) == 0 and run.main([*command, "--compiled"]) == 0
    assert [args.patterns for args, _ in started.calls] == [names[1:], names]
    rows.append(file, [made_up.row(**given | {"shape": "8x56x56x96", "candidate": "eager compiled"})])
    assert run.main([*command, "--compiled"]) == 0
    assert started.calls[-1][0].patterns == names[1:]


def test_a_process_that_never_starts_ends_the_run(started, capsys):
    started.ends = {}
    started.status = 7
    run.subprocess.run = lambda command, env, cwd: subprocess.CompletedProcess(command, 7)
    assert run.main([TINY, "--threads", "1"]) == 1
    assert "the process ended with status 7 before a group" in capsys.readouterr().err


def test_a_gpu_has_one_allocator(started, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run.main([TINY, "--device", "cuda", "--threads", "1"]) == 0
    ((args, _),) = started.calls
    assert (args.device, args.allocator) == ("cuda", "default")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["corr/*"], "no group matches 'corr/*'"),
        ([TINY, "--csv", "x.csv", "--base", "HEAD"], "--base writes no rows"),
        ([TINY, "--device", "cuda"], "PyTorch sees no GPU here"),
        ([TINY, "--missing"], "--missing needs --csv"),
        ([TINY, "--rounds", "7"], "--rounds must be at least 8, got 7"),
    ],
)
def test_what_cannot_be_run_is_said(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_no_row_while_tests_fail(started, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gate, "red", lambda: ["tests/a.py::test_b", "tests/a.py::test_c"])
    file = tmp_path / "all.csv"
    assert run.main([TINY, "--csv", str(file)]) == 1
    assert "no rows are written while tests fail: tests/a.py::test_b, tests/a.py::test_c" in capsys.readouterr().err
    assert not file.exists() and not started.calls
    assert run.main([TINY]) == 0  # without rows nothing is asked


def test_a_tiny_group_from_end_to_end(tmp_path):
    """The real command, in a process; its children time and check one of the smallest cores."""
    file = tmp_path / "rows.csv"
    file.touch()
    command = [sys.executable, "-m", "benchmarks.run", TINY, "--threads", "1", "--allocator", "default", "--rounds"]
    code = f"import sys; from benchmarks import gate, run; gate.red = list; sys.exit(run.main({[*command[3:], '8']!r}"
    result = subprocess.run(
        [sys.executable, "-c", f"{code} + ['--csv', {str(file)!r}]))"], cwd=rows.ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = rows.read(file)
    assert [row.candidate for row in found] == registry.GROUPS[TINY].names("cpu", False)
    for row in found:
        assert (row.suite, row.op, row.shape, row.dtype) == ("core", "attention forward", "1x7x7x768", "float32")
        assert 0 < row.best_ms <= row.p20_ms <= row.p50_ms <= row.p80_ms and row.samples >= 8
        assert row.peak_extra_mib >= 49 * 768 * 4 / 2**20 - 0.01  # the result
        operations, moved = 4 * 49 * 49 * 768, 4 * 49 * 768 * 4
        floor = max(operations / row.gflops_ceiling, moved / row.gbytes_ceiling) / 1e6
        assert row.floor_ms == pytest.approx(floor, rel=0.01, abs=1e-4)
    assert TINY in result.stdout and "closest peer" in result.stdout


def test_rows_of_a_group(monkeypatch, tmp_path, capsys):
    """Memory in PyTorch is counted, another's is unknown; one group's failure is noted, and the next is measured."""
    out = {"out": torch.ones(2)}
    calls = {
        "swin_fast": Candidate(lambda: torch.empty(2**18), lambda: out),
        "openvino": Candidate(lambda: torch.empty(2**18), lambda: out, ("torch",), in_torch=False),
    }
    made = Made(torch.float32, calls, ((2e6, 0), (0, 1e6)), lambda: out, lambda: {"out": torch.ones(2).double()})
    fine = Group("model/x/b1", "model", "x", "1x2", torch.float32, None, lambda device, compiled: made)
    broken = replace(fine, name="model/y", make=lambda device, compiled: 1 / 0)
    read = iter([Ceilings(5e8, 1e9, waited=0.5), Ceilings(1e9, 5e8)])  # of each the best, before and after
    monkeypatch.setattr(child, "meter", lambda dtype, device: SimpleNamespace(read=lambda: next(read)))
    file, csv, threads = tmp_path / "rows.csv", tmp_path / "all.csv", torch.get_num_threads()
    try:
        child.run([broken, fine], child.Settings(rounds=8), file, csv)
    finally:
        torch.set_num_threads(threads)
    assert child.progress(file) == (
        {fine.name},
        {"model/y": "ZeroDivisionError: division by zero"},
        ["model/y", fine.name],
    )
    ours, theirs = rows.read(file)
    assert len(rows.read(csv)) == 2
    assert (ours.peak_extra_mib, ours.floor_ms) == (1.0, 3.0) and ours.waited >= 0.5
    assert math.isnan(theirs.peak_extra_mib) and theirs.versions.startswith(f"torch {version('torch')}; python 3.")
    captured = capsys.readouterr()
    assert f"busy: {ours.waited:.0%} lost" in captured.out and "ZeroDivisionError" in captured.err


def test_half_written_progress_is_of_use(tmp_path):
    out = Path(tmp_path / "rows.csv")
    assert child.progress(out) == (set(), {}, [])
    child._note(out, begin="a")
    assert json.loads(child.progress_file(out).read_text()) == {"begin": "a"}
    assert child.progress(out) == (set(), {}, ["a"])


def test_a_peer_is_shown_beside_ours_of_its_process():
    measured = [
        make("swin_fast", (2e-3,)), make("eager", (9e-3,)), make("sdpa", (8e-3,)), make("sdpa compiled", (6e-3,)),
        make("swin_fast compiled", (1e-3,)), make("swin_fast", (1e-3,), "retain"), make("eager", (7e-3,), "retain"),
        make("sdpa", (3e-3,), "retain"), make("sdpa compiled", (5e-3,), "retain"),
    ]  # fmt: skip
    head, line = (text.split("  ") for text in summary(measured).strip().split("\n"))
    cells = [cell.strip() for cell in line if cell.strip()]
    assert [name.strip() for name in head if name.strip()][4:9] == ["closest peer", "ms", "ours", "ratio", "by min"]
    assert cells[4:] == [
        "sdpa (retain)", "3.000", "1.000", "3.00", "3.00", "sdpa compiled (retain)", "5.000", "1.000", "5.00", "5.00",
        "0.500", "2.00",
    ]  # fmt: skip


def test_the_better_backend_is_ours():
    measured = [make("swin_fast triton", (2e-3,)), make("swin_fast cuda", (1e-3,)), make("timm", (3e-3,))]
    assert "  timm (default)  3.000  1.000  3.00 " in summary(measured)


def test_a_busy_machine_is_named_where_its_rows_are_shown():
    measured = [make(), make("eager"), replace(make("eager", (9e-3,), "retain"), waited=0.4)]
    assert "busy" not in summary(measured)
    measured[1] = replace(measured[1], waited=0.02)
    assert summary(measured).endswith("4.00 (busy: up to 2% lost)")
