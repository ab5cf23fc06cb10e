"""How samples are taken and kept, on a clock that only the timed calls move."""

import pytest
from benchmarks import measure
from benchmarks.measure import LEAST, Samples, in_turn, keep


class Machine:
    """A clock and a count of preemptions that `call(seconds, preempted)` moves."""

    def __init__(self, monkeypatch):
        self.now, self.ru_nivcsw, self.order = 0.0, 0, []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measure.resource, "getrusage", lambda who: self)

    def call(self, name, seconds, preempted=lambda index: 0):
        def run():
            self.order.append(name)
            self.now += seconds
            self.ru_nivcsw += preempted(self.order.count(name))

        return run


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_quantiles_interpolate():
    samples = Samples((1.0, 2.0, 4.0, 8.0, 16.0))
    assert [samples.quantile(share) for share in (0, 0.2, 0.5, 0.8, 1)] == pytest.approx([1, 1.8, 4, 9.6, 16])
    assert samples.best == 1.0
    assert Samples((3.0,)).quantile(0.8) == 3.0


def test_candidates_take_turns_and_a_sample_is_long_enough(machine):
    calls = {"fast": machine.call("fast", 0.001), "slow": machine.call("slow", 0.02)}
    found = in_turn(calls, rounds=8, sample_s=0.005)
    assert found["fast"].seconds == pytest.approx([0.001] * 8)
    assert found["slow"].seconds == pytest.approx([0.02] * 8)
    warm_up = 4
    rounds = machine.order[2 * warm_up :]
    assert rounds == (["fast"] * 5 + ["slow"]) * 8


def test_more_rounds_where_samples_are_lost(machine):
    lost = machine.call("lost", 0.01, preempted=lambda index: index % 2)  # every other call, the first round's too
    found = in_turn({"lost": lost}, rounds=8, sample_s=0.005)["lost"]
    assert len(found.seconds) == LEAST
    assert found.dropped == 8


def test_a_busy_machine_gives_its_least_disturbed_samples():
    blocks = [(lost, 1.0 + lost) for lost in (5, 1, 2, 9, 3, 1, 4, 2, 7, 6, 8)]
    found = keep(blocks)
    assert found.seconds == (2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    assert found.dropped == 3


def test_only_undisturbed_samples_where_there_are_enough():
    assert keep([(0, 2.0)] * LEAST + [(1, 1.0)] * 20) == Samples((2.0,) * LEAST, 20)


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 8, got 3"):
        in_turn({}, rounds=3)
