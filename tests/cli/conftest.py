"""A small model under the name swin_t, and a call of the command line that returns what it said."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from swin_fast.cli import demo, figure, main
from swin_fast.models import SwinTransformer

TINY = {"img_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def tiny(monkeypatch):
    """The builder of a model with two stages on a 32 x 32 picture: maps of 8 x 8 and 4 x 4, windows of 4."""

    def build(**kwargs) -> SwinTransformer:
        return SwinTransformer(**{**TINY, **kwargs})

    monkeypatch.setitem(demo.MODELS, "swin_t", build)
    return build


@pytest.fixture
def no_figure(monkeypatch):
    """Leave out the drawing, which is most of the time of a small demo."""
    monkeypatch.setattr(figure, "draw", lambda *args: None)


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """`call("demo", "--size", 32)` runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")  # main sets it too; this way it is put back

    def run(*argv) -> Said:
        code = main([str(a) for a in argv])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(call):
    """Run a command that must be refused: exit status 2, nothing on stdout, one line on stderr, which is returned."""

    def run(*argv) -> str:
        code, out, err = call(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("swin-fast: error: ") and err.count("\n") == 1, err
        return err.removeprefix("swin-fast: error: ").rstrip()

    return run
