"""csrc/cuda's boundary compiled without CUDA, as an op on CPU tensors whose launches are answered in Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from swin_fast import ops

ROOT = Path(__file__).parents[2]
ARCHITECTURES = "sm_80,sm_86,sm_90a,compute_100"
SOURCES = [
    Path(__file__).with_name("stand_in.cpp"),
    *(ROOT / "csrc/cuda" / f"{n}.cpp" for n in ("window_attention", "support")),
]
SUFFIX = "_stand_in"
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


def compiler() -> str | None:
    return shutil.which("c++") or shutil.which("g++")


def build(folder: Path, optimise: str = "-O1") -> Path:
    """The library, compiled against the torch that runs; kept in `folder` from one call to the next."""
    torch_folder = Path(torch.__file__).parent
    target = folder / f"stand_in{optimise}-{torch.__version__}.so"
    inputs = [*SOURCES, *(ROOT / "csrc").glob("c*/*.h"), *Path(__file__).parent.glob("include/*.h")]
    if target.is_file() and target.stat().st_mtime > max(file.stat().st_mtime for file in inputs):
        return target
    flags = ["-std=c++17", optimise, "-fPIC", "-shared", "-DUSE_CUDA"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f'-DSWIN_FAST_CUDA_ARCHITECTURES="{ARCHITECTURES}"']
    flags += ["-isystem", str(Path(__file__).with_name("include")), "-isystem", str(torch_folder / "include")]
    link = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    run([compiler(), *flags, *map(str, SOURCES), *link, "-o", str(target)])
    return target


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")


class StandIn:
    """The loaded library; `op` is the op with autograd. One per process, since an op is registered once."""

    def __init__(self, library: Path):
        ops._define_differentiable(SUFFIX)
        self.op = getattr(torch.ops.swin_fast, f"window_attention{SUFFIX}").default
        self.backward_op = getattr(torch.ops.swin_fast, f"window_attention_backward{SUFFIX}").default
        self.library = ctypes.CDLL(str(library))
        self.library.stand_in_params_bytes.restype = ctypes.c_size_t
        self.library.stand_in_workspace.restype = ctypes.c_int64
        self.library.stand_in_workspace.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self.library.stand_in_mode.restype = self.library.stand_in_mode.argtypes = None
        self.library.stand_in_mode.argtypes = [ctypes.c_int64]
        self._launch = None

    def answer(self, launch: Callable[[int, bool, int], int] | None) -> None:
        """Call `launch(mode, backward, address of CudaParams)` in every launch; it returns a cudaError_t."""
        self._launch = LAUNCH(lambda mode, backward, params: launch(mode, bool(backward), params)) if launch else None
        self.library.stand_in_on_launch(self._launch or ctypes.cast(None, LAUNCH))

    def hand_on(self, everything: bool) -> None:
        self.library.stand_in_mode(int(everything))

    def device(self, *, driver=13000, capability=(9, 0), multiprocessors=132, per_block=227 << 10) -> None:
        self.library.stand_in_device(driver, *capability, multiprocessors, per_block, per_block + 1024)
