"""Checkpoint files: read without running code that a file may hold, written whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

PICKLED = (".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model")  # an mmdet file has the first, a file of the original code the second


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not the one that was asked for; the message starts with the file's name."""


def read_file(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors or .pth (.pt, .bin) file by name, on the CPU, and the metadata (of safetensors).

    No code of a pickle is run (``weights_only=True``). The wrapper of the original code ("model") or of mmdet
    ("state_dict") is taken off.

    Raises:
        CheckpointError: there is no such file, it is damaged, holds code or no tensors.
    """
    file = Path(path)
    if not file.exists():
        raise CheckpointError(f"there is no weights file {path}")
    if not file.is_file():
        raise CheckpointError(f"{path} is not a file")
    _check_ending(path)
    try:
        content, metadata = _read_safetensors(file) if file.suffix == ".safetensors" else (_read_pickle(file), {})
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise anything: zip, pickle, JSON and decoding errors
        raise CheckpointError(_unreadable(path, error)) from error
    return _tensors(content, path), metadata


def write_file(
    tensors: dict[str, Tensor], path: str | os.PathLike, wrapper: str | None = None, metadata: dict | None = None
) -> None:
    """Write `tensors` to `path`; its ending says how. Beside it under another name first, so that nobody sees a half.

    Args:
        wrapper: in a pickle, the key under which the tensors lie ("model", "state_dict"); None for the top.
        metadata: str -> str, kept by safetensors and left out of a pickle.
    """
    check_target(path)
    file = Path(path)
    tensors = {name: _alone(tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            part, usual = Path(folder) / file.name, Path(folder) / "usual"
            usual.touch()
            if file.suffix == ".safetensors":
                _safetensors().torch.save_file(tensors, part, {"format": "pt", **(metadata or {})})
            else:
                torch.save({wrapper: tensors} if wrapper else tensors, part)
            part.chmod(usual.stat().st_mode & 0o777)  # safetensors' files are the owner's only
            os.replace(part, file)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError where torch.save runs into it
        raise CheckpointError(f"cannot write {path}: {first_line(error)}") from error


def check_target(path: str | os.PathLike) -> None:
    """Refuse a path that `write_file` could not write to."""
    _check_ending(path)
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f"{path} is a directory")
    if not file.parent.is_dir():
        raise CheckpointError(f"there is no directory {file.parent} to write {file.name} to")
    if not os.access(file.parent, os.W_OK):
        raise CheckpointError(f"the directory {file.parent} is not writable")


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few of many names, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def first_line(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _check_ending(path: str | os.PathLike) -> None:
    if Path(path).suffix not in (".safetensors", *PICKLED):
        raise CheckpointError(f"weights must be a .safetensors or .pth file, got {path}")


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError("this needs the package safetensors: pip install 'swin_fast[cli]'") from error
    return safetensors


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _safetensors().safe_open(file, "pt") as content:
        return {key: content.get_tensor(key) for key in content.keys()}, content.metadata() or {}  # noqa: SIM118


def _read_pickle(file: Path):
    return torch.load(file, map_location="cpu", weights_only=True)


def _unreadable(path: str | os.PathLike, error: Exception) -> str:
    code = re.search(r"(?:Unsupported global:|unsupported) GLOBAL (\S+)", str(error))
    if code:
        return (
            f"cannot read {path}: it holds code ({code[1]}), which is not run; if you trust the file, save its weights "
            "alone: torch.save(torch.load(path, weights_only=False)['model'], new_path)"
        )
    # without torch's advice to run the code
    reason = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    return f"cannot read {path}: truncated, damaged or no weights file: {reason or first_line(error)}"


def _tensors(content, path: str | os.PathLike) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        kind = "empty" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(f"{path} holds no state_dict: it is {kind}")
    strange = [repr(k) for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if strange:
        raise CheckpointError(f"{path} holds no state_dict: no tensor under {some(strange)}")
    return dict(content)


def _alone(tensor: Tensor) -> Tensor:
    """A tensor with no other values behind it: torch.save would write them too, and safetensors refuses them."""
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
