"""The command line: `swin-fast` with one of `COMMANDS`, also `python -m swin_fast`.

Exit status: 0 done, 1 a comparison failed, 2 the user asked for something impossible (one line on stderr says what).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from .. import __version__
from .common import UserError

COMMANDS = {
    "demo": "run a picture through a Swin Transformer on the plain and on the fused road, and compare them",
    "info": "what is installed, what was built, which backend would run, and why",
    "verify": "compare the fused op with plain PyTorch in float64 over shapes, dtypes and options",
    "classify": "say what is in pictures, by a checkpoint of any library",
    "convert": "write a checkpoint of one library as another library has it",
    "accelerate-check": "what accelerate() replaces in a model of another library, the parity and the speed-up",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="swin-fast", description="Fused kernels for Swin window attention.")
    parser.add_argument("--version", action="version", version=f"swin-fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, text in COMMANDS.items():
        module = import_module(f".{name.replace('-', '_')}", __name__)
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `--help` and `--version` leave through SystemExit, as in argparse."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts memory writes notes to stderr otherwise
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except UserError as error:
        print(f"swin-fast: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `swin-fast info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
