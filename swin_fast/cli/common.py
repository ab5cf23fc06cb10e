"""What the commands share: user errors, optional packages, argument types, backends, progress."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch

from .. import dispatch, native


class UserError(Exception):
    """Something only the user can put right; `main` prints it as one line and exits with 2."""


def need(module: str, package: str) -> ModuleType:
    """Import an optional module, or say which `package` is missing and how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise UserError(f"{package} is installed but does not load: {error}") from error
        raise UserError(f"this needs the package {package}: pip install 'swin_fast[cli]'") from error


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to 2**31 - 1."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"needs an integer, got {text!r}") from None
        if not low <= value < 2**31:
            raise argparse.ArgumentTypeError(f"must be at least {low} and below 2**31, got {value}")
        return value

    return parse


def device(text: str) -> torch.device:
    """An argparse type: "cpu", "cuda" or "cuda:N" that this machine has."""
    try:
        value = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}") from None
    if value.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}")
    if value.type == "cuda" and (value.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text} is not here: torch {torch.__version__} sees no such GPU")
    return value


def why_not(device_type: str) -> dict[str, str]:
    """Each backend -> why it will not run a usual call on this kind of device, "" for the one that will.

    The call is one of Swin-T's first stage in float32. Where torch sees no GPU, a GPU without a name stands for one.
    """
    absent = device_type == "cuda" and not torch.cuda.is_available()
    on = dispatch.Device("cuda") if absent else dispatch.describe(torch.device(device_type))
    call = dispatch.Call(on, torch.float32, 1, (56, 56), (7, 7), 3, 32, bias_table=True)
    try:
        chosen, reasons = dispatch.choose(call)
    except ValueError as error:
        raise UserError(error) from error
    return {name: "" if name == chosen else reasons[name] for name in dispatch.BACKENDS[1:]}


def chosen_backend(device_type: str) -> str:
    """The backend that will run; a UserError where the one that was asked for by name cannot."""
    reasons = why_not(device_type)
    for name, reason in reasons.items():
        if not reason:
            return name
    forced = dispatch.forced_backend()
    raise UserError(f"the backend {forced!r} was asked for, but {reasons[forced]}")


def cpu_path() -> str | None:
    """The instruction set whose kernels run on this CPU, None where no library is loaded."""
    try:
        return native.cpu_capability() if native.loaded else None
    except RuntimeError as error:  # the knob names one that is not there; the library puts its own source line first
        knob = "SWIN_FAST_CPU_CAPABILITY"
        raise UserError(knob + str(error).partition("\n")[0].rpartition(knob)[2]) from error


def hardware(on: torch.device) -> str:
    """What `on` is, in a few words."""
    if on.type == "cuda":
        return torch.cuda.get_device_name(on)
    kind, count = cpu_path() or platform.machine(), torch.get_num_threads()
    return f"cpu ({kind}), {count} thread{'s' * (count > 1)}"


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run the block on `count` CPU threads (None: as many as torch chose)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def progress(items: Iterable, total: int, text: str) -> Iterable:
    """`items` with a progress bar where stderr is a terminal, unchanged elsewhere."""
    if not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        print("no progress bar without tqdm: pip install 'swin_fast[cli]'", file=sys.stderr)
        return items
    return tqdm(items, total=total, desc=text, leave=False, file=sys.stderr)
