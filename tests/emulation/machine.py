"""One library of emulated kernels: memory that kernels may touch, one run with a seed, and the faults in words."""

from __future__ import annotations

import ctypes
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


class Fault(AssertionError):
    """What a kernel did wrong, with the block and thread that did it and the line of its source."""


class Machine:
    """A library that `compiler.Compiler` built. It holds the machine's state, so it is for one thread at a time."""

    def __init__(self, library: Path):
        self.path, self.library = library, ctypes.CDLL(str(library))
        self._allocate = self.library.emulation_allocate
        self._allocate.restype = ctypes.c_void_p
        self._allocate.argtypes = [ctypes.c_size_t] * 2 + [ctypes.c_bool] * 2 + [ctypes.c_char_p]
        self.library.emulation_take_fault.restype = ctypes.c_char_p
        self.library.emulation_seed.argtypes = [ctypes.c_uint64]

    def memory(
        self, like: Tensor, name: str, *, written: bool = True, read_only: bool = False, offset: int = 0
    ) -> tuple[int, Tensor]:
        """Kernel memory for the elements of a contiguous tensor: (its address, a tensor that lies in it).

        `written`: filled from `like`; else reading before writing is a fault. `offset`: bytes past a multiple of 256.
        """
        size = like.numel() * like.element_size()
        address = self._allocate(size, offset, written, read_only, name.encode())
        if size == 0:
            return address, like
        view = torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=like.dtype).view(like.shape)
        if written:
            view.copy_(like)
        else:
            view.view(torch.uint8).fill_(0xFF)
        return address, view

    def run(self, call: Callable[[], int]) -> None:
        """One call of a function of the library that launches kernels. Raises Fault where they did something wrong."""
        seed = int(os.environ.get("SWIN_FAST_EMULATION_SEED") or random.SystemRandom().randrange(2**32))
        print(f"emulation: SWIN_FAST_EMULATION_SEED={seed}")  # pytest shows it where a test fails
        self.library.emulation_seed(seed)
        status = call()
        message = self.library.emulation_take_fault().decode()
        if message:
            raise Fault(f"{self._with_lines(message)} (SWIN_FAST_EMULATION_SEED={seed})")
        if status:
            raise Fault(f"the launch was refused: error {status}")

    def free(self) -> None:
        """Ends the life of all memory; tensors that lie in it must not be used any more."""
        self.library.emulation_free_all()

    def _with_lines(self, message: str) -> str:
        """`message` with an instruction's offset replaced by the line it was compiled from."""

        def line(match: re.Match) -> str:
            command = ["addr2line", "-s", "-e", str(self.path), hex(int(match[1], 16) - 1)]
            try:
                return f" [{subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]}]"
            except (OSError, subprocess.CalledProcessError):
                return match[0]

        return re.sub(r" <([0-9a-f]+)>", line, message)
