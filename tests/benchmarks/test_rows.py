from dataclasses import fields, replace

import torch

import swin_fast
from benchmarks import rows
from benchmarks.ceilings import Ceilings
from benchmarks.measure import Samples


def make(candidate="swin_fast", seconds=(1e-3, 2e-3, 3e-3), allocator="default"):
    samples, best = Samples(seconds, dropped=4), Ceilings(60e9, 20e9)
    return rows.make("attention forward", "1x7x7x8", torch.bfloat16, 2, allocator, candidate, samples, 0.5e-3, best)


def test_a_row_says_where_it_comes_from():
    row = make()
    assert (row.p20_ms, row.p50_ms, row.p80_ms, row.best_ms) == (1.4, 2.0, 2.6, 1.0)
    assert (row.samples, row.dropped, row.floor_ms, row.over_floor) == (3, 4, 0.5, 4.0)
    assert (row.gflops_ceiling, row.gbytes_ceiling, row.dtype) == (60.0, 20.0, "bfloat16")
    assert (row.torch, row.swin_fast) == (torch.__version__, swin_fast.__version__)
    assert all(getattr(row, field.name) != "" for field in fields(row))


def test_rows_come_back_from_a_file(tmp_path):
    file = tmp_path / "new" / "results.csv"
    first, second = make(), replace(make("eager, by hand"), device='16" machine, 2 cores')
    rows.append(file, [first])
    rows.append(file, [second])
    assert rows.read(file) == [first, second]
    assert file.read_text().count("over_floor") == 1


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rows.commit.__wrapped__() == "unknown"


def test_a_device_has_one_file(monkeypatch):
    monkeypatch.setattr(rows, "device_name", lambda: "Some CPU(TM) 9000, 2 cores, avx2")
    assert rows.default_file() == rows.ROOT / "benchmarks" / "results" / "some-cpu-tm-9000-2-cores-avx2.csv"
