"""Shuffles, votes, barriers and their order, and the reports where threads wait for others that do not come."""

from __future__ import annotations

import pytest
import torch

from .machine import Fault


def integers(standin, n: int, name: str = "out") -> tuple[int, torch.Tensor]:
    return standin.memory(torch.empty(n, dtype=torch.int32), name, written=False)


@pytest.mark.parametrize("width", [32, 16, 4])
@pytest.mark.parametrize("by", [0, 1, 3, 9, 31])
def test_shuffles(standin, by, width):
    values = torch.arange(32, dtype=torch.int32) * 7
    source = standin.memory(values, "values", read_only=True)[0]
    lane = torch.arange(32)
    first, last = lane // width * width, lane // width * width + width - 1
    expected = [first + by % width, lane ^ by, lane - by, lane + by]  # by index, xor, up, down
    expected[1:] = [
        torch.where(cond, e, lane)  # out of the segment: the lane's own value
        for e, cond in zip(expected[1:], (expected[1] <= last, expected[2] >= first, expected[3] <= last), strict=True)
    ]
    for kind, lanes in enumerate(expected):
        address, got = integers(standin, 32)
        standin("shuffle", source, address, numbers=(kind, by, width))
        assert torch.equal(got, values[lanes]), kind


def test_shuffle_from_a_lane_that_does_not_take_part(standin):
    address, got = integers(standin, 32)
    standin("shuffle_upper_half", address, numbers=(20,))
    assert got[16:].eq(20).all()
    with pytest.raises(Fault, match="reads from lane 3, which does not take part"):
        standin("shuffle_upper_half", address, numbers=(3,))


def test_votes(standin):
    address, got = integers(standin, 96)
    standin("votes", address, threads=96)
    expected = [0xAAAAAAAA + (warp == 0) + 2 * (warp == 0) + 4 * 48 for warp in range(3)]
    assert [v & 0xFFFFFFFF for v in got[::32].tolist()] == expected and torch.equal(got[::32], got[31::32])


@pytest.mark.parametrize("threads", [32, 128, 100])
def test_barriers(standin, threads):
    address, got = integers(standin, 3 * threads)
    standin("barriers", address, numbers=(1,), blocks=3, threads=threads)
    assert got.eq(threads * (threads - 1) + threads).all()


def test_a_barrier_left_out_is_a_race(standin):
    address, _ = integers(standin, 128)
    with pytest.raises(
        Fault, match=r"race: (write|read) of shared memory at byte \d+, which thread \d+ .*standin_kernels"
    ):
        standin("barriers", address, numbers=(0,), threads=128)


def test_named_barriers_order_their_warps_only(standin):
    address, got = integers(standin, 128)
    standin("named_barriers", address, numbers=(1,), threads=128)
    assert torch.equal(got, torch.arange(128, dtype=torch.int32) ^ 32)
    with pytest.raises(Fault, match="which nobody wrote|race: read"):
        standin("named_barriers", address, numbers=(0,), threads=128)


DIVERGENCE = [
    (
        0,
        r"others that will not come:\n.*lane 0 of warp 0 has ended\n.*warp 1 is at a barrier \(standin_",
    ),
    (1, r"barrier 0: others of it are at standin_kernels.cpp:\d+ \[standin_kernels.cpp:\d+\]"),
    (2, r"lane 0 of warp 0 is at a shuffle .*\n.*lane 5 of warp 0 has ended\n"),
    (3, "a shuffle with mask 0000ffff, which leaves the running lane out"),
    (4, r"lane 0 of warp 0 is at a barrier .*\n.*lane 16 of warp 0 is at a vote"),
    (5, "barrier of 48 threads: not whole warps"),
]


@pytest.mark.parametrize("mode, message", DIVERGENCE)
def test_divergence(standin, mode, message):
    address, _ = integers(standin, 64)
    with pytest.raises(Fault, match=message):
        standin("diverge", address, numbers=(mode,), threads=64)
    standin("neighbour", address, numbers=(1,))  # the machine works again


@pytest.mark.parametrize(
    "kernel, message", [("neighbour", "which nobody wrote|race: read"), ("overwrite", "race: (read|write)")]
)
def test_lanes_of_a_warp_are_not_in_step(standin, kernel, message):
    address, got = integers(standin, 32)
    standin(kernel, address, numbers=(1,))
    if kernel == "neighbour":
        assert torch.equal(got, (torch.arange(32, dtype=torch.int32) + 1) % 32)
    for _ in range(8):  # in whatever order they run
        with pytest.raises(Fault, match=message):
            standin(kernel, address, numbers=(0,))


def test_a_seed_fixes_the_order_and_another_changes_it(standin, monkeypatch):
    def order(seed: int) -> list[int]:
        monkeypatch.setenv("SWIN_FAST_EMULATION_SEED", str(seed))
        address, got = integers(standin, 8)
        standin("order", address, threads=256)
        return got.tolist()

    orders = [order(seed) for seed in range(6)]
    assert orders == [order(seed) for seed in range(6)]
    assert all(sorted(o) == list(range(8)) for o in orders) and len(set(map(tuple, orders))) > 3


def test_a_fault_names_its_seed(standin, monkeypatch):
    monkeypatch.setenv("SWIN_FAST_EMULATION_SEED", "77")
    with pytest.raises(Fault, match=r"\(SWIN_FAST_EMULATION_SEED=77\)"):
        standin("diverge", integers(standin, 64)[0], numbers=(0,), threads=64)


@pytest.mark.parametrize(
    "options", [dict(threads=1025), dict(threads=0), dict(blocks=0), dict(shared=(48 << 10) + 1)], ids=str
)
def test_launches_that_a_device_refuses(standin, options):
    with pytest.raises(Fault, match="the launch was refused: error 9"):
        standin("neighbour", 0, **options)
