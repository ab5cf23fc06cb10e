"""Which backend runs a call of the op, and why.

SWIN_FAST_BACKEND is read once, at import; `use_backend` changes the choice for a block. A tensor that is not on a GPU
is settled before the op (`road`). On a GPU the choice is made inside the op, behind the dispatcher, so that a compiled
or exported graph holds one node, whatever runs when the graph does: the CUDA library, where it is loaded, takes what is
compiled in, and hands everything else on to Python, which asks `gpu_backend`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from shutil import which

import torch

from . import cuda_kernels, native

BACKENDS = ("auto", "cpu", "triton", "cuda", "reference")
# best first; CPU tensors take the Triton kernels, in Triton's interpreter, only when asked to
ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
NO_DATA = "a meta tensor holds no numbers: only shapes are worked out"
TRITON_MINIMUM = (3, 6)

_backend = os.environ.get("SWIN_FAST_BACKEND", "").lower() or "auto"
_said: set[str] = set()


def forced_backend() -> str:
    """The backend asked for: "auto" unless SWIN_FAST_BACKEND or `use_backend` says otherwise."""
    if _backend not in BACKENDS:
        raise ValueError(f"SWIN_FAST_BACKEND must be one of {BACKENDS}, got {_backend!r}")
    return _backend


@contextmanager
def use_backend(name: str):
    """Run the op on the named backend inside the block: "auto", "cpu", "triton", "cuda" or "reference" (plain PyTorch).

    The choice is one for the process, not for a thread. Asking for a backend that cannot run raises in the call. A
    backward on a GPU chooses when it runs; a backward on the CPU runs where its forward did.
    """
    global _backend
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {name!r}")
    before, _backend = _backend, name
    tell_cuda()
    try:
        yield
    finally:
        _backend = before
        tell_cuda()


def tell_cuda() -> None:
    """Tell the CUDA library, which takes a tensor on a GPU first, whether its kernels are wanted."""
    if native.cuda_loaded:
        torch.ops.swin_fast.cuda_mode(0 if _backend in ("auto", "cuda") else 1)


@dataclass(frozen=True)
class Device:
    """What the choice needs to know of a device. `capability` is NVIDIA's (major, minor), `arch` AMD's ("gfx942")."""

    type: str
    index: int | None = None
    name: str = ""
    capability: tuple[int, int] | None = None
    arch: str = ""

    def __str__(self) -> str:
        chip = self.arch or ("" if self.capability is None else "sm_{}{}".format(*self.capability))
        return f"{self.type} ({self.name}, {chip})" if chip else self.type


@dataclass(frozen=True)
class Call:
    """One call of the op, as far as the choice of a backend goes; the last six say which options are there."""

    device: Device
    dtype: torch.dtype
    batch: int
    grid: tuple[int, ...]
    window_size: tuple[int, ...]
    num_heads: int
    head_dim: int
    bias_table: bool = False
    bias_index: bool = False
    pad_qkv: bool = False
    mask: bool = False
    logit_scale: bool = False
    dropout: bool = False

    def __str__(self) -> str:
        grid, window = ("x".join(map(str, t)) for t in (self.grid, self.window_size))
        options = [k for k in list(self.__dataclass_fields__)[7:] if getattr(self, k)]
        what = f"batch {self.batch}, map {grid}, window {window}, {self.num_heads} heads of {self.head_dim}"
        return f"{what}, {str(self.dtype)[6:]}, {', '.join(options) or 'no option'}, on {self.device}"


@lru_cache(maxsize=64)
def describe(device: torch.device) -> Device:
    """The device as `Call` has it."""
    if device.type != "cuda":
        return Device(device.type, device.index)
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return Device("cuda", index, properties.name, arch=properties.gcnArchName.partition(":")[0])
    return Device("cuda", index, properties.name, (properties.major, properties.minor))


@lru_cache(maxsize=1)
def triton_reason() -> str:
    """Why Triton cannot be used in this process, whatever the GPU; empty where it can. Imports it."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    try:
        import triton
    except Exception as error:  # a broken package may raise anything, and an op must still run
        return f"the package triton does not load: {error}"
    if tuple(int(n) for n in triton.__version__.split(".")[:2]) < TRITON_MINIMUM:
        return f"triton {triton.__version__} is older than {'.'.join(map(str, TRITON_MINIMUM))}"
    return ""


def interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@dataclass(frozen=True)
class Verdict:
    """Truthy where the backend can run the call; else `reason` says why not, to follow "because" or "but"."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def can_run_cpu(call: Call) -> Verdict:
    """The C++ kernels of csrc/cpu: every call on a CPU tensor."""
    return Verdict(_why_not_cpu(call.device.type))


def can_run_triton(call: Call) -> Verdict:
    """The Triton kernels: every call but float64 on a GPU that Triton knows; CPU tensors in its interpreter."""
    device = call.device
    if device.type == "meta":
        return Verdict(NO_DATA)
    if device.type == "cpu" and not interpreted():
        return Verdict(
            "a CPU tensor takes Triton kernels only in the interpreter, with TRITON_INTERPRET=1 set at start"
        )
    if device.type not in ("cpu", "cuda"):
        return Verdict(f"there is no Triton kernel for {device.type} tensors")
    if call.dtype == torch.float64:
        return Verdict("the Triton kernels sum in float32, and the tensor is float64")
    if device.capability is not None and device.capability < (8, 0):
        major, minor = device.capability
        return Verdict(f"Triton needs compute capability 8.0, and {device.name} has {major}.{minor}")
    reason = triton_reason()
    if not reason and device.type == "cuda" and not (os.environ.get("CC") or which("gcc") or which("clang")):
        reason = "Triton builds its link to the driver with a C compiler, and there is none: no CC, gcc or clang"
    return Verdict(reason)


def can_run_cuda(call: Call) -> Verdict:
    """The kernels of csrc/cuda: NVIDIA GPUs, the window sizes and head dims that are compiled in."""
    device = call.device
    if device.type == "meta":
        return Verdict(NO_DATA)
    if device.type != "cuda":
        return Verdict(f"there is no CUDA kernel for {device.type} tensors")
    if device.arch:
        return Verdict("the CUDA kernels are for NVIDIA GPUs")
    if native.cuda_reason:
        return Verdict(native.cuda_reason)
    return Verdict(cuda_kernels.why_not(call))


def can_run_reference(call: Call) -> Verdict:
    """Plain PyTorch: everything."""
    return Verdict(NO_DATA if call.device.type == "meta" else "")


CAN_RUN: dict[str, Callable[[Call], Verdict]] = {
    "cpu": can_run_cpu,
    "triton": can_run_triton,
    "cuda": can_run_cuda,
    "reference": can_run_reference,
}


def choose(call: Call) -> tuple[str, dict[str, str]]:
    """The backend that runs `call`, and for each other one why it does not.

    The name is "" where nothing runs: the backend that was asked for cannot, or the tensor holds no data.
    """
    forced = forced_backend()
    order = ORDER.get(call.device.type, ("reference",)) if forced == "auto" else (forced,)
    reasons = {name: CAN_RUN[name](call).reason for name in BACKENDS[1:]}
    chosen = next((name for name in order if not reasons[name]), "")
    for name, reason in reasons.items():
        if name == chosen or reason:
            continue
        if forced != "auto":
            reasons[name] = f"the backend is set to {forced!r}"
        else:
            reasons[name] = f"{chosen} comes first" if name in order else "it runs on this device only when asked for"
    reasons.pop(chosen, None)
    return chosen, reasons


def road(device_type: str) -> str:
    """What the front door calls for a tensor of this device: "op", "interpreted" (the op on CPU tensors in Triton's
    interpreter) or "reference".

    Raises RuntimeError where a backend that was asked for by name takes no such tensor. Cheap, and torch.compile can
    trace it.
    """
    forced = forced_backend()
    if forced == "reference":
        return "reference"
    if device_type in ("cuda", "meta"):
        return "op"  # a GPU's backend is chosen inside it; a meta tensor takes its shape function
    if forced in ("triton", "cuda"):
        verdict = CAN_RUN[forced](Call(Device(device_type), torch.float32, 1, (1, 1), (1, 1), 1, 2))
        if not verdict:
            raise RuntimeError(_refusal(forced, verdict.reason))
        return "interpreted"
    reason = _why_not_cpu(device_type)
    if not reason:
        return "op"
    if forced == "cpu":
        raise RuntimeError(_refusal("cpu", reason))
    if not torch.compiler.is_compiling():
        _say_slow(reason)
    return "reference"


@lru_cache(maxsize=4096)
def _gpu_backend(
    forced: str,
    device: torch.device,
    dtype: torch.dtype,
    shape: torch.Size,
    num_heads: int,
    window: tuple,
    there: tuple,
) -> str:
    call = Call(
        describe(device), dtype, shape[0], tuple(shape[1:-1]), window, num_heads, shape[-1] // num_heads // 3, *there
    )
    chosen, reasons = choose(call)
    if not chosen:
        raise RuntimeError(_refusal(forced, reasons[forced]))
    if chosen == "cuda":
        raise RuntimeError(f"swin_fast: the CUDA library handed on a call that its table has: {call}")
    if chosen == "reference" and forced == "auto":
        _say_slow("; ".join(f"{name}: {reasons[name]}" for name in ORDER["cuda"][:-1]))
    return chosen


def gpu_backend(qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, num_heads, window_size, dropout_p) -> str:
    """The backend that runs these arguments of the op: "triton" or "reference", for the CUDA library had its turn.

    Raises RuntimeError where one was asked for by name and cannot. Asked in every call, so the answer is kept.
    """
    there = (
        bias_table is not None, bias_index is not None, pad_qkv is not None, mask is not None, logit_scale is not None,
        dropout_p > 0,
    )  # fmt: skip
    return _gpu_backend(_backend, qkv.device, qkv.dtype, qkv.shape, num_heads, tuple(window_size), there)


def _why_not_cpu(device_type: str) -> str:
    if device_type == "meta":
        return NO_DATA
    return native.reason if device_type == "cpu" else f"there is no C++ kernel for {device_type} tensors"


def _refusal(name: str, reason: str) -> str:
    return f"swin_fast: the backend {name!r} was asked for, but {reason}"


def _say_slow(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f"swin_fast: window attention runs as plain PyTorch, because {reason}", stacklevel=4)
