"""Rows that nobody measured, for the tests of page and figures."""

from __future__ import annotations

import math

from benchmarks.rows import Row

RATIOS = {"swin_fast": 1.0, "eager": 4.0, "sdpa": 3.0, "sdpa compiled": 2.5, "timm": 1.25, "onnxruntime": 0.8}


def row(suite="core", op="attention forward", shape="8x56x56x96", candidate="swin_fast", ms=2.0, **given) -> Row:
    """Twice as long as the floor when ours takes `ms`."""
    fields = {
        "suite": suite, "op": op, "shape": shape, "dtype": "float32", "threads": 2, "allocator": "default",
        "candidate": candidate, "p20_ms": ms, "p50_ms": ms, "p80_ms": ms, "best_ms": ms, "samples": 15, "dropped": 0,
        "waited": 0.0, "peak_extra_mib": 4 * ms, "floor_ms": 1.0, "over_floor": ms, "gflops_ceiling": 100.0,
        "gbytes_ceiling": 20.0, "device": "Some CPU, 2 cores", "torch": "2.13.0", "versions": "python 3.11.7",
        "swin_fast": "0.1.0", "commit": "abc1234", "date": "2026-11-22",
    }  # fmt: skip
    return Row(**fields | given)


def group(names, **given) -> list[Row]:
    """A row a candidate, each as many times as long as ours as `RATIOS` has it."""
    return [row(candidate=name, ms=2.0 * RATIOS[name], **given) for name in names]


def suites() -> list[Row]:
    """Some of every suite, on one device."""
    core = ("swin_fast", "eager", "sdpa", "sdpa compiled")
    model = ("swin_fast", "timm", "onnxruntime")
    rows = []
    for threads in (1, 2):
        for op in ("attention forward", "attention forward+backward"):
            for shape in ("8x56x56x96", "8x28x28x192", "8x14x14x384", "8x7x7x768", "8x56x56x128", "1x64x64x180"):
                rows += group(core, op=op, shape=shape, threads=threads)
        for suite in ("layer", "block"):
            rows += group(core, suite=suite, op=f"{suite} forward", threads=threads)
        for shape in ("1x3x224x224", "8x3x224x224"):
            rows += group(model, suite="model", op="swin_t inference", shape=shape, threads=threads)
        rows += group(model[:2], suite="training", op="swin_t training step", shape="8x3x224x224", threads=threads)
        rows += group(model[:2], suite="accelerate", op="swin_t inference, timm", shape="1x3x224x224", threads=threads)
    return rows + scaling()


def scaling() -> list[Row]:
    """Ours to batch 4 and to 448 pixels a side; memory ends for eager at batch 4."""
    sizes = [(1, 56), (2, 56), (4, 56), (1, 112)]
    rows = []
    for name, ratio in (("swin_fast", 1.0), ("eager", 4.0)):
        for batch, side in sizes:
            ended = name == "eager" and batch == 4
            given = (
                {"peak_extra_mib": math.nan, "samples": 0, "versions": "python 3.11.7; out of 3 GiB"} if ended else {}
            )
            ms = math.inf if ended else ratio * batch * side**2 / 1e4
            rows.append(row("scaling", "attention forward", f"{batch}x{side}x{side}x96", name, ms, **given))
    return rows
