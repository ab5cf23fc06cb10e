"""What the compiled kernels of the CUDA library need of a GPU, read from the library that is installed.

    python -m benchmarks.cuda_resources [--arch sm_90a] [--csv [FILE]]

Registers, local memory (a spilled register lives there) and instructions are read with NVIDIA's cuobjdump, the
toolkit's or that of the triton package; threads and shared memory are what the library would launch; the blocks that a
multiprocessor holds follow from those. No GPU is needed, but a torch with CUDA is, or else the last three are left out.

The kept tables, benchmarks/compiled/cuda-*.csv, have what nvcc of that version made. After a change of the kernels:
build the library in place with the default architectures, and run this with --csv.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import swin_fast
from swin_fast import native

FOLDER = Path(__file__).parent / "compiled"
LIBRARY = Path(swin_fast.__file__).with_name("_C_cuda.abi3.so")
MODES = ("float32", "tf32", "bfloat16", "float16")  # as the kernels' Mode counts them
KERNEL = re.compile(r"window_attention_(forward|backward)ILNS_4ModeE(\d)ELi(\d+)ELb([01])EE")
# per multiprocessor: warps, blocks, bytes of shared memory (of which a block may have 1 KiB less). CUDA C++ programming
# guide, "technical specifications per compute capability"; each has 65,536 registers, in four parts, given by 256
LIMITS = {
    "sm_80": (64, 32, 164 << 10),
    "sm_86": (48, 16, 100 << 10),
    "sm_89": (48, 24, 100 << 10),
    "sm_90": (64, 32, 228 << 10),
    "sm_90a": (64, 32, 228 << 10),
    "sm_100": (64, 32, 228 << 10),
}
INSTRUCTIONS = {
    "matrix": re.compile(r"\b(?:HMMA|HGMMA)\.[\w.]+"),
    "load_16": re.compile(r"\b(?:LDG\.E\.128|LDGSTS\.E\.BYPASS(?:\.\w+)*\.128)(?:\.\w+)*"),
    "store_16": re.compile(r"\bSTG\.E\.128\b"),
    "local": re.compile(r"\b(?:STL|LDL)\b"),
}


@dataclass(frozen=True)
class Row:
    """One kernel for one architecture.

    `registers` and `local_bytes` are per thread; `window` (tokens) and head_dim stand for all that the kernel takes;
    `threads` and `shared_bytes` are a block's and `resident` is how many blocks a multiprocessor holds, None where the
    library is not loaded. The last four count instructions.
    """

    arch: str
    direction: str
    mode: str
    head_dim: int
    window: int
    registers: int
    local_bytes: int
    threads: int | None
    shared_bytes: int | None
    resident: int | None
    matrix: int
    load_16: int
    store_16: int
    local: int


def find_cuobjdump() -> str | None:
    """cuobjdump on PATH, in CUDA_HOME, or in the triton package, which is not imported."""
    folders = [os.environ.get("PATH", "")]
    if os.environ.get("CUDA_HOME"):
        folders.append(str(Path(os.environ["CUDA_HOME"], "bin")))
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin:
        folders.append(str(Path(spec.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join(folders))


def why_not() -> str:
    """Why there is nothing to read here; empty where there is."""
    if not LIBRARY.is_file():
        return native.build_info().get("cuda_reason") or f"there is no {LIBRARY.name} beside the package"
    return "" if find_cuobjdump() else "cuobjdump is neither in a CUDA toolkit nor in the triton package here"


def architectures() -> list[str]:
    """What the library holds machine code for."""
    return [name for name in native.build_info()["cuda"] if name.startswith("sm_")]


def rows(arch: str) -> list[Row]:
    """A row for each attention kernel in the library, in the order direction, mode, head_dim, window."""
    usage, code = _usage(arch), _instructions(arch)
    found = []
    for name, (registers, local_bytes) in usage.items():
        direction, mode, head_dim, one = KERNEL.search(name).groups()
        mode, head_dim, side = int(mode), int(head_dim), 7 if one == "1" else 16
        plan = _plan(arch, mode, head_dim, side, direction == "backward")
        threads, shared = plan or (None, None)
        blocks = resident(arch, registers, threads, shared) if plan else None
        facts = (registers, local_bytes, threads, shared, blocks)
        found.append(Row(arch, direction, MODES[mode], head_dim, side * side, *facts, **code[name]))
    return sorted(found, key=lambda r: (r.direction == "backward", MODES.index(r.mode), r.head_dim, r.window))


def resident(arch: str, registers: int, threads: int, shared: int) -> int:
    """Blocks that a multiprocessor holds at once, by registers, threads and shared memory (1 KiB is the system's)."""
    warps_held, blocks_held, memory = LIMITS[arch]
    warps = -(-threads // 32)
    by_registers = 4 * (65536 // 4 // (-(-registers * 32 // 256) * 256)) // warps
    return min(by_registers, warps_held // warps, blocks_held, memory // (-(-shared // 128) * 128 + 1024))


def _cuobjdump(arch: str, *options: str) -> Iterable[str]:
    command = [find_cuobjdump(), "-arch", arch, *options, str(LIBRARY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield from process.stdout
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")


def _usage(arch: str) -> dict[str, tuple[int, int]]:
    """(registers, bytes of local memory) of each attention kernel, by its symbol."""
    found, name = {}, ""
    for line in _cuobjdump(arch, "-res-usage"):
        named, numbers = re.match(r" Function (\w+):", line), re.search(r"REG:(\d+) STACK:(\d+)", line)
        if named:
            name = named[1]
        elif numbers and KERNEL.search(name):
            found[name] = int(numbers[1]), int(numbers[2])
    return found


def _instructions(arch: str) -> dict[str, dict[str, int]]:
    """How many of each kind of instruction an attention kernel has, by its symbol."""
    found: dict[str, dict[str, int]] = {}
    counts = None
    for line in _cuobjdump(arch, "-sass"):
        named = re.match(r"\s+Function : (\w+)", line)
        if named:
            counts = dict.fromkeys(INSTRUCTIONS, 0) if KERNEL.search(named[1]) else None
            if counts is not None:
                found[named[1]] = counts
        elif counts is not None:
            for kind, pattern in INSTRUCTIONS.items():
                counts[kind] += pattern.search(line) is not None
    return found


def _plan(arch: str, mode: int, head_dim: int, side: int, backward: bool) -> tuple[int, int] | None:
    """(threads, bytes of shared memory) of a block that the library would launch on a GPU of this architecture."""
    if not native.cuda_loaded:
        return None
    capability, memory = divmod(int(re.search(r"\d+", arch)[0]), 10), LIMITS[arch][2]
    device = (1 << 30, *capability, 132, memory - 1024, memory)
    plan = torch.ops.swin_fast.cuda_plan(mode, 64, (4 * side,) * 2, (side,) * 2, 6, head_dim, backward, device)
    return plan[0], plan[1]


def table(lines: Iterable[Row]) -> str:
    names = [f.name for f in fields(Row)]
    text = [names] + [["-" if getattr(r, n) is None else str(getattr(r, n)) for n in names] for r in lines]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in text)


def kept_file() -> Path:
    """The kept table of the nvcc that the library was built with."""
    return FOLDER / f"cuda-{native.build_info().get('cuda_toolkit')}.csv"


def read_table(file: Path) -> list[Row]:
    def value(name: str, text: str) -> str | int | None:
        return text if name in ("arch", "direction", "mode") else int(text) if text else None

    with file.open(newline="", encoding="utf-8") as handle:
        return [Row(**{k: value(k, v) for k, v in line.items()}) for line in csv.DictReader(handle)]


def write_table(file: Path, lines: Iterable[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_resources", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", action="append", help="such as sm_90a; default: all that were built")
    parser.add_argument(
        "--csv", nargs="?", type=Path, const=kept_file(), metavar="FILE", help="write FILE (default: the kept table)"
    )
    args = parser.parse_args()
    if why_not():
        parser.exit(1, f"nothing to read: {why_not()}\n")
    unknown = set(args.arch or ()) - set(architectures())
    if unknown:
        parser.error(f"the library was built for {', '.join(architectures())}, not {', '.join(sorted(unknown))}")
    found = [row for arch in args.arch or architectures() for row in rows(arch)]
    print(table(found))
    if args.csv:
        write_table(args.csv, found)
        print(f"{len(found)} rows written to {args.csv}")


if __name__ == "__main__":
    main()
