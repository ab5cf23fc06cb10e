"""Makes a Swin model of another library, accelerates it, and prints what was replaced, the parity and the speed-up.

LIB:MODEL is timm:NAME, torchvision:NAME, transformers:TYPE (a model type such as swin or swinv2, or a folder with a
config) or monai:SwinUNETR. The weights are random, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from .. import __version__, integrations
from ..integrations.verify import example_input
from . import measure
from .common import UserError, at_least, chosen_backend, device, hardware, threads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside another torch
        raise UserError(f"{name} is needed for this and does not load: {error}") from error


def _timm(name: str) -> nn.Module:
    return _library("timm").create_model(name, pretrained=False)


def _torchvision(name: str) -> nn.Module:
    return _library("torchvision.models").get_model(name, weights=None)


def _transformers(name: str) -> nn.Module:
    transformers = _library("transformers")
    known = transformers.CONFIG_MAPPING
    config = known[name]() if name in known else transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    return transformers.AutoModel.from_config(config)


def _monai(name: str) -> nn.Module:
    nets = _library("monai.networks.nets")
    if name != "SwinUNETR":
        raise ValueError("the only Swin of MONAI is SwinUNETR")
    return nets.SwinUNETR(in_channels=1, out_channels=2)


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "monai": _monai,
}


def target(text: str) -> tuple[str, str]:
    """An argparse type: LIB:MODEL."""
    library, colon, name = text.partition(":")
    if library not in BUILDERS or not colon or not name:
        raise argparse.ArgumentTypeError(f"must be LIB:MODEL with LIB one of {', '.join(BUILDERS)}, got {text!r}")
    return library, name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=target, metavar="LIB:MODEL", help="for example timm:swin_tiny_patch4_window7_224")
    add("--batch", type=at_least(1), default=1, metavar="N", help="inputs at once (default: %(default)s)")
    add("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")
    add("--repeat", type=at_least(1), default=7, metavar="N", help="timed runs of each (default: %(default)s)")
    add("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of weights and input (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    with threads(args.threads), torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "swin_fast: window attention runs as plain")  # the backend is printed
        library, name = args.model
        model = _model(library, name, args)
        given = _input(model, args)
        print(f"swin_fast {__version__}, torch {torch.__version__}, {hardware(args.device)}")
        print(f"{library}:{name}, batch {args.batch}, {args.dtype}, backend {chosen_backend(args.device.type)!r}\n")
        fused = copy.deepcopy(model)
        report = integrations.accelerate(fused)
        print(report)
        if not report.replaced:
            raise UserError(f"nothing in {library}:{name} could be replaced")
        roads = {"library": lambda: _first(_call(model, given)), "accelerated": lambda: _first(_call(fused, given))}
        truth = None
        if args.dtype in ("bfloat16", "float16"):
            exact = copy.deepcopy(model).float()
            truth = _first(_call(exact, {k: t.float() for k, t in given.items()}))
        parity = measure.parity(roads["accelerated"](), roads["library"](), truth)
        print(f"\nparity   largest difference {parity.largest:.1e}, relative {parity.relative:.1e}")
        print(f"         {'ok' if parity.ok else 'FAILED'}: {parity.rule}")
        times = measure.in_turn(roads, args.device, args.repeat, "time")
        before, after = (1e3 * times[key] for key in roads)
        print(f"time     {before:.4g} ms before, {after:.4g} ms after: {before / after:.2f}x (median of {args.repeat})")
    return 0 if parity.ok else 1


def _model(library: str, name: str, args: argparse.Namespace) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(args.seed)
        try:
            model = BUILDERS[library](name)
        except UserError:
            raise
        except Exception as error:  # whatever a library raises for a name it does not have
            raise UserError(f"{library} makes no model {name!r}: {error}".partition("\n")[0]) from error
        for p in model.parameters():  # off the initial values: a norm that starts at zero would hide the attention
            p.add_(0.05 * torch.randn(p.shape, dtype=p.dtype))
    return model.to(args.device, DTYPES[args.dtype]).eval()


def _input(model: nn.Module, args: argparse.Namespace) -> dict[str | int, Tensor]:
    """Arguments by their place or name, for `args.batch` inputs."""
    if type(model).__name__ == "SwinUNETR":
        found = (torch.zeros(1, 1, 64, 64, 64),)
    else:
        try:
            found = example_input(model)
        except ValueError as error:
            raise UserError(f"the size of the input is not known: {error}") from error
    items = found.items() if isinstance(found, dict) else enumerate(found)
    rng = torch.Generator().manual_seed(args.seed)
    return {
        key: torch.randn(args.batch, *t.shape[1:], generator=rng).to(args.device, DTYPES[args.dtype])
        for key, t in items
    }


def _call(model: nn.Module, given: dict[str | int, Tensor]) -> object:
    places = [t for key, t in given.items() if isinstance(key, int)]
    return model(*places, **{key: t for key, t in given.items() if isinstance(key, str)})


def _first(out) -> Tensor:
    """The first tensor of what a model returns."""
    return out if isinstance(out, Tensor) else next(iter(out.values() if hasattr(out, "values") else out))
