"""The measured pages are what the kept rows say, and fit; what counts as newest and as better is what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks import coverage, readme, tables
from benchmarks.places import Place, newest, results
from benchmarks.registry import GROUPS

from .made_up import RATIOS, group, row, suites


def page_of(text: str) -> str:
    return text.split(readme.BEGIN)[1].split(readme.END)[0].strip("\n")


def test_pages_and_rows_agree():
    devices, text = results(), readme.README.read_text(encoding="utf-8")
    assert text == readme.replaced(text, readme.section(devices)), "run: python -m benchmarks.readme"
    kept = {file: file.read_text(encoding="utf-8") for file in readme.FOLDER.glob("*.md")}
    assert kept == readme.pages(devices), "run: python -m benchmarks.readme"


def test_the_readme_has_at_most_forty_lines():
    assert len(page_of(readme.README.read_text(encoding="utf-8")).splitlines()) <= 40


def everything(device: str) -> list:
    """All groups of the registry, all candidates."""
    return [
        row(g.suite, g.op, g.shape, name, RATIOS.get(name, 1.5), dtype=str(g.dtype)[6:], threads=threads)
        for g in GROUPS.values()
        if device in g.devices
        for threads in ((1, 2) if device == "cpu" else (8,))
        for name in g.names(device, True)
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_that_can_be_timed_fits(device):
    rows = everything(device)
    text = readme.section({rows[0].device: rows})
    assert len(text.splitlines()) == 40 and " more lines are on the page of the device." in text
    assert f"| {'8' if device == 'cpu' else '64'}x56x56x96 |" in text
    for line in ("swin_t inference, f32", "swin_t inference, bf16", "transformers |"):
        assert f"| {line}" in text, line
    whole = readme.page(rows)
    for g in GROUPS.values():
        assert device not in g.devices or f", {g.shape} |" in whole or g.suite == "accelerate"


def test_a_changed_number_changes_the_page():
    rows = suites()
    page = readme.page(rows)
    for i, one in enumerate(rows):
        changed = replace(one, p50_ms=one.p50_ms / 10)
        unseen = one.suite == "scaling" or (one.suite == "accelerate" and one.threads == 1)  # the CSV has more
        if not unseen:
            assert readme.page([*rows[:i], changed, *rows[i + 1 :]]) != page, one


def test_what_a_cell_says():
    (timed,) = newest(group(("swin_fast", "eager", "sdpa", "sdpa compiled"))).values()
    assert tables.cell(timed) == "2.00 · 3.0 sdpa · 2.5 sdpa · 2.0"
    assert tables.cell(None) == "-"
    (lost,) = newest([row(), row(candidate="eager", ms=1.5), row(candidate="sdpa on windows", ms=1.98)]).values()
    assert tables.cell(lost) == "2.00 · **0.75 eager** · - · 2.0"
    (both,) = newest([row(candidate="swin_fast cuda"), row(candidate="swin_fast triton", ms=3.0)]).values()
    assert tables.cell(both) == "2.00 cuda/3.00 triton · - · - · 2.0"


def test_the_overview_has_the_closest_peer_of_each_place():
    rows = group(("swin_fast", "eager", "sdpa")) + group(("swin_fast", "eager"), shape="8x28x28x192")
    rows += group(("swin_fast", "timm", "onnxruntime"), suite="model", op="swin_t inference", shape="1x3x224x224")
    other = [replace(r, device="Some GPU", dtype="bfloat16") for r in group(("swin_fast", "sdpa"))]
    assert str(tables.overview([newest(rows), newest(other)])).splitlines() == [
        "| closest peer: median (least) | attention | model | model, other runtimes |",
        "| --- | --- | --- | --- |",
        "| Some CPU, 2 cores: f32 | 3.5 (3.0) | 1.25 (1.25) | **0.80** (**0.80**) |",
        "| Some GPU: bf16 | 3.0 (3.0) | - | - |",
    ]


def test_every_place_has_a_line():
    found = newest(group(("swin_fast", "eager", "sdpa compiled")))
    assert str(tables.every(found, ("core", "block"))).splitlines() == [
        "| what | on | ours ms | times the floor | eager | compiled peer | ours MiB | leanest peer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| swin_t-stage1 attention forward, 8x56x56x96 | f32, T2 | 2.00 | 2.0 | 4.0 | 2.5 | 8.0 | 2.5 |",
    ]
    assert not tables.every(found, ("model",)).lines


def test_a_tie_is_not_called_slower():
    assert tables.factor(0.996) == "1.00" and tables.factor(0.994) == "**0.99**" and tables.factor(None) == "-"


def test_models_and_accelerate():
    section, page = readme.section({"a": suites()}), readme.page(suites())
    assert "| swin_t inference, f32, T2, B 1 · 8 | 2.00 · 2.00 | 1.25 · 1.25 | **0.80** · **0.80** |" in section
    assert "| swin_t training step, f32, T2, B 8 | 2.00 | 1.25 | - |" in section
    assert "| timm | 1.25; - |" in section and "| timm | 1.25; - |" in page
    # 2 threads of: 12 places of 3 peers, layer and block of 3, models 2 x 2, training and accelerate 1
    said = "Of 96 comparisons with a peer at a place ours is faster in 92;"
    assert said in section and said in page
    assert "in: model 4 of 8 (onnxruntime 0.80)." in section
    assert "attention forward 8x56x56x96 8 MiB, 2.5 to 4.0;" in section
    assert page.count("| onnxruntime | 0.80 |") == 4


def test_compiled_is_held_against_compiled():
    given = {"suite": "accelerate", "op": "swin_t inference, timm", "shape": "1x3x224x224"}
    times = {"swin_fast": 2.0, "timm": 3.0, "swin_fast compiled": 1.0, "timm compiled": 1.2}
    found = [row(candidate=name, ms=ms, **given) for name, ms in times.items()]
    assert "| timm | 1.50; 1.20 |" in readme.page(found)
    assert "Of 2 comparisons with a peer at a place ours is faster in 2." in readme.page(found)
    (timed,) = newest(found).values()
    assert timed.ratio(timed["swin_fast compiled"]) == 0.5


def test_a_peer_is_held_against_ours_of_the_same_process():
    """The machine was half as fast in the second one, so that times of the two cannot be compared."""
    first = [row(ms=2.0), row(candidate="eager", ms=6.0), row(candidate="sdpa", ms=8.0)]
    second = [row(ms=4.0), row(candidate="eager", ms=16.0), row(candidate="sdpa", ms=14.0)]
    (timed,) = newest(first + [replace(r, allocator="retain") for r in second]).values()
    assert timed.own.p50_ms == 2.0
    assert {name: timed.ratio(r) for name, r in timed.items()} == {"swin_fast": 1.0, "eager": 3.0, "sdpa": 3.5}
    assert timed.best().candidate == "eager"
    # a peer that was timed again, without the others
    (timed,) = newest([*first, row(ms=1.0), row(candidate="eager", ms=2.5)]).values()
    assert {name: timed.ratio(r) for name, r in timed.items()} == {"swin_fast": 1.0, "eager": 2.5, "sdpa": 4.0}


def test_the_newest_row_and_the_better_allocator_count():
    place = Place("core", "attention forward", "8x56x56x96", "float32", 2)
    old, new = row(ms=1.0, commit="old"), row(ms=3.0)
    assert newest([old, new])[place].own == new
    kept = row(ms=2.5, allocator="retain")
    assert newest([new, kept])[place].own == kept and newest([kept, new])[place].own == kept
    # a setting that was timed before the last change of the code does not stand in for the new code
    assert newest([replace(kept, commit="old"), new])[place].own == new
    plain = row(candidate="swin_fast reference", ms=0.1)
    timed = newest([new, plain, row(candidate="eager compiled", ms=0.05)])[place]
    assert timed.own == new and timed.best(False) == plain and timed.best().candidate == "eager compiled"


def test_machine_versions_and_commits_are_named():
    rows = [row(commit="old", suite="model", op="swin_t inference", shape="1x3x224x224", versions="timm 1.0.31"), row()]
    page, section = readme.page(rows), readme.section({"a": rows})
    for part in ("# Some CPU, 2 cores", "Versions: torch 2.13.0, swin_fast 0.1.0, python 3.11.7, timm 1.0.31",
                 "Rows until 2026-11-22, of the commits old (model), abc1234 (core)", "f32, T2: 100, 20"):  # fmt: skip
        assert part in page, part
    for part in ("**Some CPU, 2 cores**, torch 2.13.0, rows until 2026-11-22.", "f32, T2: 100, 20.",
                 "(benchmarks/results/some-cpu-2-cores.md)",
                 "`python -m benchmarks.run core layer block --compiled --csv`"):  # fmt: skip
        assert part in section, part
    gpu = readme.section({"b": [row(device="Some GPU", versions="python 3.11.7; cuda 12.8")]})
    assert "f32: 100, 20." in gpu and "--compiled --csv --device cuda`" in gpu and "T2" not in gpu


def test_the_readme_shows_a_gpu_first_and_then_the_most_comparisons():
    few, many = group(("swin_fast", "eager")), suites()
    gpu = [replace(r, device="Some GPU", versions="cuda 13.0") for r in few]
    assert readme.ranked({"a": few, "b": many, "c": gpu}) == ["c", "b", "a"]
    text = readme.section({"b": many, "c": gpu})
    assert "**Some GPU**" in text and "**Some CPU" not in text and "| Some CPU, 2 cores: f32 |" in text


def test_each_device_has_a_page(tmp_path):
    devices = {"Some CPU, 2 cores": suites(), "Some GPU": [replace(r, device="Some GPU") for r in suites()]}
    pages = readme.pages(devices, tmp_path)
    assert pages[tmp_path / "some-gpu.md"].startswith("# Some GPU\n") and len(pages) == 2


@pytest.mark.parametrize("suite", ["core", "layer", "block", "model", "training", "accelerate", "scaling"])
def test_one_suite_alone_is_enough(suite):
    rows = [r for r in suites() if r.suite == suite]
    page, section = readme.page(rows), readme.section({"a": rows})
    assert page.startswith("# Some CPU") and "**Some CPU" in section
    assert "- \n" not in page  # as of a coverage that has nothing to say
    for text in (page, section):
        assert "nan" not in text and "inf " not in text


def test_marks_stay():
    text = readme.replaced(f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n", "new")
    assert text == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"


def test_coverage_counts_groups_of_the_last_commit():
    """Swin-T's stage 1 in both settings, one of an old commit; stage 2 compiled and in both, but with a candidate in
    one; stage 3 in one; and stage 4 in both."""
    old = group(("swin_fast", "sdpa", "sdpa compiled"), allocator="retain", commit="old")
    first = group(("swin_fast", "sdpa", "sdpa compiled"))
    second = group(("swin_fast", "sdpa", "sdpa compiled"), shape="8x28x28x192")
    second += [replace(r, allocator="retain") for r in second]
    second += group(("swin_fast", "eager"), shape="8x28x28x192")
    third = group(("swin_fast", "eager"), shape="8x14x14x384", dtype="bfloat16")
    fourth = group(("swin_fast", "eager"), shape="8x7x7x768")
    rows = old + first + second + third + fourth + [replace(r, allocator="retain") for r in fourth]
    total = sum(g.dtype == torch.float32 and "cpu" in g.devices for g in GROUPS.values())
    said = (
        f"Groups of the registry that have rows: f32 3 of {total}, 2 of them compiled, too, 1 with both allocator "
        f"settings; bf16 1 of {total}, 0 of them compiled, too, 0 with both allocator settings."
    )
    assert coverage.text(newest(rows)) == said
    assert said in readme.section({"a": rows}) and said.removesuffix(".") in readme.page(rows)
