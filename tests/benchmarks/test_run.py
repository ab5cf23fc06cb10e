"""The processes that a benchmark is spread over, and what is read from their rows."""

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import attention, memory, peers, rows, run
from benchmarks.ceilings import Ceilings
from swin_fast import testing

from .test_rows import make

TINY = testing.Case("7x7x48", (7, 7), (7, 7), (0, 0), num_heads=3, head_dim=16, pad="masked")


def test_one_process_per_thread_count_and_allocator(monkeypatch, tmp_path, capsys):
    started = []

    def start(command, env):
        file = Path(command[command.index("--child") + 1])
        rows.append(file, [make(allocator=env.get("MALLOC_MMAP_MAX_", "unset"))])
        started.append((command, env["OMP_NUM_THREADS"], env.get("MALLOC_TRIM_THRESHOLD_")))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run.subprocess, "run", start)
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    file = tmp_path / "all.csv"
    run.run("some.module", parser, ["--threads", "1", "3", "--csv", str(file)], None)
    assert [entry[1:] for entry in started] == [("1", None), ("1", "4000000000"), ("3", None), ("3", "4000000000")]
    for (command, threads, _), allocator in zip(started, ("default", "retain") * 2, strict=True):
        args = parser.parse_args(command[3:])
        assert command[1:3] == ["-m", "some.module"]
        assert (args.threads, args.allocator) == ([int(threads)], allocator)
    assert [row.allocator for row in rows.read(file)] == ["unset", "0"] * 2
    assert "swin_fast" not in capsys.readouterr().err


def test_a_failed_process_ends_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(run.subprocess, "run", lambda command, env: subprocess.CompletedProcess(command, 7))
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    with pytest.raises(SystemExit) as stopped:
        run.run("some.module", parser, ["--csv", str(tmp_path / "all.csv")], None)
    assert stopped.value.code == 7
    assert not list(tmp_path.iterdir())


def test_a_peer_has_its_better_allocator_and_ours_the_usual_one():
    measured = [
        make("swin_fast", (2e-3,)), make("eager", (9e-3,)), make("sdpa", (8e-3,)), make("sdpa compiled", (6e-3,)),
        make("swin_fast", (1e-3,), "retain"), make("eager", (7e-3,), "retain"), make("sdpa", (8e-3,), "retain"),
        make("sdpa compiled", (7e-3,), "retain"),
    ]  # fmt: skip
    head, line = (text.split("  ") for text in run.summary(measured).strip().split("\n"))
    cells = [cell.strip() for cell in line if cell.strip()]
    assert [name.strip() for name in head if name.strip()][4:6] == ["ours ms", "kept"]
    assert cells[4:] == [
        "2.000", "1.000", "eager (retain)", "7.000", "3.50", "3.50", "sdpa compiled (default)", "6.000", "3.00", "3.00",
        "0.500", "4.00",
    ]  # fmt: skip


def test_a_busy_machine_is_named_where_its_rows_are_shown():
    measured = [make(), make("eager"), replace(make("eager", (9e-3,), "retain"), waited=0.4)]
    assert "busy" not in run.summary(measured)
    measured[1] = replace(measured[1], waited=0.02)
    assert run.summary(measured).endswith("4.00 (busy: up to 2% lost)")


def test_attention_writes_a_row_per_candidate(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "STAGES", {1: TINY})
    monkeypatch.setattr(attention.ceilings, "measure", lambda dtype: Ceilings(1e9, 1e9))
    file, threads = tmp_path / "rows.csv", torch.get_num_threads()
    arguments = ["--dtype", "float32", "--batch", "2", "--rounds", "8", "--allocator", "default", "--backward"]
    try:
        attention.main([*arguments, "--stages", "1", "--threads", "1", "--child", str(file)])
    finally:
        torch.set_num_threads(threads)
    found = rows.read(file)
    assert [row.candidate for row in found] == ["swin_fast", "eager", "sdpa"]
    assert {(row.op, row.shape, row.threads) for row in found} == {("attention forward+backward", "2x7x7x48", 1)}
    assert {row.floor_ms for row in found} == {round(14 * 98 * 49 * 48 / 1e6, 4)}


def test_memory_of_the_core():
    case = testing.Case("28x28x48", (28, 28), (7, 7), (3, 3), batch=4, num_heads=3, head_dim=16, pad="masked")
    ours, eager = (memory.one(name, torch.float32, case) for name in (peers.OURS, "eager"))
    qkv, out, table = 4 * 784 * 144 * 4, 4 * 784 * 48 * 4, 169 * 3 * 4
    for found in (ours, eager):
        assert (found["inputs"], found["results"]) == (qkv + table + out, out + qkv + table)
        assert found["torch"] >= found["results"]
        assert found["process"] >= 0
    assert ours["torch"] < eager["torch"]
