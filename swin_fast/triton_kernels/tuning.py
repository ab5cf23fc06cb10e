"""Which `Config` a call gets: a tuned row for this GPU where there is one, else the rule of `config`. Never a search.

Tuned rows are JSON, one file per GPU in configs/, written by `python -m swin_fast.triton_kernels.tune`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .config import Config, Variant, default_config, power_of_two

FOLDER = Path(__file__).parent / "configs"
KNOB = "SWIN_FAST_TRITON_CONFIG"
DTYPES = ("bf16", "fp16", "fp32")  # Triton's names


class Key(NamedTuple):
    """What a tuned row is for. `tokens` of a window; `dtype` by Triton's name."""

    direction: str  # "forward" or "backward"
    tokens: int
    head_dim: int
    dtype: str


class CannotRun(Exception):
    """Why the tuner does not time a candidate, or nothing at all."""


class Tuned(NamedTuple):
    """The rows of one file, and where they come from in words."""

    rows: dict[Key, Config]
    origin: str


def config(variant: Variant, backward: bool, device_name: str) -> Config:
    """The tuned row for this GPU ("" for none) or the default; ValueError where a file of rows is not valid."""
    key = key_of(variant, backward)
    return tuned(device_name).rows.get(key) or default_config(variant, backward)


def why(tokens: int, head_dim: int, dtype: str, device_name: str) -> str:
    """Where the block shapes of a kind of call come from, in words, for the forward and the backward."""
    found = tuned(device_name)
    keys = [Key(direction, tokens, head_dim, dtype) for direction in ("forward", "backward")]
    without = [key.direction for key in keys if key not in found.rows]
    if not without:
        return f"block shapes tuned in {found.origin}"
    if not found.rows:
        return f"block shapes by the default rule, because {found.origin}"
    what = f"the {' and '.join(without)} of {tokens} tokens, head_dim {head_dim}, {dtype}"
    return f"block shapes by the default rule, because {found.origin} has no row for {what}"


def key_of(variant: Variant, backward: bool) -> Key:
    return Key("backward" if backward else "forward", variant.tokens, variant.head_dim, variant.dtype)


def file_for(device_name: str) -> Path:
    """The file of a GPU by its name: "NVIDIA H100 80GB HBM3" has configs/nvidia-h100-80gb-hbm3.json."""
    return FOLDER / (re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json")


@lru_cache(maxsize=16)
def tuned(device_name: str) -> Tuned:
    """The rows for a GPU. Read once; SWIN_FAST_TRITON_CONFIG names a file to read instead of the one in configs/."""
    if not device_name:
        return Tuned({}, "there is no GPU")
    named = os.environ.get(KNOB)
    file = Path(named) if named else file_for(device_name)
    if not named and not file.is_file():
        return Tuned({}, f"nobody has tuned for {device_name!r}")
    return Tuned(read(file, device_name), str(file) if named else file.name)


def read(file: Path, device_name: str) -> dict[Key, Config]:
    """The rows of a file. ValueError, naming file and row, where it is missing, broken or for another GPU."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or "device" not in content:
        raise ValueError(f'{file} must hold an object with "device" and a list of "rows"')
    if content["device"] != device_name:
        raise ValueError(f"{file} was tuned for {content['device']!r}, this is {device_name!r}")
    rows: dict[Key, Config] = {}
    for number, row in enumerate(content["rows"]):
        try:
            key, found = _row(row)
        except ValueError as error:
            raise ValueError(f"{file}, row {number}: {error}") from error
        if key in rows:
            raise ValueError(f"{file}, row {number}: there is a row for {tuple(key)} already")
        rows[key] = found
    return rows


def write(file: Path, device_name: str, made_with: dict[str, str], rows: list[dict]) -> None:
    """Write a file that `read` takes, one line per row. A row has the fields of Key and Config, and may have more."""
    for row in rows:
        _row(row)
    head = json.dumps({"device": device_name, **made_with}, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def as_row(key: Key, found: Config) -> dict:
    return {**key._asdict(), **asdict(found)}


def _row(row: object) -> tuple[Key, Config]:
    if not isinstance(row, dict):
        raise ValueError(f"must be an object, got {type(row).__name__}")
    optional = {f.name: f.default for f in fields(Config) if f.default is not MISSING}
    missing = [n for n in (*Key._fields, *(f.name for f in fields(Config))) if n not in row and n not in optional]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    key = Key(*(row[name] for name in Key._fields))
    numbers = {f.name: row.get(f.name, optional.get(f.name)) for f in fields(Config)}
    if key.direction not in ("forward", "backward"):
        raise ValueError(f'direction must be "forward" or "backward", got {key.direction!r}')
    if key.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {key.dtype!r}")
    for name, value in {"tokens": key.tokens, "head_dim": key.head_dim, **numbers}.items():
        least = optional.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    for name in ("block_m", "block_n", "num_warps"):
        least = 1 if name == "num_warps" else 16  # what a matrix instruction takes
        if numbers[name] != power_of_two(numbers[name]) or numbers[name] < least:
            raise ValueError(f"{name} must be a power of two and at least {least}, got {numbers[name]}")
    return key, Config(**numbers)
