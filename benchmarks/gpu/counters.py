"""What ncu prints with --csv, read."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

SECONDS, READ, WRITTEN = "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
POSSIBLE = "sm__maximum_warps_per_active_cycle_pct"
REGISTERS = "launch__registers_per_thread"
METRICS = (SECONDS, READ, WRITTEN, OCCUPANCY, POSSIBLE, REGISTERS)
# of units with and without --print-units base, in seconds and bytes; everything else is a plain number
UNITS = {
    "s": 1.0, "second": 1.0, "ms": 1e-3, "msecond": 1e-3, "us": 1e-6, "usecond": 1e-6, "ns": 1e-9, "nsecond": 1e-9,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9,
}  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One launch. `bytes` read from and written to device memory; `occupancy` and `possible` are percents of warps."""

    name: str
    seconds: float
    bytes: float
    occupancy: float
    possible: float
    registers: int


def _short(name: str) -> str:
    """ "window_attention_forward" of "void swin_fast::window_attention_forward<(Mode)2>(CudaParams)"."""
    found = re.search(r"(\w+)(?=[<(]|$)", name)
    return found[1] if found else name


def parse(text: str) -> list[Kernel]:
    """The launches in the order they ran. Lines before the table, of ncu and the program, are passed over.

    A launch that lacks a metric (counters that may not be read) is left out.
    """
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"') and '"Metric Name"' in line), None)
    if head is None:
        return []
    table = [line for line in lines[head:] if line.startswith('"')]
    launches: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(table):
        name, metrics = launches.setdefault(row["ID"], (row["Kernel Name"], {}))
        try:
            number = float(row["Metric Value"].replace(",", ""))
        except ValueError:  # "n/a"
            continue
        metrics[row["Metric Name"]] = number * UNITS.get(row["Metric Unit"], 1.0)
    return [
        Kernel(_short(name), m[SECONDS], m[READ] + m[WRITTEN], m[OCCUPANCY], m[POSSIBLE], int(m[REGISTERS]))
        for name, m in launches.values()
        if all(metric in m for metric in METRICS)
    ]
