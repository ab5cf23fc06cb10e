"""The kernels of csrc/cuda on CPU tensors: the same launch code as on a device, run by the stand-in."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from swin_fast.geometry import num_windows

from ..ops.cases import DIFFERENTIABLE, Case
from .compiler import HERE, Compiler
from .machine import Machine

CSRC = HERE.parents[1] / "csrc"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]  # as the kernels number them
OUTPUTS = {  # what they are called in CudaParams
    "out": "out",
    "qkv": "grad_qkv",
    "bias_table": "grad_bias",
    "pad_qkv": "grad_pad",
    "logit_scale": "grad_logit_scale",
}
CHUNK = 64  # tokens up to which a window is one chunk


@dataclass(frozen=True)
class Instance:
    """One compiled instance of the kernel templates: kind of product, padded head_dim, one chunk of keys."""

    mode: str  # "kFloat32", "kTf32", "kBFloat16", "kFloat16"
    head_dim: int
    one_chunk: bool

    @classmethod
    def of(cls, case: Case, dtype: torch.dtype, tf32: bool = False) -> Instance:
        modes = {torch.bfloat16: "kBFloat16", torch.float16: "kFloat16", torch.float32: "kTf32" if tf32 else "kFloat32"}
        tile = next(tile for tile in (16, 32, 64) if case.head_dim <= tile)
        return cls(modes[dtype], tile, prod(case.window) <= CHUNK)

    @property
    def defines(self) -> list[str]:
        values = {"MODE": self.mode, "HEAD_DIM": self.head_dim, "ONE_CHUNK": int(self.one_chunk)}
        return [f"-DEMULATED_{name}={value}" for name, value in values.items()]


@dataclass(frozen=True)
class Limits:
    """The facts of a device that a launch depends on.

    An sm_90 of one multiprocessor with room for one block: blocks have several windows even where there are few.
    """

    multiprocessors: int = 1
    shared_per_block: int = 227 << 10
    shared_per_multiprocessor: int = 1 << 10


FEW = Limits()
FULL = Limits(shared_per_multiprocessor=228 << 10)
CROWDED = Limits(shared_per_multiprocessor=89 << 10)  # room for the fewest blocks that copy ahead, three or four


class Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64 * 3) for name in ("grid", "window", "shift", "count")] + [
        (name, ctypes.c_bool) for name in ("roll_then_pad", "shifted", "padded")
    ]


class Params(ctypes.Structure):
    """CudaParams of window_attention_params.h, field by field."""

    _fields_ = [
        ("geometry", Geometry),
        ("batch", ctypes.c_int64),
        ("windows", ctypes.c_int64),
        ("heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("qkv", ctypes.c_void_p),
        ("qkv_stride", ctypes.c_int64 * 4),
        ("pad_qkv", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("lse", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("bias_dtype", ctypes.c_int),
        ("bias_rows", ctypes.c_int32),
        ("bias_index", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("mask_windows", ctypes.c_int64),
        ("logit_scale", ctypes.c_void_p),
        ("logit_scale_dtype", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("mask_value", ctypes.c_float),
        ("dropout_p", ctypes.c_double),
        ("dropout_seed", ctypes.c_void_p),
        ("grad_out", ctypes.c_void_p),
        ("grad_out_stride", ctypes.c_int64 * 4),
        ("grad_qkv", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
        ("grad_pad", ctypes.c_void_p),
        ("grad_logit_scale", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    ]


class DeviceLimits(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("multiprocessors", "shared_per_block", "shared_per_multiprocessor")]


class Kernels:
    """Builds instances of the kernels on demand and runs cases on them.

    `mutate` is given a copy of csrc/ to change before it is compiled.
    """

    def __init__(self, compiler: Compiler, folder: Path, mutate: Callable[[Path], None] = lambda csrc: None):
        self.compiler, self.source = compiler, folder
        shutil.copytree(CSRC / "cuda", folder / "csrc" / "cuda", ignore=shutil.ignore_patterns("*.cu", "*.cpp"))
        shutil.copytree(CSRC / "common", folder / "csrc" / "common", ignore=shutil.ignore_patterns("stable.h"))
        (folder / "csrc" / "cuda" / "ptx.cuh").unlink()  # the stand-in's, of the same name, is found instead
        mutate(folder / "csrc")
        self.machine = cache(self._machine)

    def _machine(self, instance: Instance, backward: bool) -> Machine:
        flags = [*instance.defines, f"-DEMULATED_BACKWARD={int(backward)}"]
        machine = Machine(self.compiler.library([(HERE / "window_attention.cpp", flags)], self.source))
        assert machine.library.emulated_params_bytes() == ctypes.sizeof(Params), "Params is not CudaParams any more"
        return machine

    def build(self, instances: Iterable[tuple[Instance, bool]]) -> None:
        """Compiles these (instance, whether for the backward) beside each other; a test would do one at a time."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda wanted: self._machine(*wanted), instances))

    def run(
        self,
        case: Case,
        tensors: dict,
        *,
        tf32: bool = False,
        limits: Limits = FEW,
        gradients: Sequence[str] = DIFFERENTIABLE,
    ) -> dict[str, Tensor]:
        """What `tests.ops.cases.run` gives for the same case and tensors: out, dq, dk, dv and d_<name>.

        `gradients` are the tensors that want one; without any, only the forward runs.
        """
        instance = Instance.of(case, tensors["qkv"].dtype, tf32)
        result = _Call(self.machine(instance, False), case, tensors, limits).run(("out",))
        wanted = [name for name in gradients if tensors[name] is not None]
        if wanted:
            result |= _Call(self.machine(instance, True), case, tensors, limits).run(wanted)
            if "qkv" in wanted:
                result.update(zip(("dq", "dk", "dv"), result.pop("d_qkv").chunk(3, -1), strict=True))
        return result


class _Call:
    """One launch: the tensors of a case as kernel memory, and the parameters that point to them."""

    def __init__(self, machine: Machine, case: Case, tensors: dict, limits: Limits):
        self.machine, self.case, self.tensors = machine, case, tensors
        self.limits = DeviceLimits(limits.multiprocessors, limits.shared_per_block, limits.shared_per_multiprocessor)
        self.params = Params(geometry=self._geometry())

    def _geometry(self) -> Geometry:
        case, lead = self.case, 3 - len(self.case.window)
        shift = (case.shift,) * len(case.window) if isinstance(case.shift, int) else case.shift
        count = num_windows(case.grid, case.window)
        geometry = Geometry(roll_then_pad=case.pad_order == "roll_then_pad", shifted=any(shift))
        geometry.padded = any(n * w != g for n, w, g in zip(count, case.window, case.grid, strict=True))
        for name, values, missing in (
            ("grid", case.grid, 1),
            ("window", case.window, 1),
            ("shift", shift, 0),
            ("count", count, 1),
        ):
            setattr(geometry, name, (ctypes.c_int64 * 3)(*(missing,) * lead, *values))
        return geometry

    def _fill(self) -> None:
        case, t, p = self.case, self.tensors, self.params
        qkv, seed = t["qkv"], None
        if case.dropout > 0:
            torch.manual_seed(case.seed)
            seed = torch.randint(2**62, (1,), dtype=torch.int64)  # as functional.window_attention draws it
        p.batch, p.windows = case.batch, prod(num_windows(case.grid, case.window))
        p.heads, p.head_dim, p.tokens = case.heads, case.head_dim, prod(case.window)
        p.scale = case.head_dim**-0.5 if case.scale is None else case.scale
        p.mask_value, p.dropout_p = case.mask_value, case.dropout
        p.qkv, p.qkv_stride = self._strided(qkv, "qkv")
        p.grad_out, p.grad_out_stride = self._strided(t["grad"], "grad_out")
        pad = t["pad_qkv"]
        p.pad_qkv = self._input(pad if pad is None else pad.to(qkv.dtype), "pad_qkv")
        p.bias, p.logit_scale = self._input(t["bias_table"], "bias"), self._input(t["logit_scale"], "logit_scale")
        if t["bias_table"] is not None:
            p.bias_dtype, p.bias_rows = DTYPES.index(t["bias_table"].dtype), len(t["bias_table"])
        if t["logit_scale"] is not None:
            p.logit_scale_dtype = DTYPES.index(t["logit_scale"].dtype)
        index, mask = t["bias_index"], t["mask"]
        p.bias_index = self._input(index if index is None else index.int(), "bias_index")
        p.mask = self._input(mask if mask is None else mask.float(), "mask")
        p.mask_windows = 0 if mask is None else len(mask)
        p.dropout_seed = self._input(seed, "dropout_seed")

    def _input(self, t: Tensor | None, name: str) -> int | None:
        return None if t is None else self.machine.memory(t.contiguous(), name, read_only=True)[0]

    def _strided(self, t: Tensor, name: str) -> tuple[int, ctypes.Array]:
        """The address of `t`, laid out as it is, at the same distance from a multiple of 16 bytes; and its strides."""
        t = t.detach()
        span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
        address, _ = self.machine.memory(t.as_strided((span,), (1,)), name, read_only=True, offset=t.data_ptr() % 16)
        grid = t.stride()[1:-1]
        return address, (ctypes.c_int64 * 4)(t.stride(0), *(0,) * (3 - len(grid)), *grid)

    def run(self, results: Sequence[str]) -> dict[str, Tensor]:
        """Fills memory, launches, reads `results` back: "out", or the names of tensors that want a gradient."""
        try:
            self._fill()
            views = {}
            for name in results:
                like = self.tensors["grad" if name == "out" else name]
                stored = like.to(self.tensors["qkv"].dtype) if name == "pad_qkv" else like
                address, view = self.machine.memory(stored.detach().contiguous(), OUTPUTS[name], written=False)
                setattr(self.params, OUTPUTS[name], address)
                views["out" if name == "out" else f"d_{name}"] = view, like.dtype
            self._launch()
            return {name: view.clone().to(dtype) for name, (view, dtype) in views.items()}
        finally:
            self.machine.free()

    def _launch(self) -> None:
        library, pointers = self.machine.library, (ctypes.byref(self.params), ctypes.byref(self.limits))
        library.emulated_workspace.restype = ctypes.c_int64
        size = library.emulated_workspace(*pointers)
        assert size >= 0, "the kernels do not fit into the device's shared memory"
        self.params.workspace, _ = self.machine.memory(torch.empty(size // 4), "workspace", written=False)
        self.machine.run(lambda: library.emulated_launch(*pointers))
