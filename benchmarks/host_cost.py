"""What one call costs the host, in microseconds, with the CUDA backend and with Triton; needs a compiler and no GPU.

    OMP_NUM_THREADS=1 python -m benchmarks.host_cost

A GPU waits for the host in small calls. Everything runs as on a machine with a GPU, but on both sides tensors and
results are in the CPU's memory (from torch's CPU allocator), no device is made current, torch is not asked for its
current stream, and the launch itself does nothing. In detail:

- cuda: the boundary of csrc/cuda over tests/cuda/stand_in.cpp. CUDA's runtime, which the library calls to launch, is
  left out with the driver.
- triton: the backend's own Python, JITFunction.run and Triton's compiled launcher, over benchmarks/fake_driver.c. The
  choice of a backend in Python, which comes before it on a GPU, is left out.

`op` is torch.ops: dispatcher, autograd, backend. `call` is functional.window_attention: argument checks and `op`. Times
are processor time of the calling thread.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from swin_fast import dispatch, functional, ops
from tests.cuda import stand_in

OPTIONS = {"num_heads": 3, "window_size": 7, "shift_size": 3}


def per_call(function: Callable[[], object], rounds: int = 40, seconds: float = 0.02) -> float:
    """Microseconds of processor time of one call: the least of a few rounds, so that other processes hardly count."""
    count = 1
    while _spent(function, count) < seconds:
        count *= 2
    return min(_spent(function, count) for _ in range(rounds)) / count * 1e6


def _spent(function: Callable[[], object], count: int) -> float:
    begin = time.thread_time()
    for _ in range(count):
        function()
    return time.thread_time() - begin


def cuda_op(folder: Path):
    """The op with the CUDA backend's boundary under it."""
    return stand_in.StandIn(stand_in.build(folder, "-O3")).op


def triton_op(folder: Path):
    """The op with the Triton backend under it, and the count of its launches."""
    driver = folder / "libcuda.so.1"
    source = Path(__file__).with_name("fake_driver.c")
    flags = ["-O2", "-shared", "-fPIC", "-x", "c", str(source), "-Wl,-soname,libcuda.so.1"]
    stand_in.run([stand_in.compiler(), *flags, "-o", str(driver)])
    os.environ |= {"TRITON_LIBCUDA_PATH": str(folder), "TRITON_CACHE_DIR": str(folder / "cache")}
    library = ctypes.CDLL(str(driver), ctypes.RTLD_GLOBAL)  # before Triton asks for a library of this name

    import triton
    from triton.backends.nvidia.driver import CudaDriver

    from swin_fast.triton_kernels import window_attention

    class NoDevice(CudaDriver):
        def __init__(self):
            super().__init__()
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.set_current_device = lambda device: None
            self.get_device_capability = lambda device=0: (9, 0)

    triton.runtime.driver.set_active(NoDevice())
    window_attention._on = lambda device: contextlib.nullcontext()
    window_attention._device = lambda device: ("NVIDIA H100", 132)
    op = ops.define_pair("_host_cost", window_attention.forward, window_attention.backward, "CPU")
    return op, library.fake_driver_launches


def measure(op, dtype: torch.dtype) -> dict[str, float]:
    """Microseconds of a small call of `op`: what is called -> how long."""
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 14, 14, 3 * 96, generator=g).to(dtype)
    table = torch.randn(169, 3, generator=g).to(dtype)
    grad = torch.randn(1, 14, 14, 96, generator=g).to(dtype)
    call = (qkv, table, None, None, None, None, None, 3, (7, 7), (3, 3), 32**-0.5, False, -100.0, 0.0, False)
    backward = getattr(torch.ops.swin_fast, op.name().split("::")[1].replace("attention", "attention_backward")).default
    routed = contextlib.ExitStack()
    with routed:
        for module, name, value in ((dispatch, "road", lambda _: "interpreted"), (ops, "interpreted", lambda: op)):
            before = getattr(module, name)
            setattr(module, name, value)
            routed.callback(setattr, module, name, before)
        leaves = [t.clone().requires_grad_() for t in (qkv, table)]

        def in_training():
            return functional.window_attention(*leaves, **OPTIONS)

        with torch.no_grad():
            return {
                "forward, op": per_call(lambda: op(*call)),
                "forward, call": per_call(lambda: functional.window_attention(qkv, table, **OPTIONS)),
                "backward, op": per_call(lambda: backward(grad, qkv.new_empty(0), *call[:-1], 3)),
                "forward in training, call": per_call(torch.enable_grad()(in_training)),
            }


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.host_cost", description=__doc__.split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours = cuda_op(Path(folder))
        triton, launches = triton_op(Path(folder))
        print(f"{'microseconds a call':<36}{'cuda':>8}{'triton':>8}{'ratio':>8}")
        for dtype in (torch.bfloat16, torch.float32):
            before = launches()
            theirs = measure(triton, dtype)
            if launches() == before:
                raise RuntimeError("Triton launched nothing, so there is nothing to compare with")
            for what, microseconds in measure(ours, dtype).items():
                ratio = theirs[what] / microseconds
                print(f"{f'{str(dtype)[6:]}, {what}':<36}{microseconds:8.1f}{theirs[what]:8.1f}{ratio:8.1f}")


if __name__ == "__main__":
    main()
