"""Compiles every kind of Triton kernel for GPUs that need not be here, and reads what came out of the machine code.

    python -m benchmarks.triton_compile [--target sm_90] [--case "stages 1 to 3"] [--dtype bf16] [--csv [FILE]]

Registers, local memory (a spilled register lives there) and shared memory are those of Triton's own ptxas and LLVM;
matrix instructions are found by name in PTX or GCN assembly. The kept tables, benchmarks/compiled/triton-*.csv, have
every case in bfloat16, and one in the other dtypes; that is also what the command compiles unless told otherwise.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from multiprocessing import get_context
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from swin_fast.triton_kernels.config import Variant, default_config
from swin_fast.triton_kernels.window_attention import Launch, specialisations

FOLDER = Path(__file__).parent / "compiled"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes of shared memory that one program may have, as the CUDA C++ programming guide ("technical specifications per
# compute capability") and AMD's CDNA 3 instruction set (local data share) say. On NVIDIA each program costs 1 KiB more.
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
MATRIX = re.compile(r"\b(wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma|v_smfmac)")
IN_EVERY_DTYPE = "stage 1, shifted"
DTYPES = ("bf16", "fp16", "tf32", "fp32")  # tf32 is float32 with PyTorch's TF32 switched on


@dataclass(frozen=True)
class Row:
    """One kernel for one target.

    `local_bytes` and `registers` are per thread, `shared_bytes` per program; `resident` is how many programs a
    multiprocessor holds at once.
    """

    case: str
    dtype: str
    direction: str
    kernel: str
    target: str
    tile: str
    warps: int
    stages: int
    registers: int
    local_bytes: int
    shared_bytes: int
    resident: int
    matrix: str  # the instructions' names, "" where there is none
    triton: str


def cases() -> dict[str, Variant]:
    """The kinds of call that are compiled, in bfloat16. Only what a kernel is specialised for tells kinds apart."""

    def of(window: Sequence[int], head_dim: int = 32, heads: int = 6, windows: int = 2, **more) -> Variant:
        w = (1,) * (3 - len(window)) + tuple(window)
        grid = tuple(1 if n == 1 else n * windows for n in w)
        shift = tuple(n // 2 if windows > 1 else 0 for n in w)
        given = {"table": "bf16", "rows": prod(2 * n - 1 for n in w), **more}
        return Variant("bf16", w, grid, shift, 64, heads, head_dim, **given)

    def stage(size: int, heads: int, shift: int) -> Variant:
        return replace(of((7, 7), heads=heads), grid=(1, size, size), shift=(0, shift, shift))

    swin = {
        f"stage {n}, {kind}": stage(size, heads, shift)
        for n, (size, heads) in enumerate(((56, 3), (28, 6), (14, 12), (7, 24)), 1)
        for kind, shift in (("plain", 0), ("shifted", 3))
        if size > 7 or not shift
    }
    windows = {"x".join(map(str, w)): w for w in ((8, 8), (12, 12), (16, 16), (24, 24), (7, 7, 7), (8, 7, 7))}
    padded = replace(of((7, 7)), grid=(1, 15, 15))
    return {
        **swin,
        **{name: of(w) for name, w in windows.items()},
        **{f"head_dim {d}": of((7, 7), d, align=alignment(d)) for d in (8, 10, 16, 30, 64)},
        "V2, 8x8": of((8, 8), logit_scale="bf16"),
        "V2, 16x16": of((16, 16), logit_scale="bf16"),
        "V2, 24x24": of((24, 24), logit_scale="bf16"),
        "dropout": of((7, 7), dropout=True),
        "dropout, 12x12": of((12, 12), dropout=True),
        "padding attended": replace(padded, pad=True),
        "padding attended, roll first": replace(padded, pad=True, roll_then_pad=True),
        "padding masked": padded,
        "window layout, mask": replace(of((7, 7), windows=1), mask="fp32"),
        "bias index": of((7, 7), index="i64"),
        "no bias": replace(of((7, 7)), table=None, rows=0),
        "64-bit offsets": of((7, 7), large=True),
    }


def kept() -> list[tuple[str, str]]:
    """(case, dtype) of the kept tables."""
    return [(name, dtype) for name in cases() for dtype in (DTYPES if name == IN_EVERY_DTYPE else DTYPES[:1])]


def alignment(head_dim: int) -> int:
    """What divides every stride of a contiguous map of 6 heads, in elements."""
    return next(n for n in (16, 8, 4, 2, 1) if 3 * 6 * head_dim % n == 0)


def in_dtype(variant: Variant, dtype: str) -> Variant:
    """The same kind in "bf16", "fp16", "tf32" or "fp32": what is in bfloat16 above, and the products' precision."""
    name = {"tf32": "fp32"}.get(dtype, dtype)
    names = {k: name for k in ("table", "logit_scale") if getattr(variant, k)}
    return replace(variant, dtype=name, tf32=dtype == "tf32", **names)


def launches(variant: Variant) -> Iterator[tuple[str, Launch]]:
    """(direction, kernel) of what runs for a call with the default config, with every gradient that there is."""
    for direction in ("forward", "backward"):
        config = default_config(variant, direction == "backward")
        for launch in specialisations(variant, config, direction == "backward"):
            yield direction, launch


def compile_case(case: str, variant: Variant, dtype: str, targets: Iterable[str]) -> list[Row]:
    """One row per kernel and target."""
    rows = []
    for direction, launch in launches(in_dtype(variant, dtype)):
        tile = "x".join(str(launch.constexprs[k]) for k in ("BLOCK_M", "BLOCK_N") if k in launch.constexprs)
        for target in targets:
            registers, local, shared, matrix = read(compile_launch(launch, TARGETS[target]))
            programs = resident(target, launch.num_warps, registers, shared)
            numbers = (launch.num_warps, launch.num_stages, registers, local, shared, programs)
            name = launch.kernel.__name__
            rows.append(Row(case, dtype, direction, name, target, tile, *numbers, matrix, triton.__version__))
    return rows


def compile_launch(launch: Launch, target: GPUTarget):
    source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attrs())
    return triton.compile(source, target=target, options=launch.options(target.backend))


def read(compiled) -> tuple[int, int, int, str]:
    """(registers, local bytes, shared bytes, matrix instructions) of a compiled kernel."""
    text = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    matrix = "+".join(sorted(set(MATRIX.findall(text))))
    if "cubin" not in compiled.asm:
        registers, local = (
            int(re.search(rf"\.{k}:\s+(\d+)", text)[1]) for k in ("vgpr_count", "private_segment_fixed_size")
        )
        return registers, local, compiled.metadata.shared, matrix
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # the driver sets LOCAL to 0 in these files; a kernel's local memory is its stack
    registers, local = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return int(registers), int(local), compiled.metadata.shared, matrix


def resident(target: str, warps: int, registers: int, shared: int) -> int:
    """Programs that a multiprocessor holds at once, by registers, threads and shared memory.

    NVIDIA: 65,536 registers in four parts, given to a warp by 256; 64 warps; 32 programs. AMD, CDNA 3: 512 registers a
    lane in each of four parts, given by 8; 8 waves in each part.
    """
    if TARGETS[target].backend == "hip":
        by_registers = 4 * min(8, 512 // (-(-registers // 8) * 8)) // warps
        return min(by_registers, SHARED_LIMIT[target] // shared if shared else by_registers)
    by_registers = 4 * min(16, 16384 // (-(-registers // 8) * 8 * 32)) // warps
    return min(by_registers, 32, (SHARED_LIMIT[target] + 1024) // (shared + 1024))


def kept_file() -> Path:
    """The kept table of the Triton that is installed."""
    return FOLDER / f"triton-{triton.__version__}.csv"


def read_table(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as handle:
        kinds = {f.name: int if f.type == "int" else str for f in fields(Row)}
        return [Row(**{k: kinds[k](v) for k, v in line.items()}) for line in csv.DictReader(handle)]


def write_table(file: Path, rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Iterable[Row]) -> str:
    """The rows as text, a line each."""
    names = [f.name for f in fields(Row)][:-1]
    lines = [names] + [[str(getattr(row, name)) or "-" for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton_compile", description=__doc__.split("\n")[0])
    known = cases()
    parser.add_argument("--target", action="append", choices=tuple(TARGETS))
    parser.add_argument("--case", action="append", choices=tuple(known))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument(
        "--csv", nargs="?", type=Path, const=kept_file(), metavar="FILE", help="write FILE (default: the kept table)"
    )  # fmt: skip
    args = parser.parse_args()
    work = kept()
    if args.case or args.dtype:
        work = [(name, dtype) for name in args.case or known for dtype in args.dtype or DTYPES]
    rows = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        targets = args.target or tuple(TARGETS)
        for task in [pool.submit(compile_case, name, known[name], dtype, targets) for name, dtype in work]:
            rows += task.result()
            if args.csv:
                write_table(args.csv, rows)  # after each, so that a stop loses one case and no more
    print(table(rows))
    if args.csv:
        print(f"{len(rows)} rows written to {args.csv}")


if __name__ == "__main__":
    main()
