"""The emulation finds what it is there to find: kernels with one fault each, made by changing a line, fail."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..ops.cases import Case
from .cases import LONG_RUNS, MANY_WINDOWS
from .modes import MODES, check
from .window_attention import CROWDED, FEW, FULL, Instance, Kernels, Limits

ONE_CHUNK = Case((7, 7), (10, 9), shift=(3, 2), head_dim=32, heads=1, pad="attended")
MANY = Case((12, 12), (12, 13), shift=5, head_dim=30, heads=1, batch=1)
INACCURATE = r"(largest|root mean square) error .*, allowed"


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in a file of csrc/cuda; the case then fails with a message that `message` matches."""

    name: str
    file: str
    old: str
    new: str
    message: str
    case: Case = ONE_CHUNK
    mode: str = "bfloat16"
    backward: bool = False
    limits: Limits = FEW

    def plant(self, csrc: Path) -> None:
        path = csrc / "cuda" / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} places like {self.old!r}, not one"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


FORWARD = "window_attention_forward.cuh"
BACKWARD = "window_attention_backward.cuh"
FAULTS = [
    # an index off by one
    Fault(
        "a token one to the right",
        "tokens.cuh",
        "* g.grid[2] + x.position);",
        "* g.grid[2] + x.position + 1);",
        "beyond out|another block of this launch|" + INACCURATE,
    ),
    Fault(
        "the center of the bias table",
        "tokens.cuh",
        "* (2 * x - 1) + x - 1;",
        "* (2 * x - 1) + x;",
        "which nobody wrote|" + INACCURATE,
    ),
    Fault(
        "the last row of the bias table",
        "softmax.cuh",
        "r < p.bias_rows;",
        "r < p.bias_rows - 1;",
        "which nobody wrote",
    ),
    Fault("the last key", "softmax.cuh", "i % 2 >= p.tokens)", "i % 2 >= p.tokens - 1)", INACCURATE),
    Fault(
        "the slice of a block in the workspace",
        BACKWARD,
        "blockIdx.x * partial_sums(params).size",
        "blockIdx.x * (partial_sums(params).size - 1)",
        "which another block of this launch also uses|which nobody wrote|" + INACCURATE,
        backward=True,
        limits=Limits(3),
    ),
    Fault(
        "the last block of a sum",
        "window_attention_reduce.cuh",
        "run < slices.runs;",
        "run < slices.runs - 1;",
        INACCURATE,
        backward=True,
        limits=Limits(3),
    ),
    Fault(
        "rows beyond a chunk",
        "product_float.cuh",
        "count = rows < kChunk ? rows : kChunk;",
        "count = rows;",
        "outside of|which nobody wrote|race: |" + INACCURATE,
        MANY,
        "float32",
        backward=True,
    ),
    # a barrier or a wait removed
    Fault(
        "tiles read before everybody's copies have come",
        FORWARD,
        "ptx::copy_async_wait<0>();\n      __syncthreads();",
        "ptx::copy_async_wait<0>();",
        "race: read|has not been waited for|which nobody wrote",
    ),
    Fault("tiles read before copies have come", FORWARD, "ptx::copy_async_wait<0>();", "", "has not been waited for"),
    Fault(
        "tiles read before the copies made ahead have come",
        FORWARD,
        "ptx::copy_async_wait<1>();",
        "ptx::copy_async_wait<2>();",
        "has not been waited for",
        MANY_WINDOWS[0],
        limits=FULL,
    ),
    Fault(
        "tiles overwritten by the next window",
        FORWARD,
        "__syncthreads();  // tokens and tiles have been read",
        "",
        "race: ",
    ),
    Fault(
        "tiles overwritten by the window after the next",
        FORWARD,
        "__syncthreads();  // tokens and tiles have been read",
        "",
        "race: ",
        LONG_RUNS[0],
        limits=CROWDED,
    ),
    Fault(
        "tiles overwritten by the next chunk",
        FORWARD,
        "__syncthreads();  // the last chunk has been read",
        ";",
        "race: ",
        MANY,
    ),
    Fault(
        "dS written over P",
        BACKWARD,
        "__syncthreads();\n        if (has_queries) {\n          put_rows",
        "if (has_queries) {\n          put_rows",
        "race: ",
        backward=True,
    ),
    Fault(
        "a window's gradients written over the copies of the next",
        BACKWARD,
        "const int at = i & (stages - 1);",
        "const int at = 0;",
        "has not been waited for|which nobody wrote|race: |" + INACCURATE,
        LONG_RUNS[0],
        backward=True,
        limits=FULL,
    ),
    Fault(
        "gradients of a window stored while the window after the next comes",
        BACKWARD,
        "__syncthreads();  // tokens and tiles have been read",
        "",
        "race: ",
        LONG_RUNS[0],
        backward=True,
        limits=FULL,
    ),
    Fault(
        "tiles of the backward read before the copies made ahead have come",
        BACKWARD,
        "ptx::copy_async_wait<1>();",
        "ptx::copy_async_wait<2>();",
        "has not been waited for",
        LONG_RUNS[0],
        backward=True,
        limits=FULL,
    ),
    # a fragment laid out wrongly
    Fault(
        "the halves of the right operand",
        "product_half.cuh",
        "Numbers::mma(scores[n], left, right[0], right[1]);",
        "Numbers::mma(scores[n], left, right[1], right[0]);",
        INACCURATE,
    ),
    Fault(
        "values that are not transposed",
        "product_half.cuh",
        "ptx::load_matrix_x4_trans(right,",
        "ptx::load_matrix_x4(right,",
        INACCURATE,
    ),
    Fault(
        "the rows of the accumulator",
        "tile_io.cuh",
        "tile += lane / 4 * kStride + lane % 4 * 2;",
        "tile += lane % 8 * kStride + lane / 8 * 2;",
        INACCURATE,
    ),
    Fault(
        "the columns of a TF32 operand",
        "product_float.cuh",
        "left, ptx::to_tf32(row[0]), ptx::to_tf32(row[4])",
        "left, ptx::to_tf32(row[4]), ptx::to_tf32(row[0])",
        INACCURATE,
        mode="tf32",
    ),
    Fault(
        "the left operand of dK and dV",
        "product_half.cuh",
        "ptx::load_matrix_x4_trans(left,",
        "ptx::load_matrix_x4(left,",
        INACCURATE,
        backward=True,
    ),
]


@pytest.fixture(scope="session")
def planted(request, compiler, tmp_path_factory) -> dict[Fault, Future[Kernels]]:
    """Kernels with a fault, for the faults that are tested in this run, compiled beside each other."""

    def build(fault: Fault, folder: Path) -> Kernels:
        kernels = Kernels(compiler, folder / "source", fault.plant)
        kernels.machine(Instance.of(fault.case, *MODES[fault.mode]), fault.backward)
        return kernels

    faults = [i.callspec.params["fault"] for i in request.session.items if "planted" in getattr(i, "fixturenames", ())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {fault: pool.submit(build, fault, tmp_path_factory.mktemp("planted")) for fault in faults}


def hold(kernels: Kernels, fault: Fault) -> None:
    check(kernels, fault.case, fault.mode, limits=fault.limits, backward=fault.backward)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_is_found(planted, fault):
    faulty = planted[fault].result()
    with pytest.raises(AssertionError, match=fault.message):
        hold(faulty, fault)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_without_the_fault_it_passes(kernels, fault):
    hold(kernels, fault)
