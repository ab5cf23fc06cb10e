"""The README's page is what the kept rows say, and fits; what counts as newest and as better is what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("matplotlib")

from benchmarks import readme, tables
from benchmarks.places import Place, newest, results
from benchmarks.registry import GROUPS

from .made_up import RATIOS, group, row, suites


def page_of(text: str) -> str:
    return text.split(readme.BEGIN)[1].split(readme.END)[0].strip("\n")


def test_readme_and_rows_agree():
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.replaced(text, readme.section(results())), "run: python -m benchmarks.readme"


def test_each_device_has_at_most_forty_lines():
    for rows in results().values():
        assert len(readme.page(rows).splitlines()) <= 40
    assert len(page_of(readme.README.read_text(encoding="utf-8")).splitlines()) <= 41 * len(results())


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
    text = readme.page(everything(device))
    assert len(text.splitlines()) == 40 and " more lines are in the CSV." in text
    kept = ["forward 8x56x56x96 |" if device == "cpu" else "forward 64x56x56x96 |", "swin_t inference, f32"]
    kept += ["layer forward, Swin-T |", "block forward, Swin-T |", "forward, Swin-B, L |", "forward, Swin UNETR |"]
    for line in (*kept, "swin_t training step, f32", "transformers |"):
        assert f"| {line}" in text, line


def test_a_changed_number_changes_the_page():
    rows = suites()
    page = readme.page(rows)
    for i, one in enumerate(rows):
        changed = replace(one, p50_ms=one.p50_ms / 10)
        # of these the CSV has more than the page
        unseen = one.op.endswith("backward") and one.shape in ("8x56x56x128", "1x64x64x180")
        unseen |= one.suite == "scaling" or (one.suite == "accelerate" and one.threads == 1)
        if not unseen:
            assert readme.page([*rows[:i], changed, *rows[i + 1 :]]) != page, one


def test_what_a_cell_says():
    (timed,) = newest(group(("swin_fast", "eager", "sdpa", "sdpa compiled"))).values()
    assert tables.cell([timed]) == "2.00 · 3.0s · 2.5s · 2.0"
    assert tables.cell([]) == "-"
    (lost,) = newest([row(), row(candidate="eager", ms=1.5), row(candidate="sdpa on windows", ms=1.98)]).values()
    assert tables.cell([lost]) == "2.00 · **0.75e** · - · 2.0"
    assert tables.cell([lost, timed]) == "2.00 · **0.75-3.0** · 2.5 · 2.0"
    (both,) = newest([row(candidate="swin_fast cuda"), row(candidate="swin_fast triton", ms=3.0)]).values()
    assert tables.cell([both]) == "2.00 cuda/3.00 triton · - · - · 2.0"


def test_a_tie_is_not_called_slower():
    assert tables.factor(0.996) == "1.00" and tables.factor(0.994) == "**0.99**" and tables.factor(None) == "-"


def test_models_and_accelerate():
    page = readme.page(suites())
    assert "| swin_t inference, f32, T2, B 1 · 8 | 2.00 · 2.00 | 1.25 · 1.25 | **0.80** · **0.80** |" in page
    assert "| swin_t training step, f32, T2, B 8 | 2.00 | 1.25 | - |" in page
    assert "| timm | 1.25; - |" in page
    # 2 threads of: 12 places of 3 peers, layer and block of 3, models 2 x 2, training and accelerate 1
    assert "Of 96 comparisons with a peer at a place ours is faster in 92;" in page
    assert "in: model 4 of 8 (onnxruntime 0.80)." in page
    assert "attention forward 8x56x56x96 8 MiB (eager 4.0, sdpa 3.0, sdpa compiled 2.5)" in page


def test_compiled_is_held_against_compiled_after_accelerate():
    given = {"suite": "accelerate", "op": "swin_t inference, timm", "shape": "1x3x224x224"}
    times = {"swin_fast": 2.0, "timm": 3.0, "swin_fast compiled": 1.0, "timm compiled": 1.2}
    found = [row(candidate=name, ms=ms, **given) for name, ms in times.items()]
    assert "| timm | 1.50; 1.20 |" in readme.page(found)
    assert "Of 2 comparisons with a peer at a place ours is faster in 2." in readme.page(found)


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
    text = readme.page(rows)
    for part in ("**Some CPU, 2 cores**; torch 2.13.0, swin_fast 0.1.0, python 3.11.7, timm 1.0.31.",
                 "Rows of commit abc1234; older ones of old (model), until 2026-11-22.", "f32, T2: 100, 20.",
                 "`python -m benchmarks.run core layer block --compiled --csv`"):  # fmt: skip
        assert part in text, part
    gpu = readme.page([row(device="Some GPU", versions="python 3.11.7; cuda 12.8")])
    assert "f32: 100, 20." in gpu and "--compiled --csv --device cuda`" in gpu and "T2" not in gpu


def test_devices_have_pages_of_their_own():
    cpu, gpu = suites(), [replace(r, device="Some GPU") for r in suites()]
    text = readme.section({"a": cpu, "b": gpu})
    assert text == f"{readme.page(cpu)}\n\n{readme.page(gpu)}" and "**Some GPU**" in text


@pytest.mark.parametrize("suite", ["core", "layer", "block", "model", "training", "accelerate", "scaling"])
def test_one_suite_alone_is_enough(suite):
    page = readme.page([r for r in suites() if r.suite == suite])
    assert page.startswith("**Some CPU") and "nan" not in page and "inf " not in page


def test_marks_stay():
    text = readme.replaced(f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n", "new")
    assert text == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
