"""The parts, how each ended, and what is left to do: small files in a folder. Imports neither torch nor swin_fast.

A part that passed is left out of later runs until its sources, the torch or the GPU are others. A part that was stopped
keeps the steps that it had finished, so the next run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
LIMIT_S = 600
STOPPED = (124, 137)  # exit status of `timeout`: the part ran out of time, and had to be killed as well
SOURCES = ("swin_fast", "csrc", "setup.py")
SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh"}


@dataclass(frozen=True)
class Part:
    """`module` of this package has `function(state, part) -> exit status`; `sources` are what a pass holds for."""

    what: str
    module: str
    sources: tuple[str, ...] = SOURCES
    function: str = "main"


PARTS = {
    "info": Part("GPU, driver, clocks, versions, what is missing, commit", "info", ()),
    "build": Part("both libraries in this folder, with the torch and nvcc that are here", "build"),
    "tests": Part("tests marked gpu; where there is no pytest, swin-fast verify", "tests", (*SOURCES, "tests")),
    "gate": Part("the equality tests without which no row is written", "suites", (*SOURCES, "tests"), "run_gate"),
    "sanitizer": Part("compute-sanitizer's memcheck, racecheck and synccheck over small calls", "sanitizer"),
    "tuner": Part("block shapes of the Triton kernels for this GPU", "tuner"),
    "core": Part("times of the attention core, batch 64, against each peer", "suites"),
    "latency": Part("times of the attention core, batch 1", "suites"),
    "models": Part("times and memory of whole models, inference", "suites"),
    "training": Part("times and memory of training steps", "suites"),
    "profile": Part("achieved bandwidth against a copy; occupancy where ncu is", "profiler"),
}


@dataclass(frozen=True)
class Record:
    """How a part ended. `status` is "passed", "failed" or "timeout"; `key` says what it holds for."""

    part: str
    status: str
    returncode: int
    seconds: int
    key: str


class State:
    """The folder with a record, a log and the finished steps of each part, and what parts leave for each other."""

    def __init__(self, folder: Path = FOLDER):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> Path:
        """CSV of the benchmarks' rows on this GPU."""
        return self.folder / f"rows-{slug()}.csv"

    @property
    def tuned(self) -> Path:
        """The tuner's choices for this GPU, which the parts after it run with."""
        return self.folder / f"tuned-{slug()}.json"

    def log(self, part: str) -> str:
        file = self.folder / f"{part}.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def record(self, part: str, returncode: int, seconds: int, limit: int) -> Record:
        """Write down how a part ended. A process that was killed early was not out of time."""
        late = returncode in STOPPED and seconds >= limit
        status = "timeout" if late else "failed" if returncode else "passed"
        record = Record(part, status, returncode, seconds, key(part))
        self._write(f"{part}.json", asdict(record))
        return record

    def recorded(self, part: str) -> Record | None:
        found = self._read(f"{part}.json")
        return Record(**found) if found else None

    def passed(self, part: str) -> bool:
        """Whether the part passed and nothing it depends on has changed since."""
        record = self.recorded(part)
        if record is None or record.status != "passed" or record.key != key(part):
            return False
        return part != "build" or any((ROOT / "swin_fast").glob("_C.*"))

    def forget(self, part: str) -> None:
        for name in (f"{part}.json", f"{part}.steps.json", f"{part}.found.json"):
            (self.folder / name).unlink(missing_ok=True)

    def done(self, part: str) -> list[str]:
        """The steps that an earlier run of the part finished with the same sources, torch and GPU."""
        found = self._read(f"{part}.steps.json")
        return found["done"] if found and found["key"] == key(part) else []

    def mark(self, part: str, step: str) -> None:
        self._write(f"{part}.steps.json", {"key": key(part), "done": [*self.done(part), step]})

    def keep(self, part: str, found: dict) -> None:
        """What the summary will show of a part."""
        self._write(f"{part}.found.json", found)

    def found(self, part: str) -> dict:
        return self._read(f"{part}.found.json") or {}

    def _write(self, name: str, value: dict) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        new.replace(self.folder / name)  # whole or not at all, whenever the part is stopped

    def _read(self, name: str) -> dict | None:
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@cache
def key(part: str) -> str:
    """What a pass holds for: the part's sources, the versions of torch and Triton, the GPU."""
    digest = hashlib.sha256()
    for source in PARTS[part].sources:
        path = ROOT / source
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES) if path.is_dir() else [path]
        for file in files:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{digest.hexdigest()[:12]}, torch {version('torch')}, triton {version('triton')}, {gpu() or 'no GPU'}"


def version(package: str) -> str:
    """The installed version of a package, "" where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@cache
def gpu() -> str:
    """The first GPU's name as nvidia-smi has it, "" where there is none."""
    return query("name")


def slug() -> str:
    """The GPU's name as files of results have it: "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu().lower()).strip("-") or "no-gpu"


def query(fields: str) -> str:
    """What nvidia-smi says of the first GPU, "" where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""


def why_no_gpu() -> str:
    """Why nothing can run on a GPU here, "" where it can. Imports torch."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not import ({error})"
    if torch.cuda.is_available():
        return ""
    nvidia = f"nvidia-smi sees {gpu()}" if gpu() else "nvidia-smi sees none"
    return f"torch {torch.__version__} sees none, {nvidia}"
