"""The sweep and the table; the progress bar."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from swin_fast import dispatch, native, testing
from swin_fast.cli import common

CASES = [
    testing.Case("small", (4, 6), (2, 3), (1, 1), head_dim=4),
    testing.Case("padded", (5, 5), (4, 4), (2, 2), head_dim=4),
]


@pytest.fixture
def few_cases(monkeypatch):
    """Two cases, and an installation that counts as built (without one there is nothing to verify)."""
    monkeypatch.setattr(testing, "cases", lambda quick=False: CASES[: 1 if quick else 2])
    if not native.loaded:
        monkeypatch.setattr(native, "loaded", True)
        monkeypatch.setattr(native, "reason", "")
        monkeypatch.setattr(native, "cpu_capability", lambda: "portable", raising=False)


@pytest.fixture
def wrong_outputs(monkeypatch):
    right = testing.window_attention

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return out if dispatch.forced_backend() == "reference" else out * 1.1

    monkeypatch.setattr(testing, "window_attention", wrong)


@pytest.mark.filterwarnings("ignore:swin_fast")
def test_all_right(call, few_cases):
    code, out, err = call("verify", "--threads", 1)
    assert (code, err) == (0, "")
    rows = re.findall(r"^(small|padded) +(\w+) +6  [\w ]+ \S+ +\S+ +[01]\.\d\d$", out, re.M)
    names = ("float32", "bfloat16", "float16", "float64")
    assert rows == [(case, dtype) for case in ("small", "padded") for dtype in names]
    assert re.search(r"\n8 comparisons of 48 tensors in \S+ s: none failed\n$", out)


@pytest.mark.filterwarnings("ignore:swin_fast")
def test_choices(call, few_cases):
    out = call("verify", "--quick", "--dtype", "float64", "--dtype", "float32").out
    assert re.findall(r"^(small|padded) +(\w+)", out, re.M) == [("small", "float64"), ("small", "float32")]


@pytest.mark.filterwarnings("ignore:swin_fast")
def test_failure_exits_with_1_and_names_the_tensors(call, few_cases, wrong_outputs):
    code, out, _ = call("verify", "--dtype", "float32", "--quick")
    assert code == 1
    failed = re.findall(r"^small +float32 +6  (\w+(?: \w+)?) .* FAILED$", out, re.M)
    assert failed == ["out", "grad q", "grad k", "grad v", "grad bias_table"]  # the map is not padded: pad_qkv stays 0
    assert out.endswith("s: 1 failed\n")


def test_kernel_that_gives_up_is_a_failure(call, few_cases, monkeypatch):
    def gives_up(*args, **kwargs):
        raise RuntimeError("no such luck\nException raised from somewhere")

    monkeypatch.setattr(testing, "window_attention", gives_up)
    code, out, _ = call("verify", "--dtype", "float32")
    assert code == 1
    assert re.findall(r"^(\w+) +float32 +0  FAILED: no such luck$", out, re.M) == ["small", "padded"]
    assert out.endswith("s: 2 failed\n")


def test_nothing_to_verify(refused, monkeypatch):
    monkeypatch.setattr(native, "loaded", False)
    monkeypatch.setattr(native, "reason", "it is on holiday")
    message = refused("verify")
    assert message.startswith(
        "there is nothing to verify, no fused backend runs on cpu (cpu: it is on holiday; triton: "
    )


@pytest.mark.parametrize("argv", [("--dtype", "int8"), ("--threads", "-1"), ("--device", "tpu")])
def test_impossible_wishes(refused, argv):
    assert argv[0] in refused("verify", *argv)


class Terminal:
    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_only_on_a_terminal(monkeypatch, capsys):
    items = [1, 2, 3]
    assert common.progress(items, 3, "work") is items
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(common.progress(iter(items), 3, "work")) == items
    assert "work" in terminal.text and "0/3" in terminal.text


def test_no_tqdm_is_no_error(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(common.progress([1, 2], 2, "work")) == [1, 2]
    assert terminal.text == "no progress bar without tqdm: pip install 'swin_fast[cli]'\n"


def test_sweep_covers_the_contract():
    for quick in (True, False):
        cases = testing.cases(quick)
        assert len({case.name for case in cases}) == len(cases)
        assert {len(case.grid) for case in cases} == {2, 3}
        assert {case.bias for case in cases} == {"table", "index", "none"}
        padded = [c for c in cases if any(g % w for g, w in zip(c.grid, c.window_size, strict=True))]
        seen = {(case.pad, case.pad_order) for case in padded}
        assert seen == {(pad, order) for pad in ("attended", "masked") for order in ("pad_then_roll", "roll_then_pad")}
        assert {case.mask for case in cases} == {case.cosine for case in cases} == {True, False}
        assert {case.mask_value for case in cases} == {-100.0, -torch.inf}
        assert any(case.dropout_p for case in cases) and any(case.scale for case in cases)
        assert any(case.grid[0] != case.grid[1] for case in cases)
    assert max(torch.Size(case.window_size).numel() for case in testing.cases()) == 1024
    assert max(case.head_dim for case in testing.cases()) == 256


def test_errors_rule():
    truth = {"out": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    plain = {"out": torch.tensor([1.0, 2.01])}

    def judged(*values) -> testing.Error:
        (error,) = testing.errors({"out": torch.tensor(values)}, plain, truth, torch.float32)
        return error

    assert judged(1.0, 2.0199).ok
    assert judged(1.0, 2.0199).bound == pytest.approx(0.02 + 2e-6, rel=1e-5)
    assert not judged(1.0, 2.0201).ok
    assert not judged(1.0, float("nan")).ok
    assert not judged(float("inf"), 2.0).ok
    plain["out"][0] = float("inf")  # a plain road that overflows proves nothing
    assert not judged(1.0, 2.0).ok


def test_errors_of_an_empty_tensor():
    nothing = {"out": torch.empty(0, 3)}
    (error,) = testing.errors(nothing, nothing, nothing, torch.float32)
    assert error.ok and error.error == 0


@pytest.mark.filterwarnings("ignore:swin_fast")
@pytest.mark.parametrize("case", testing.cases(quick=True), ids=lambda case: case.name.replace(" ", "_"))
def test_inputs_reach_the_op(case):
    """Every tensor of a case takes part: its gradient is not all zero, and the same seed gives the same numbers."""
    tensors, options = testing.make_inputs(case, torch.float64)
    first, again = (testing.run(tensors, options, "reference", seed=4) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    padded = any(g % w for g, w in zip(case.grid, case.window_size, strict=True))
    one_token = max(case.window_size) == 1
    for name, value in first.items():
        idle = (name == "grad pad_qkv" and not padded) or (one_token and name not in ("out", "grad v"))
        assert value.isfinite().all() and (not value.any()) == idle, name
    assert ("mask" in tensors) == case.mask and ("logit_scale" in tensors) == case.cosine
    assert ("bias_index" in tensors) == (case.bias == "index") and ("pad_qkv" in tensors) == (case.pad == "attended")
    if case.bias == "index":
        assert tensors["bias_index"].min() < 0 <= tensors["bias_index"].max()
    other = testing.run(tensors, options, "reference", seed=5)
    assert torch.equal(other["out"], first["out"]) == (case.dropout_p == 0)


def test_wrong_gradient_is_found(monkeypatch):
    """A road with the right output and a q gradient that lacks its scale fails in that alone."""
    right = testing.window_attention
    case = testing.Case("small", (8, 8), (4, 4), (2, 2), head_dim=16)

    def wrong(qkv, *args, **kwargs):
        if dispatch.forced_backend() != "reference":
            factor = torch.ones(qkv.shape[-1])
            factor[:32] = 4
            qkv = qkv.clone()
            qkv.register_hook(lambda grad: grad * factor)
            with dispatch.use_backend("reference"):
                return right(qkv, *args, **kwargs)
        return right(qkv, *args, **kwargs)

    monkeypatch.setattr(testing, "window_attention", wrong)
    assert [e.name for e in testing.compare(case) if not e.ok] == ["grad q"]
