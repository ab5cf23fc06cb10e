import pytest
import torch

from benchmarks import ceilings
from benchmarks.ceilings import Ceilings, attention_floor
from benchmarks.measure import Samples


def test_floor_is_the_larger_need():
    machine = Ceilings(flops=100.0, bandwidth=10.0)
    assert machine.floor(operations=1000, moved=50) == 10
    assert machine.floor(operations=100, moved=50) == 5


def test_attention_floor_of_stage_1():
    tokens = 8 * 56 * 56
    compute, memory = Ceilings(100e9, 1e30), Ceilings(1e30, 50e9)
    # 8 images, 64 windows, 3 heads, two products of 49 x 49 x 32; the backward has five
    forward = 8 * 64 * 3 * 2 * (2 * 49 * 49 * 32)
    assert attention_floor(compute, tokens, 49, 96, 4, False) == pytest.approx(forward / 100e9)
    assert attention_floor(compute, tokens, 49, 96, 4, True) == pytest.approx(3.5 * forward / 100e9)
    # qkv and out; then qkv, the incoming gradient and qkv's gradient
    qkv, out = tokens * 288 * 2, tokens * 96 * 2
    assert attention_floor(memory, tokens, 49, 96, 2, False) == pytest.approx((qkv + out) / 50e9)
    assert attention_floor(memory, tokens, 49, 96, 2, True) == pytest.approx((3 * qkv + 2 * out) / 50e9)


def test_rates_count_operations_and_both_ways_of_a_copy(monkeypatch):
    def in_turn(calls, rounds, device):
        results = {name: call() for name, call in calls.items()}
        assert [tuple(t.shape) for t in results.values()] == [(1024,), (3, 5), (2, 5)]
        assert [t.dtype for t in results.values()] == [torch.float32, torch.bfloat16, torch.bfloat16]
        times = {name: Samples((0.5, 0.7)) for name in calls}
        return times | {(2, 4, 5): Samples((0.4,), waited=0.2)}

    monkeypatch.setattr(ceilings, "in_turn", in_turn)
    monkeypatch.setattr(ceilings, "_LINEARS", {"cpu": ((3, 4, 5), (2, 4, 5))})
    monkeypatch.setattr(ceilings, "_COPY_BYTES", 4096)
    assert ceilings.measure(torch.bfloat16) == Ceilings(2 * 3 * 4 * 5 / 0.5, 2 * 4096 / 0.5, waited=0.2)
