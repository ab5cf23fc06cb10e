"""How much of the memory's speed the kernels reach, by themselves: no Python, no launch, nothing in the cache.

Bytes are those that the op must move (`floor`) and, for Triton, those that its kernels ask for. Where ncu is, it counts
what reached the memory, and how many warps there were.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from math import ceil, prod
from pathlib import Path
from statistics import median

import torch

import swin_fast
from swin_fast import dispatch, testing

from .counters import METRICS, Kernel, parse
from .state import ROOT, State

HALF = torch.bfloat16
BATCH = 64
STAGES = {
    f"{name} stage {n + 1}": testing.Case(
        f"{56 >> n}x{56 >> n}x{width << n}", (56 >> n, 56 >> n), (7, 7), (3, 3) if n < 3 else (0, 0), BATCH,
        num_heads=width // 32 << n, pad="masked",
    )
    for name, width in (("Swin-T", 96), ("Swin-B", 128))
    for n in range(4)
}  # fmt: skip
COPY_BYTES = 2**30
CAPTURED = 8  # calls in a graph, at least
REPLAYS = 20
KERNELS = "regex:window_attention|sum_|gather_bias"


@dataclass(frozen=True)
class Line:
    """One call (`kernel` is empty) or one kernel of it. Rates in GB/s, `share` of a copy's rate, percents of warps."""

    stage: str
    backend: str
    direction: str
    shape: str
    dtype: str
    kernel: str
    microseconds: float
    gbytes: float
    share: float
    asked_gbytes: float | None = None
    occupancy_percent: float | None = None
    possible_percent: float | None = None
    registers: int | None = None


def main(state: State, part: str) -> int:
    backends = [name for name in ("cuda", "triton") if not why_not(name)]
    for name in ("cuda", "triton"):
        if name not in backends:
            print(f"note: without {name}: {why_not(name)}")
    if not backends:
        return 1
    copy = copy_bandwidth()
    print(f"a copy of {COPY_BYTES >> 20} MiB: {copy / 1e9:.0f} GB/s, bytes read and written", flush=True)
    lines = []
    for stage, case in STAGES.items():
        for backend in backends:
            for backward in (False, True):
                lines.append(timed(stage, case, backend, backward, copy))
                print(describe(lines[-1]), flush=True)
    save(state, part, lines, copy)  # before ncu, which may take long
    save(state, part, lines + kernels(backends, copy), copy)
    return 0


def save(state: State, part: str, lines: list[Line], copy: float) -> None:
    write(state.folder / "profile.csv", lines)
    state.keep(part, {"copy_gbytes": copy / 1e9, "lines": [asdict(line) for line in lines]})


def kernels(backends: list[str], copy: float) -> list[Line]:
    """A line for each kernel at the stages of Swin-T; none, and a note, where ncu is missing or may not count."""
    if shutil.which("ncu") is None:
        print("note: ncu is missing, so occupancy is not measured")
        return []
    lines = []
    for stage, case in STAGES.items():
        for backend in backends if stage.startswith("Swin-T") else ():
            found, said = counted(stage, backend)
            if not found:
                print(f"note: ncu counted nothing of {stage}, {backend}: {' '.join(said[-300:].split())}")
                return lines  # it will not elsewhere
            for kernel in found:
                lines.append(of_kernel(stage, case, backend, kernel, copy))
                print(describe(lines[-1]), flush=True)
    return lines


def why_not(backend: str) -> str:
    call = dispatch.Call(dispatch.describe(torch.device("cuda")), HALF, BATCH, (56, 56), (7, 7), 3, 32, bias_table=True)
    return dispatch.CAN_RUN[backend](call).reason


def least_bytes(case: testing.Case, backward: bool, itemsize: int = 2) -> int:
    """Each of qkv and the output once, or each of qkv, the gradient and qkv's gradient: 4 or 7 elements a channel."""
    elements = case.batch * prod(case.grid) * case.num_heads * case.head_dim
    return elements * itemsize * (7 if backward else 4)


def asked_bytes(case: testing.Case, backward: bool) -> float | None:
    """What the Triton kernels load and store, by their own count, with the block shapes that they run with."""
    from swin_fast.triton_kernels import tuning
    from swin_fast.triton_kernels.config import Variant
    from swin_fast.triton_kernels.window_attention import bytes_per_token

    device = dispatch.describe(torch.device("cuda")).name
    count = torch.cuda.get_device_properties(0).multi_processor_count
    axes = ((1, *case.window_size), (1, *case.grid), (0, *case.shift_size))
    variant = Variant("bf16", *axes, case.batch, case.num_heads, case.head_dim, table="bf16", rows=169)
    config = tuning.config(variant, backward, device)
    return bytes_per_token(variant, config, backward, 3, count) * case.batch * prod(case.grid)


def copy_bandwidth() -> float:
    """Bytes a second of a large copy on the device, bytes read plus bytes written."""
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / seconds([lambda: target.copy_(source)])


def seconds(calls: list[Callable[[], object]]) -> float:
    """Median seconds of one of `calls`, which run one after another in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    taken = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) * 1e-3 / len(calls))
    return median(taken)


def arguments(case: testing.Case, device: str = "cuda", seed: int = 0) -> tuple[tuple, torch.Tensor]:
    """The op's arguments but its last, and the gradient of its output."""
    generator = torch.Generator(device).manual_seed(seed)
    channels = case.num_heads * case.head_dim
    rows = prod(2 * n - 1 for n in case.window_size)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(HALF)

    qkv, grad = (normal(case.batch, *case.grid, n * channels) for n in (3, 1))
    options = (case.num_heads, case.window_size, case.shift_size, case.head_dim**-0.5, False, -100.0, 0.0)
    return (qkv, normal(rows, case.num_heads), None, None, None, None, None, *options), grad


def call_of(case: testing.Case, backward: bool, device: str = "cuda", seed: int = 0) -> Callable[[], object]:
    """One call of the op below autograd, on inputs of its own."""
    given, grad = arguments(case, device, seed)
    ops = torch.ops.swin_fast
    if backward:
        lse = torch.empty(0, device=device)
        return lambda: ops.window_attention_backward(grad, lse, *given, 3)  # of qkv and the table
    return lambda: ops.window_attention(*given, False)


def timed(stage: str, case: testing.Case, backend: str, backward: bool, copy: float) -> Line:
    """One call, on so many inputs in turn that none is in the cache when it comes again."""
    moved = least_bytes(case, backward)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    sets = max(2, ceil(2 * cache / moved))
    with swin_fast.use_backend(backend), torch.no_grad():
        calls = [call_of(case, backward, seed=seed) for seed in range(sets)]
        taken = seconds(calls * ceil(CAPTURED / sets))
    asked = asked_bytes(case, backward) / taken / 1e9 if backend == "triton" else None
    rate, shape = moved / taken, f"{case.batch}x{case.name}"
    direction = "backward" if backward else "forward"
    return Line(stage, backend, direction, shape, "bfloat16", "", taken * 1e6, rate / 1e9, rate / copy, asked)


def counted(stage: str, backend: str) -> tuple[list[Kernel], str]:
    """The kernels of a forward and a backward, as ncu saw them; the clocks are left as they are."""
    options = ["--csv", "--print-units", "base", "--clock-control", "none", "--target-processes", "application-only"]
    options += ["-k", KERNELS, "--metrics", ",".join(METRICS)]
    target = [sys.executable, "-m", "benchmarks.gpu.profiler", stage, backend]
    result = subprocess.run(["ncu", *options, *target], cwd=ROOT, capture_output=True, text=True, check=False)
    return parse(result.stdout), result.stdout + result.stderr


def of_kernel(stage: str, case: testing.Case, backend: str, kernel: Kernel, copy: float) -> Line:
    rate = kernel.bytes / kernel.seconds
    direction = "forward" if "forward" in kernel.name else "backward"
    return Line(
        stage, backend, direction, f"{case.batch}x{case.name}", "bfloat16", kernel.name, kernel.seconds * 1e6,
        rate / 1e9, rate / copy, None, kernel.occupancy, kernel.possible, kernel.registers,
    )  # fmt: skip


def describe(line: Line) -> str:
    what = f"{line.stage}, {line.backend} {line.direction}{', ' if line.kernel else ''}{line.kernel}"
    more = f", {line.occupancy_percent:.0f} % of {line.possible_percent:.0f} % warps" if line.occupancy_percent else ""
    return f"{what}: {line.microseconds:.1f} us, {line.gbytes:.0f} GB/s, {line.share:.0%} of a copy{more}"


def write(file: Path, lines: Iterable[Line]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Line)], lineterminator="\n")
        writer.writeheader()
        for line in lines:
            values = asdict(line).items()
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values})


if __name__ == "__main__":  # what ncu watches
    _case = STAGES[sys.argv[1]]
    with swin_fast.use_backend(sys.argv[2]), torch.no_grad():
        for _backward in (False, True):
            call_of(_case, _backward)()
    torch.cuda.synchronize()
