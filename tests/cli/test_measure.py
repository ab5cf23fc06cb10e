"""The measuring itself: what counts as equal, whose time is taken when, which bytes are counted."""

from __future__ import annotations

import pytest
import torch

from swin_fast.cli import measure

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")


def test_peak_of_known_allocations():
    a = torch.ones(256, 1024)  # 1 MiB; what is there before the call does not count

    def road():
        b = a.clone()  # 1 MiB alive
        c = torch.cat((b, b))  # 3
        del b  # 2
        d = c.clone()  # 4
        del c  # 2
        return d.clone()  # 4

    assert measure.peak_bytes(road, CPU) == 4 * 2**20
    assert measure.peak_bytes(road, CPU) == 4 * 2**20


def test_peak_counts_what_is_given_back():
    assert measure.peak_bytes(lambda: torch.empty(1000, dtype=torch.float64), CPU) == 8000


def test_roads_take_turns():
    order = []
    roads = {name: lambda name=name: order.append(name) for name in ("plain", "fused")}
    times = measure.in_turn(roads, CPU, repeat=3, text="", warm_up=1)
    assert order == ["plain", "fused"] * 4
    assert set(times) == {"plain", "fused"} and all(t >= 0 for t in times.values())


def test_median_without_the_warm_up(monkeypatch):
    took = iter([99.0, 99.0, 5.0, 1.0, 6.0, 9.0, 4.0, 2.0])
    monkeypatch.setattr(measure, "seconds", lambda road, device: next(took))
    times = measure.in_turn({"plain": None, "fused": None}, CPU, repeat=3, text="", warm_up=1)
    assert times == {"plain": 5.0, "fused": 2.0}


def test_parity_float32():
    reference = torch.tensor([1.0, -8.0])
    close = measure.parity(torch.tensor([1.0005, -8.0]), reference, None)
    assert close.ok
    assert (close.largest, close.relative) == pytest.approx((5e-4, 5e-4 / 8), rel=1e-3)
    assert not measure.parity(torch.tensor([1.001, -8.0]), reference, None).ok
    assert measure.parity(torch.zeros(2), torch.zeros(2), None).ok
    assert not measure.parity(torch.tensor([1e-3, 0.0]), torch.zeros(2), None).ok


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parity_refuses_what_is_no_number(bad):
    spoilt, good = torch.tensor([1.0, bad]), torch.tensor([1.0, 2.0])
    assert not measure.parity(spoilt, good, None).ok
    assert not measure.parity(good, spoilt, None).ok
    assert not measure.parity(spoilt.bfloat16(), good.bfloat16(), good).ok
    assert not measure.parity(good.bfloat16(), spoilt.bfloat16(), good).ok


def test_parity_half_types_is_twice_the_error_of_the_dtype():
    truth = torch.tensor([1.0, 4.0])
    plain = torch.tensor([1.0, 4.0625], dtype=torch.bfloat16)  # its error is 0.0625, the allowance 4 * 2**-9
    assert measure.parity(torch.tensor([1.125, 4.0], dtype=torch.bfloat16), plain, truth).ok
    assert not measure.parity(torch.tensor([1.25, 4.0], dtype=torch.bfloat16), plain, truth).ok
    with pytest.raises(ValueError, match="truth"):
        measure.parity(plain, plain, None)


@pytest.mark.gpu
def test_peak_on_a_gpu():
    device = torch.device("cuda")
    a = torch.ones(256, 1024, device=device)
    assert measure.peak_bytes(lambda: a.clone().clone(), device) == 2 * 2**20
