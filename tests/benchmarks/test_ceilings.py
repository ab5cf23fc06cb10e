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


@pytest.fixture
def timed(monkeypatch):
    """The clock of all calls: seconds by the shape and dtype of what a call gives, 0.5 where nothing is said."""
    seconds = {}

    def of(call):
        result = call()
        return seconds.get((tuple(result.shape), result.dtype), 0.5)

    def in_turn(calls, rounds, device):
        return {name: Samples((of(call), 0.7)) for name, call in calls.items()}

    monkeypatch.setattr(ceilings, "in_turn", in_turn)
    monkeypatch.setattr(ceilings, "block", lambda call, repeat, device: (of(call), 0.1))
    monkeypatch.setattr(ceilings, "_LINEARS", {"cpu": ((3, 4, 5), (2, 4, 5)), "cuda": ((2, 4, 5),)})
    monkeypatch.setattr(ceilings, "_COPY_BYTES", 4096)
    return seconds


def test_rates_count_operations_and_both_ways_of_a_copy(timed):
    timed[(3, 5), torch.float32] = 0.8
    timed[(2, 5), torch.float32] = 0.4
    timed[(1024,), torch.float32] = 0.25
    assert ceilings.meter(torch.float32).read() == Ceilings(2 * 2 * 4 * 5 / 0.4, 2 * 4096 / 0.25, waited=0.4)


def test_a_half_type_without_instructions_is_widened(timed):
    """Its floor is that of float32, or kernels that widen would be faster than what is possible."""
    timed[(3, 5), torch.float32] = 0.1
    assert ceilings.meter(torch.bfloat16).read().flops == 2 * 3 * 4 * 5 / 0.1
    timed[(3, 5), torch.bfloat16] = 0.05
    assert ceilings.meter(torch.bfloat16).read().flops == 2 * 3 * 4 * 5 / 0.05
    assert ceilings.meter(torch.float32).read().flops == 2 * 3 * 4 * 5 / 0.1


def test_a_meter_reads_the_moment(timed):
    meter = ceilings.meter(torch.float32)
    assert meter.read().flops == 2 * 3 * 4 * 5 / 0.5
    timed[(3, 5), torch.float32] = 0.25
    assert meter.read().flops == 2 * 3 * 4 * 5 / 0.25


def test_the_best_of_two_readings():
    assert Ceilings(1.0, 4.0, 0.1) | Ceilings(2.0, 3.0) == Ceilings(2.0, 4.0, 0.1)
