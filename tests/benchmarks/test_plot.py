"""Figures are made of the rows, the same bytes every time, and the kept ones are as new as the kept rows."""

from __future__ import annotations

import math
import re

import pytest

pytest.importorskip("matplotlib")

from benchmarks import charts, plot, rows
from benchmarks.places import newest, results

from .made_up import RATIOS, group, row, scaling, suites

NAMES = {"core", "models", "roofline", "memory", "scaling-core"}


def test_kept_figures_are_of_the_kept_rows():
    wanted = {}
    for kept in results().values():
        for stem, (_, numbers) in plot.drawn(kept).items():
            wanted |= dict.fromkeys((f"{stem}.svg", f"{stem}.png"), plot.digest(numbers))
    kept = {f.name: f for f in plot.FOLDER.iterdir() if f.suffix in (".svg", ".png")}
    assert kept.keys() == wanted.keys(), "run: python -m benchmarks.plot"
    old = [name for name, file in kept.items() if wanted[name].encode() not in file.read_bytes()]
    assert not old, f"older than the rows: {old}; run: python -m benchmarks.plot"
    assert all(file.stat().st_size < 300_000 for file in kept.values())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder of the rows, and the one of the figures."""
    folder = tmp_path_factory.mktemp("plot")
    rows.append(folder / "results" / "some.csv", suites())
    assert plot.main(["--results", str(folder / "results"), "--out", str(folder / "figures")]) == 0
    return folder / "results", folder / "figures"


def test_figures_are_drawn(drawn):
    files = {f.name: f for f in drawn[1].iterdir()}
    assert files.keys() == {f"some-cpu-2-cores-{name}.{kind}" for name in NAMES for kind in ("svg", "png")}
    digests = {name: plot.digest(numbers) for name, (_, numbers) in plot.drawn(suites()).items()}
    assert len(set(digests.values())) == len(NAMES)
    for name, file in files.items():
        content = file.read_bytes()
        assert content.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
        assert digests[file.stem].encode() in content and b"20" + b"26-" not in content
    texts = re.findall(r">([^<>]+)</text>", files["some-cpu-2-cores-core.svg"].read_text())
    assert {"swin_fast (ours)", "eager", "sdpa compiled", "forward, float32, 2 threads"} <= set(texts)


def test_the_same_rows_give_the_same_bytes(drawn, tmp_path):
    given, first = drawn
    (tmp_path / "some-gpu-core.svg").write_text("of a device whose rows are gone")
    assert plot.main(["--results", str(given), "--out", str(tmp_path)]) == 0
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in tmp_path.iterdir()}


def test_another_number_is_another_digest():
    before = {stem: plot.digest(numbers) for stem, (_, numbers) in plot.drawn(suites()).items()}
    changed = [*suites(), row(candidate="eager", ms=0.5, peak_extra_mib=1.0)]
    after = {stem: plot.digest(numbers) for stem, (_, numbers) in plot.drawn(changed).items()}
    different = {stem.removeprefix("some-cpu-2-cores-") for stem in before if before[stem] != after[stem]}
    assert different == {"core", "roofline", "memory"}


def test_figures_without_rows_are_left_out(tmp_path, capsys):
    rows.append(tmp_path / "some.csv", group(("swin_fast", "eager")))
    assert plot.main(["--results", str(tmp_path), "--out", str(tmp_path / "figures")]) == 0
    assert {f.stem.removeprefix("some-cpu-2-cores-") for f in (tmp_path / "figures").iterdir()} == NAMES - {
        "models", "scaling-core"
    }  # fmt: skip
    assert "left out, for want of rows: models of Some CPU, 2 cores" in capsys.readouterr().out


def test_speedup_numbers():
    (panel,) = [p for p in plot.core_speedup(newest(suites()), []) if p["title"].startswith("forward,")]
    assert panel["places"][0] == "stage 1\n56x56x96" and len(panel["places"]) == 4  # of Swin-T alone
    assert panel["bars"]["eager"] == dict.fromkeys(panel["places"], RATIOS["eager"])
    (panel,) = plot.model_speedup(newest(suites()), [])
    assert panel["bars"]["timm"] == dict.fromkeys(["swin_t\nB 1", "swin_t\nB 8", "swin_t\ntraining, B 8"], 1.25)


def test_a_few_long_bars_do_not_flatten_the_others():
    def end(*ratios: float) -> float:
        return charts.bars_end([{"bars": {"timm": dict(enumerate(ratios)), "monai": {"last": 9.0}}}])

    assert end(*[1.2] * 30, 5) == 2.0  # at least
    assert end(*[2.0] * 20) == 3.0
    assert end(6, 7, 8) == 8.0  # at most


def test_roofline_numbers():
    """Stage 1 at batch 8: 4 * 8 * 56 * 56 * 96 * 49 operations, 49 / 4 of them a byte."""
    points = plot.roofline(newest(group(("swin_fast", "eager"))), [])["points"]
    rate = 4 * 8 * 56 * 56 * 96 * 49 / 2e-3 / 1e9
    assert points == [["swin_fast", "float32", "7x7", 12.25, pytest.approx(rate, 1e-3)],
                      ["best peer", "float32", "7x7", 12.25, pytest.approx(rate / 4, 1e-3)]]  # fmt: skip


def test_scaling_numbers():
    data = plot.scaling("attention forward")(newest(scaling()), [])
    resolution, batch = data["curves"].values()
    assert list(data["curves"]) == ["pixels a side, batch 1", "batch, 224 x 224 pixels"]
    assert resolution == [["eager", 224, 0.4, pytest.approx(5.0176)], ["eager", 448, 0.4, pytest.approx(20.0704)],
                          ["swin_fast", 224, 0.1, pytest.approx(1.2544)],
                          ["swin_fast", 448, 0.1, pytest.approx(5.0176)]]  # fmt: skip
    assert data["end"] == "3 GiB ends after"
    assert ["eager", 4, None, None] in batch and ["swin_fast", 4, 0.1, pytest.approx(5.0176)] in batch


def test_unknown_memory_is_not_drawn():
    rows = [row(), row(candidate="eager"), row(candidate="sdpa", peak_extra_mib=math.nan)]
    assert plot.memory(newest(rows), [])[0]["bars"].keys() == {"swin_fast", "eager"}
    assert plot.memory(newest(rows[::2]), []) == []


def test_ours_has_one_colour():
    others = {colour for name, colour in charts.COLOURS.items() if name != "swin_fast"}
    assert charts.colour("swin_fast") not in others and charts.OTHER != charts.colour("swin_fast")
    assert charts.colour("sdpa compiled") == charts.colour("sdpa") and charts.hatch("sdpa compiled")
