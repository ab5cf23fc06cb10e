"""Swin-T of other libraries at 224 x 224, before and after accelerate(): python -m benchmarks.accelerate"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

import swin_fast
from swin_fast import native, testing
from tests.weights import randomize

from . import ceilings, rows, run
from .measure import in_turn
from .models import Candidate, peer_models
from .peers import OURS

LIBRARIES = {  # name -> the first weight of its model
    "timm": "patch_embed.proj.weight",
    "torchvision": "features.0.0.weight",
    "transformers": "swin.embeddings.patch_embeddings.projection.weight",
}


def candidates(name: str, batch: int, dtype: torch.dtype, train: bool, compiled: bool) -> dict[str, Candidate]:
    """The library's model and its accelerated copy, by `name` and `OURS`, with one batch."""
    if not native.loaded:
        raise RuntimeError(f"nothing to time: {native.reason}")
    peers = peer_models()
    if name not in peers:
        raise RuntimeError(f"{name} is not installed")
    model, _, pick = peers[name]
    library = randomize(model).to(dtype).train(train)
    ours = copy.deepcopy(library)
    swin_fast.accelerate(ours, strict=True)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, 224, 224, generator=rng).to(dtype)
    labels = torch.randint(1000, (batch,), generator=rng)
    found = {}
    for key, m in ((OURS, ours), (name, library)):
        if compiled:
            m.compile()  # in place, so that the parameters keep their names
        found[key] = Candidate(m, image, labels, train, LIBRARIES[name], pick=pick)
    return found


def check(found: dict[str, Candidate], name: str, dtype: torch.dtype) -> None:
    """Raise unless ours is at most twice as far from the same model in float64 as the library's own is."""
    library = found[name]
    exact = Candidate(
        copy.deepcopy(library.model).double(), library.image.double(), library.labels, library.train, library.first,
        pick=library.pick,
    )  # fmt: skip
    truth, plain = exact.results(), library.results()
    wrong = [e for e in testing.errors(found[OURS].results(), plain, truth, dtype) if not e.ok]
    if wrong:
        raise RuntimeError(f"{name} is not timed, because its accelerated model is wrong in {dtype}: {wrong}")


def measure(args: argparse.Namespace) -> Iterator[rows.Row]:
    what = "training" if args.train else "inference"
    for dtype in (getattr(torch, name) for name in args.dtype):
        best = ceilings.measure(dtype)
        for name in args.library:
            for compiled in (False, True) if args.compiled else (False,):
                for batch in args.batch:
                    found = candidates(name, batch, dtype, args.train, compiled)
                    check(found, name, dtype)
                    parameters = sum(p.numel() * p.itemsize for p in found[OURS].model.parameters())
                    floor = best.floor(_operations(found[name]), parameters)
                    op = f"accelerate swin_t {what}{' compiled' if compiled else ''}, {name}"
                    for key, samples in in_turn(found, args.rounds).items():
                        shape = f"{batch}x3x224x224"
                        threads, allocator = args.threads[0], args.allocator
                        yield rows.make(op, shape, dtype, threads, allocator, key, samples, floor, best)
                    torch.compiler.reset()


def _operations(candidate: Candidate) -> int:
    """Of one uncompiled call; a compiled graph is not seen by the counter."""
    plain = copy.copy(candidate.model)
    plain._compiled_call_impl = None
    with FlopCounterMode(display=False) as counter:
        Candidate(plain, candidate.image, candidate.labels, candidate.train, candidate.first, pick=candidate.pick)()
    return counter.get_total_flops()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerate", description=__doc__)
    run.add_arguments(parser)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--library", nargs="+", choices=tuple(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--train", action="store_true", help="forward and backward of a training step")
    parser.add_argument("--compiled", action="store_true", help="both also compiled with torch.compile")
    run.run("benchmarks.accelerate", parser, sys.argv[1:] if argv is None else argv, measure)


if __name__ == "__main__":
    main()
