"""How samples are taken and kept, on a clock that only the timed calls move."""

import hashlib
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from benchmarks import measure
from benchmarks.measure import LEAST, Samples, in_turn, keep


class Machine:
    """A clock, and the time spent waiting for a core, that `call(name, seconds, waited)` moves."""

    def __init__(self, monkeypatch):
        self.now, self.waited, self.order = 0.0, 0.0, []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measure, "waiting", lambda: self.waited)

    def call(self, name, seconds, waited=lambda index: 0.0):
        def run():
            self.order.append(name)
            self.now += seconds
            self.waited += waited(self.order.count(name))

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
    lost = machine.call("lost", 0.01, waited=lambda index: 0.002 * (index % 2))  # every other call
    found = in_turn({"lost": lost}, rounds=8, sample_s=0.005)["lost"]
    assert (len(found.seconds), found.dropped, found.waited) == (LEAST, 8, 0.0)


def test_rounds_end_on_a_machine_that_is_always_busy(machine):
    found = in_turn({"busy": machine.call("busy", 0.01, waited=lambda index: 0.005)}, rounds=9, sample_s=0.005)["busy"]
    assert (len(found.seconds), found.dropped) == (27, 0)
    assert found.waited == pytest.approx(0.5)


def test_long_calls_are_not_repeated_for_minutes(machine):
    """8 rounds of 6 s, and those that begin in the next 20 s."""
    found = in_turn({"long": machine.call("long", 6.0, waited=lambda index: 3.0)}, rounds=8)["long"]
    assert (len(found.seconds), found.dropped) == (8 + 4, 0)


def test_a_busy_machine_gives_its_least_disturbed_samples():
    blocks = [(lost / 10, 1.0 + lost) for lost in (5, 1, 2, 9, 3, 1, 4, 2, 7, 6, 8)]
    assert keep(blocks) == Samples((2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0), dropped=3, waited=0.6)


def test_only_undisturbed_samples_where_there_are_enough():
    assert keep([(0.01, 2.0)] * LEAST + [(0.02, 1.0)] * 20) == Samples((2.0,) * LEAST, dropped=20, waited=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the time")
def test_waiting_for_a_core_is_seen():
    """Two busy threads pinned to one core: while one runs, the other waits."""
    core, done = min(os.sched_getaffinity(0)), threading.Barrier(3)

    def work():
        os.sched_setaffinity(0, {core})  # of this thread
        hashlib.pbkdf2_hmac("sha256", b"", b"", 300_000)  # without the interpreter's lock
        done.wait()
        done.wait()  # a thread that has ended no longer counts

    before, threads = measure.waiting(), [threading.Thread(target=work) for _ in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    done.wait()
    seconds, waited = time.perf_counter() - start, measure.waiting() - before
    done.wait()
    assert waited > seconds / 2


def test_elsewhere_a_core_taken_away_spoils_a_block(monkeypatch):
    monkeypatch.setattr(measure.sys, "platform", "darwin")
    monkeypatch.setattr(measure.resource, "getrusage", lambda who: SimpleNamespace(ru_nivcsw=3))
    assert measure.waiting() == 3


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 8, got 3"):
        in_turn({}, rounds=3)
