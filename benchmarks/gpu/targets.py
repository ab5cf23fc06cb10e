"""The times that the kernels are held to, and which rows are slower, by how much and, as far as it was measured, why.

Rows are lines of the CSV as dictionaries, so that nothing needs torch; of several for one thing the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BACKENDS = ("cuda", "triton")
FLOOR = {  # time over floor, batch 64, bfloat16, stages 1 to 3
    ("cuda", "forward"): 1.15,
    ("cuda", "backward"): 1.35,
    ("triton", "forward"): 1.25,
    ("triton", "backward"): 1.5,
}
GRIDS = {56: 1, 28: 2, 14: 3, 7: 4}  # stage by the side of its map
WITH_TARGET = (1, 2, 3)
WIDTHS = {96: "Swin-T", 128: "Swin-B"}  # by the channels of stage 1
PEERS = {"triton": 3.0}  # times as fast as the fastest peer, at least
LATENCY = 0.5  # of Triton's time, at most, for the CUDA backend at batch 1
FORWARD, BOTH, BACKWARD = "attention forward", "attention forward+backward", "attention backward"

Row = dict[str, str]


@dataclass(frozen=True)
class Check:
    """`value` against `target`: at most that where `most`, else at least. `ms` is the time behind it."""

    what: str
    stage: str
    backend: str
    ms: float
    value: float
    target: float | None
    most: bool = True

    @property
    def ok(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.most else self.value >= self.target

    @property
    def short_by(self) -> float:
        """How many times as fast it would have to be."""
        return self.value / self.target if self.most else self.target / self.value


def is_ours(candidate: str) -> bool:
    """Whether our kernels do the work, under torch.compile or not; the package's plain PyTorch road is a peer."""
    return candidate.startswith(tuple(f"swin_fast {backend}" for backend in BACKENDS))


class Table:
    """The attention core's rows in bfloat16."""

    def __init__(self, rows: Iterable[Row]):
        self.times: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
        for row in rows:
            if row["suite"] == "core" and row["dtype"] == "bfloat16":
                place = self.times.setdefault((row["op"], row["shape"]), {})
                place[row["candidate"]] = float(row["p50_ms"]), float(row["floor_ms"])

    def of(self, op: str, shape: str, backend: str) -> tuple[float, float] | None:
        """Milliseconds of ours, and of the floor."""
        place = self.times.get((op, shape), {})
        if op == BACKWARD and not place:
            both, forward = self.of(BOTH, shape, backend), self.of(FORWARD, shape, backend)
            return (both[0] - forward[0], both[1] - forward[1]) if both and forward else None
        return place.get(f"swin_fast {backend}")

    def fastest_peer(self, op: str, shape: str) -> tuple[str, float] | None:
        peers = {n: ms for n, (ms, _) in self.times.get((op, shape), {}).items() if not is_ours(n)}
        return min(peers.items(), key=lambda item: item[1]) if peers else None

    def shapes(self, batch: int) -> list[str]:
        found = dict.fromkeys(shape for _, shape in self.times if shape.startswith(f"{batch}x") and stage_of(shape))
        return sorted(found, key=lambda shape: stage_of(shape))


def stage_of(shape: str) -> tuple[str, int] | None:
    """("Swin-T", 1) of "64x56x56x96"; None for another model's shape."""
    try:
        _, height, _, channels = (int(n) for n in shape.split("x"))
    except ValueError:
        return None
    stage = GRIDS.get(height)
    model = WIDTHS.get(channels >> (stage - 1)) if stage else None
    return (model, stage) if model else None


def checks(rows: Iterable[Row]) -> list[Check]:
    """Every figure that there is a target for, and the same at stage 4, where there is none."""
    table, found = Table(rows), []
    for shape in table.shapes(64):
        model, number = stage_of(shape)
        stage = f"{model} stage {number}"
        held = number in WITH_TARGET
        for backend in BACKENDS:
            for direction, op in (("forward", FORWARD), ("backward", BACKWARD)):
                if ours := table.of(op, shape, backend):
                    target = FLOOR[backend, direction] if held else None
                    found.append(Check(f"{direction} over floor", stage, backend, ours[0], ours[0] / ours[1], target))
            for op in (FORWARD, BOTH):
                ours, peer = table.of(op, shape, backend), table.fastest_peer(op, shape)
                if ours and peer:
                    what = f"{op.removeprefix('attention ')}, times as fast as {peer[0]}"
                    target = PEERS.get(backend) if held else None
                    found.append(Check(what, stage, backend, ours[0], peer[1] / ours[0], target, False))
    for shape in table.shapes(1):
        cuda, triton = (table.of(FORWARD, shape, backend) for backend in BACKENDS)
        if cuda and triton:
            stage = "{} stage {}".format(*stage_of(shape))
            found.append(Check("batch 1, share of triton's time", stage, "cuda", cuda[0], cuda[0] / triton[0], LATENCY))
    return found


def reason(check: Check, lines: Iterable[dict]) -> str:
    """Why it is slow, as far as the profile knows: `lines` are those of the part profile."""
    direction = check.what.partition(" ")[0]
    mine = [x for x in lines if (x["stage"], x["backend"], x["direction"]) == (check.stage, check.backend, direction)]
    alone = next((x for x in mine if not x["kernel"]), None)
    if alone is None or "over floor" not in check.what:
        return ""
    text = f"its kernels alone take {alone['microseconds'] / 1e3:.3f} ms, {alone['share']:.0%} of a copy's rate"
    if 1 / alone["share"] <= check.target:
        text += ", so the rest is the call"
    slowest = max((x for x in mine if x["kernel"]), key=lambda x: x["microseconds"], default=None)
    if slowest and slowest["occupancy_percent"]:
        occupancy = f"{slowest['occupancy_percent']:.0f} % of the warps, {slowest['possible_percent']:.0f} % possible"
        text += f"; {slowest['kernel']} has {occupancy}, {slowest['registers']} registers"
    return text
