import math
import platform
from dataclasses import fields, replace
from importlib import metadata

import pytest
import torch

import swin_fast
from benchmarks import rows
from benchmarks.ceilings import Ceilings
from benchmarks.measure import Samples


def make(candidate="swin_fast", seconds=(1e-3, 2e-3, 3e-3), allocator="default"):
    samples, best = Samples(seconds, dropped=4), Ceilings(60e9, 20e9)
    return rows.make(
        "core", "attention forward", "1x7x7x8", torch.bfloat16, 2, allocator, candidate, samples, 0.5e-3, best,
        peak_extra=3 * 2**19,
    )  # fmt: skip


def test_a_row_says_where_it_comes_from():
    row = make()
    assert (row.p20_ms, row.p50_ms, row.p80_ms, row.best_ms) == (1.4, 2.0, 2.6, 1.0)
    assert (row.samples, row.dropped, row.floor_ms, row.over_floor) == (3, 4, 0.5, 4.0)
    assert (row.gflops_ceiling, row.gbytes_ceiling, row.dtype) == (60.0, 20.0, "bfloat16")
    assert (row.torch, row.swin_fast) == (torch.__version__, swin_fast.__version__)
    assert (row.suite, row.peak_extra_mib) == ("core", 1.5)
    assert all(getattr(row, field.name) != "" for field in fields(row))


def test_rows_come_back_from_a_file(tmp_path):
    file = tmp_path / "new" / "results.csv"
    first, second = make(), replace(make("eager, by hand"), device='16" machine, 2 cores')
    rows.append(file, [first])
    rows.append(file, [second])
    assert rows.read(file) == [first, second]
    assert file.read_text().count("over_floor") == 1


def test_unknown_memory_is_an_empty_cell(tmp_path):
    file = tmp_path / "results.csv"
    rows.append(file, [replace(make(), peak_extra_mib=math.nan, versions="")])
    (row,) = rows.read(file)
    assert math.isnan(row.peak_extra_mib) and row.versions == ""
    file.write_text(file.read_text().replace(",2.0,", ",,"))
    with pytest.raises(ValueError, match="p50_ms must not be empty"):
        rows.read(file)


def test_other_columns_are_refused(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("op,shape\n")
    for use in (lambda: rows.append(file, [make()]), lambda: rows.read(file)):
        with pytest.raises(ValueError, match="must have the columns suite, op, .*; it has op, shape"):
            use()
    assert file.read_text() == "op,shape\n"


def test_versions_are_of_the_candidates_libraries(monkeypatch):
    python = f"python {platform.python_version()}"
    assert rows.versions() == python
    assert (
        rows.versions(["torch", "no-such-library"])
        == f"torch {metadata.version('torch')}; no-such-library unknown; {python}"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.9")
    assert rows.versions((), "cuda").endswith(f"{python}; cuda 13.9")


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rows.commit.__wrapped__() == "unknown"


def test_a_device_has_one_file(monkeypatch):
    monkeypatch.setattr(rows, "device_name", lambda device: "Some CPU(TM) 9000, 2 cores, avx2")
    assert rows.default_file() == rows.ROOT / "benchmarks" / "results" / "some-cpu-tm-9000-2-cores-avx2.csv"
