"""Checkpoint files for the commands: what is wrong with one is the user's to put right."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..models.base import SwinModel
from ..models.checkpoints import Checkpoint, CheckpointError, read_checkpoint
from ..models.checkpoints.load import fit
from .common import UserError, at_least

_SAID = {"window_size": "--window-size", "img_size": "--img-size", "prefix": "--prefix"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a file may not say."""
    add = parser.add_argument
    add("--window-size", type=at_least(1), metavar="N", help="of a Swin V2, where its file does not say it")
    add("--img-size", type=_img_size, metavar="N", help="pixels (N or HxW) that the model was built for, likewise")
    add("--prefix", metavar="TEXT", help="what the keys of the model start with, where a file holds several")


def read(path: str, args: argparse.Namespace | None = None) -> Checkpoint:
    """The checkpoint in a file of any library; `args` are those of `add_arguments`, if the command has them."""
    with user_errors(_SAID if args else {}):
        return read_checkpoint(path, **{name: getattr(args, name) for name in _SAID} if args else {})


def load_into(model: SwinModel, checkpoint: Checkpoint, name: str) -> None:
    """The checkpoint's weights into a model that messages call by `name`."""
    with user_errors():
        model.load_state_dict(fit(checkpoint, model, name=name), strict=True)


@contextmanager
def user_errors(options: dict[str, str] | None = None) -> Iterator[None]:
    """A bad checkpoint becomes one line and exit status 2; what it says to give is given as one of `options`."""
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        for name, option in (options or {}).items():
            text = re.sub(rf"\b{name}=(?=\S)", f"{option} ", text)
            text = re.sub(rf"\b{name}=", option, text)
        raise UserError(text) from error


def _img_size(text: str) -> int | tuple[int, int]:
    sides = tuple(at_least(1)(side) for side in text.split("x"))
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"must be N or HxW, got {text!r}")
    return sides if len(sides) == 2 else sides[0]
