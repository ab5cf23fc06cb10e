"""What a kernel may read and write, and when: each fault is reported with its thread and its line."""

from __future__ import annotations

import pytest
import torch

from .machine import Fault

LINE = r"\[standin_kernels\.cpp:\d+\]"


@pytest.fixture
def run(standin):
    """Runs one access of the kernel `memory` between an input and an output of 8 floats each, and gives the output."""

    def call(mode: int, at: int, offset: int = 0, shared: int = 32) -> torch.Tensor:
        source = standin.memory(torch.arange(8.0), "input", read_only=True, offset=offset)[0]
        target, out = standin.memory(torch.empty(8), "output", written=False)
        standin("memory", source, target, numbers=(mode, at), threads=1, shared=shared)
        return out

    return call


GOOD = [(0, 7, 7.0), (1, 7, None), (4, 7, None), (5, 0, 1.0), (6, 4, 4.0), (7, 3, 3.0), (9, 30, 2.0**30)]
BAD = [
    (0, 8, "read of 4 bytes of global memory outside of every tensor: 4 bytes beyond input"),
    (0, -1, "read of 4 bytes of global memory outside of every tensor: 4 bytes before input"),
    (1, 8, "write of 4 bytes of global memory outside of every tensor: 4 bytes beyond output"),
    (2, 0, "write to input at byte 0, an input"),
    (3, 1, "read of output at byte 4, which nobody wrote"),
    (4, 8, "write of 4 bytes of shared memory at byte 32, outside of its 32 bytes"),
    (4, -1, "write of 4 bytes of shared memory at byte -4, outside of its 32 bytes"),
    (5, 1, "read of shared memory at byte 4 .*, which nobody wrote"),
    (6, 1, r"pointer 0x\w+ is null or no multiple of the 16 bytes"),
    (7, 4, r"index outside of an array \(4\)"),
    (8, 0, "read of 4 bytes at 0x40, no memory of the kernel"),
    (9, 32, r"shift by more bits than there are \(32\)"),
]


@pytest.mark.parametrize("mode, at, value", GOOD)
def test_right_accesses(run, mode, at, value):
    out = run(mode, at)
    if value is not None:
        assert out[0] == value


@pytest.mark.parametrize("mode, at, message", BAD)
def test_wrong_accesses(run, mode, at, message):
    with pytest.raises(Fault, match=r"block \(0, 0, 0\) thread \(0, 0, 0\), lane 0 of warp 0: " + message) as fault:
        run(mode, at)
    assert fault.match(LINE)


def test_alignment_is_that_of_the_address(run):
    with pytest.raises(Fault, match="no multiple of the 16 bytes"):
        run(6, 0, offset=4)
    assert run(6, 3, offset=4)[0] == 3


def test_blocks_do_not_share_what_one_of_them_writes(standin):
    for mode, ok in ((0, True), (1, False), (2, False)):
        address, _ = standin.memory(torch.zeros(4), "sum")
        if ok:
            standin("blocks", address, numbers=(mode,), blocks=4, threads=1)
            standin("blocks", address, numbers=(mode,), blocks=4, threads=1)  # another launch may
            continue
        with pytest.raises(Fault, match=r"of sum at byte \d+, which another block of this launch also uses " + LINE):
            standin("blocks", address, numbers=(mode,), blocks=4, threads=1)


def copies(standin, mode: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = torch.randint(0, 256, (2, 32, 16), dtype=torch.uint8)
    source = standin.memory(data, "source", read_only=True)[0]
    address, got = standin.memory(torch.empty_like(data), "copied", written=False)
    standin("copies", source, address, numbers=(mode,))
    return data, got


def test_asynchronous_copies(standin):
    data, got = copies(standin, 7)
    assert torch.equal(got, data)
    data, got = copies(standin, 3)  # a neighbour's, after a barrier
    assert torch.equal(got, data.roll(-1, 1))
    data, got = copies(standin, 5)  # zeros behind the first `lane % 17` bytes
    for lane in range(32):
        data[0, lane, lane % 17 :] = 0
    assert torch.equal(got, data)


@pytest.mark.parametrize(
    "mode, message",
    [
        (0, r"at byte \d+, where an asynchronous copy of thread \d+ has not been waited for"),
        (1, r"at byte (5[1-9]\d|[6-9]\d\d|1\d\d\d), where an asynchronous copy"),  # the first group has come
        (2, "has not been waited for|race: read|which nobody wrote"),
        (6, None),  # the wait commits nothing, but the second commit takes both
    ],
)
def test_copies_that_are_not_waited_for(standin, mode, message):
    if message is None:
        data, got = copies(standin, mode)
        assert torch.equal(got, data)
        return
    with pytest.raises(Fault, match=message):
        copies(standin, mode)


def test_copies_are_aligned_and_end_before_their_thread(standin):
    source = standin.memory(torch.zeros(64), "source", read_only=True)[0]
    standin("copy_alignment", source, numbers=(16, 32, 1))
    for to, of in ((8, 0), (0, 4)):
        with pytest.raises(Fault, match="asynchronous copy of 16 bytes is not aligned"):
            standin("copy_alignment", source, numbers=(to, of, 1))
    with pytest.raises(Fault, match="the thread ends with 1 asynchronous copies not waited for"):
        standin("copy_alignment", source, numbers=(0, 0, 0))
    with pytest.raises(Fault, match="read of 16 bytes of global memory outside"):
        standin("copy_alignment", source, numbers=(0, 256, 1))
    with pytest.raises(Fault, match="write of 16 bytes of shared memory at byte 4096, outside of its 4096"):
        standin("copy_alignment", source, numbers=(4096, 0, 1))
