"""Runs a picture through a Swin Transformer twice, in plain PyTorch (the reference road) and with the fused op.

Prints how far apart the outputs are and the time and memory of each; a PNG shows the windows and one query's attention.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import warnings
from collections.abc import Iterator
from importlib.resources import files

import torch
from torch import Tensor, nn

from .. import __version__, dispatch, models
from . import figure, measure, picture, weights
from .attention import Core, cores, query_attention, query_to_show
from .common import UserError, at_least, chosen_backend, device, hardware, need, threads, why_not

MODELS = {"swin_t": models.swin_t, "swin_s": models.swin_s, "swin_b": models.swin_b, "swin_l": models.swin_l}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIB = 2**20
SPEED, SPACE = ("faster", "slower"), ("less", "more")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", nargs="?", metavar="IMAGE", help="a picture (default: a cat that ships with the package)")
    add("--model", choices=tuple(MODELS), default="swin_t", help="default: %(default)s")
    add("--weights", metavar="FILE", help=".safetensors or .pth checkpoint, of any library")
    add("--batch", type=at_least(1), default=1, metavar="N", help="pictures at once (default: %(default)s)")
    add("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")
    add("--size", type=at_least(32), default=224, metavar="N", help="pixels a side (default: %(default)s)")
    add("--repeat", type=at_least(1), default=7, metavar="N", help="timed runs of each road (%(default)s)")
    add("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of the random weights (default: %(default)s)")
    add("--output", default="swin_fast_demo.png", metavar="PNG", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    output = figure.check_output(args.output)
    need("matplotlib", "matplotlib")
    photo = picture.read(args.image)
    with threads(args.threads), torch.inference_mode(), warnings.catch_warnings(), _clear_memory_error(args):
        warnings.filterwarnings("ignore", "swin_fast: window attention runs as plain")  # `_print_setting` says it
        model, machine = _model(args), hardware(args.device)
        square = picture.centre_square(photo)
        x = picture.to_batch(square, args.size, args.batch).to(args.device, DTYPES[args.dtype])
        _print_setting(args, photo.size, model, machine)

        blocks = cores(model, x)
        logits, outputs = _compare(model, x)
        attention = _worst([_compare_core(core) for core in blocks])
        agreements = {"logits": outputs, f"{len(blocks)} attention cores, the worst": attention}
        _print_parity(agreements)
        bars = _measure(model, x, blocks[1], args.repeat)
        _print_bars(bars, args.repeat)
        if args.weights:
            _print_labels(logits[0])

        query = query_to_show(x[0], blocks[0], blocks[1].shift_size)
        origin = "weights from a file" if args.weights else "random weights"
        title = f"{args.model}, {origin}, batch {args.batch}, {args.dtype}, on {machine}"
        title += f"; relative difference of the outputs {outputs.relative:.1e}"
        shown = [(core, query_attention(core, query)) for core in blocks[:2]]
        figure.draw(output, square, model.patch_embed.patch_size[0], args.size, shown, bars, title)
    print(f"\nwrote {output}")
    return 0 if all(agreement.ok for agreement in agreements.values()) else 1


def _print_setting(args: argparse.Namespace, photo: tuple[int, int], model: nn.Module, machine: str) -> None:
    backend, reasons = chosen_backend(args.device.type), why_not(args.device.type)
    name = args.image or "chelsea.jpg (ships with the package)"
    origin = args.weights or f"random weights (seed {args.seed})"
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"swin_fast {__version__}, torch {torch.__version__}, {machine}")
    print(f"picture   {name}, {photo[0]} x {photo[1]}; batch {args.batch} at {args.size} x {args.size}")
    print(f"model     {args.model}, {parameters:.1f} M parameters, {args.dtype}, {origin}")
    print(f"fused     backend {backend!r}")
    if backend == "reference":
        why = next(reason for reason in reasons.values() if reason)
        print(f"          nothing is fused here, both roads are plain PyTorch: {why}")


def _print_parity(agreements: dict[str, measure.Parity]) -> None:
    print(f"\n{'parity':<33}{'largest difference':>20}{'relative':>10}")
    for name, agreement in agreements.items():
        print(f"{name:<33}{agreement.largest:>20.1e}{agreement.relative:>10.1e}")
        print(f"  {'ok' if agreement.ok else 'FAILED'}: {agreement.rule}")


def _print_bars(bars: list[figure.Bars], repeat: int) -> None:
    print(f"\n{f'median of {repeat}':<33}{'plain PyTorch':>14}{'fused':>12}")
    for bar in bars:
        plain, fused = (f"{value:.4g} {bar.unit}" for value in bar.values)
        print(f"{bar.title:<33}{plain:>14}{fused:>12}   {bar.ratio}")


def _model(args: argparse.Namespace) -> nn.Module:
    checkpoint = weights.read(args.weights) if args.weights else None
    classes = getattr(checkpoint.config, "num_classes", 0) if checkpoint else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model = MODELS[args.model](num_classes=classes or 1000)
    if checkpoint:
        weights.load_into(model, checkpoint, args.model)
    return model.to(args.device, DTYPES[args.dtype]).eval()


def _reference(road: measure.Road) -> measure.Road:
    def plain() -> Tensor:
        with dispatch.use_backend("reference"):
            return road()

    return plain


def _compare(model: nn.Module, x: Tensor) -> tuple[Tensor, measure.Parity]:
    plain, fused, truth = _reference(lambda: model(x))(), model(x), None
    if x.dtype in (torch.bfloat16, torch.float16):
        exact = copy.deepcopy(model).float()  # of the rounded weights: their rounding is not the kernel's error
        truth = _reference(lambda: exact(x.float()))()
    return fused, measure.parity(fused, plain, truth)


def _compare_core(core: Core) -> measure.Parity:
    """One block's attention alone: in a whole model, a half type's rounding can hide a fault of it."""
    half = core.qkv.dtype in (torch.bfloat16, torch.float16)
    truth = _reference(core.float().run)() if half else None
    return measure.parity(core.run(), _reference(core.run)(), truth)


def _worst(found: list[measure.Parity]) -> measure.Parity:
    return next((agreement for agreement in found if not agreement.ok), max(found, key=lambda a: a.relative))


def _measure(model: nn.Module, x: Tensor, core: Core, repeat: int) -> list[figure.Bars]:
    bars = []
    for name, road in (("whole model", lambda: model(x)), ("attention core, stage 1", core.run)):
        roads = {"plain": _reference(road), "fused": road}
        times = measure.in_turn(roads, x.device, repeat, name)
        memory = {key: measure.peak_bytes(road, x.device) / MIB for key, road in roads.items()}
        bars.append(figure.Bars(f"{name}, time", "ms", (1e3 * times["plain"], 1e3 * times["fused"]), SPEED))
        bars.append(figure.Bars(f"{name}, memory", "MiB", (memory["plain"], memory["fused"]), SPACE))
    return bars


def _print_labels(logits: Tensor) -> None:
    labels = (files("swin_fast") / "data" / "imagenet1k_labels.txt").read_text(encoding="utf-8").splitlines()
    top = logits.float().softmax(-1).topk(min(5, logits.numel()))
    print("\ntop 5")
    for share, i in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        print(f"  {100 * share:5.1f} %  {labels[i] if logits.numel() == len(labels) else f'class {i}'}")


@contextlib.contextmanager
def _clear_memory_error(args: argparse.Namespace) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = ("not enough memory", "allocate memory")  # the CPU allocator's; it has no exception of its own
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(w in str(error) for w in words):
            raise UserError(f"out of memory at batch {args.batch}, size {args.size}; try smaller ones") from error
        raise
