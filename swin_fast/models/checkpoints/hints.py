"""What a file's tensors do not say: from the caller, the file's metadata, a config.json beside it, or its name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..config import Config, SwinV2Config
from .files import CheckpointError

_KEY = "swin_fast"  # in the metadata of a safetensors file that we wrote


@dataclass(frozen=True)
class Hints:
    """Each is None where nothing is known; the fields are those of `SwinV2Config`."""

    window_size: int | None = None
    img_size: int | tuple[int, ...] | None = None
    pretrained_window_sizes: tuple[int, ...] | None = None

    def otherwise(self, other: Hints) -> Hints:
        """These, and where one is None the other's."""
        lacking = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **lacking)


def to_metadata(config: Config) -> dict[str, str]:
    """What `find_hints` reads back from a safetensors file."""
    names = [f.name for f in fields(Hints)] if isinstance(config, SwinV2Config) else ["img_size"]
    return {_KEY: json.dumps({name: getattr(config, name) for name in names if hasattr(config, name)})}


def find_hints(path: str, metadata: dict[str, str], stages: int) -> Hints:
    """The metadata's, else those of config.json (timm's or transformers'), else those of the name, window16_256."""
    hints = _from_metadata(metadata[_KEY], path) if _KEY in metadata else Hints()
    beside = Path(path).parent / "config.json"
    return hints.otherwise(_from_config(beside, stages)).otherwise(_from_name(Path(path).stem, stages))


def _from_config(path: Path, stages: int) -> Hints:
    """Of a config of timm or transformers; what is none of these says nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Hints()
    if not isinstance(content, dict):
        return Hints()
    if content.get("model_type") in ("swin", "swinv2"):
        return _checked(content | {"img_size": content.get("image_size")}, str(path))
    architecture = content.get("architecture")
    return _from_name(architecture, stages) if isinstance(architecture, str) else Hints()


def _from_metadata(text: str, path: str) -> Hints:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata {_KEY} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: its metadata {_KEY} must be a JSON object, got a {type(content).__name__}")
    return _checked(content, path)


def _checked(content: dict, path: str) -> Hints:
    found = {}
    for field in fields(Hints):
        value = content.get(field.name)
        if isinstance(value, list):
            value = tuple(value)
        numbers = value if isinstance(value, tuple) else (value,)
        if value is None:
            continue
        if any(isinstance(v, bool) or not isinstance(v, int) for v in numbers):
            raise CheckpointError(f"{path}: {field.name} must hold integers, got {value!r}")
        found[field.name] = value
    return Hints(**found)


def _from_name(name: str, stages: int) -> Hints:
    """window12to16_192to256: pre-trained with windows of 12 at 192 pixels, now 16 at 256; patches of 4 pixels."""
    match = re.search(r"window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?(?!\d)", name)
    if not match:
        return Hints()
    before, window, size, image = (int(n) if n else None for n in match.groups())
    if window is None:
        return Hints(before, image or size)
    last = [max(size // (4 * 2**i), 1) for i in range(stages)]
    return Hints(window, image or size, tuple(min(before, n) for n in last))
