"""A whole Swin-T at 224 x 224, ours and its peers with the same weights: python -m benchmarks.models"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import swin_fast
from swin_fast import native, testing
from tests.models.peer_weights import to_timm, to_torchvision, to_transformers
from tests.peers import define_torchvision_operators
from tests.weights import randomize

from . import ceilings, rows, run
from .measure import in_turn
from .peers import OURS

Named = dict[str, Tensor]
REFERENCE = "swin_fast reference"


@dataclass(frozen=True)
class Candidate:
    """A model with a batch. `backend` is swin_fast's, `first` the name of the patch embedding's weight."""

    model: nn.Module
    image: Tensor
    labels: Tensor
    train: bool
    first: str
    backend: str = "auto"
    pick: Callable = lambda out: out

    def __call__(self) -> Tensor:
        """Logits; in training the parameters hold their gradients afterwards."""
        with swin_fast.use_backend(self.backend):
            if not self.train:
                with torch.inference_mode():
                    return self.pick(self.model(self.image))
            self.model.zero_grad(set_to_none=True)
            logits = self.pick(self.model(self.image))
            F.cross_entropy(logits, self.labels).backward()
            return logits.detach()

    def results(self) -> Named:
        named = {"logits": self()}
        if self.train:
            # to size one, as the allowance of the error rule wants; the same factor everywhere
            named["grad of the first weight"] = self.model.get_parameter(self.first).grad * 1e2
        return named


def classifier(named: Named) -> Named:
    """Our names in transformers' image classifier, which wraps `SwinModel`."""
    head = {f"classifier.{k.removeprefix('head.')}": t for k, t in named.items() if k.startswith("head.")}
    body = to_transformers({k: t for k, t in named.items() if not k.startswith("head.")})
    return head | {f"swin.{k}": t for k, t in body.items()}


def peer_models() -> dict[str, tuple[nn.Module, Callable[[Named], Named], Callable]]:
    """Name -> (Swin-T without drop path, our names in its tongue, its output -> logits), for each library found."""
    define_torchvision_operators()
    found = {}
    try:
        from timm.layers import set_fused_attn
        from timm.models.swin_transformer import swin_tiny_patch4_window7_224

        found["timm"] = swin_tiny_patch4_window7_224(drop_path_rate=0.0), to_timm, lambda out: out
        set_fused_attn(True, experimental=True)  # what TIMM_FUSED_ATTN=2 does
        found["timm fused_attn"] = swin_tiny_patch4_window7_224(drop_path_rate=0.0), to_timm, lambda out: out
        set_fused_attn(True)
    except ImportError as error:
        print(f"without timm: {error}", file=sys.stderr)
    try:
        from torchvision.models.swin_transformer import SwinTransformer

        model = SwinTransformer(
            [4, 4], 96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=[7, 7], stochastic_depth_prob=0.0
        )
        found["torchvision"] = model, to_torchvision, lambda out: out
    except ImportError as error:
        print(f"without torchvision: {error}", file=sys.stderr)
    try:
        from transformers import SwinConfig, SwinForImageClassification

        config = SwinConfig(
            image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], num_labels=1000,
            drop_path_rate=0.0,
        )  # fmt: skip
        found["transformers"] = SwinForImageClassification(config), classifier, lambda out: out.logits
    except ImportError as error:
        print(f"without transformers: {error}", file=sys.stderr)
    return found


def candidates(batch: int, dtype: torch.dtype, train: bool) -> dict[str, Candidate]:
    if not native.loaded:
        raise RuntimeError(f"nothing to time: {native.reason}")
    model = randomize(swin_fast.swin_t(drop_path_rate=0.0)).train(train)
    weights = dict(model.named_parameters())
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, 224, 224, generator=rng).to(dtype)
    labels = torch.randint(1000, (batch,), generator=rng)
    make = partial(Candidate, image=image, labels=labels, train=train)
    first = "patch_embed.proj.weight"
    found = {}
    for name, (peer, rename, pick) in peer_models().items():
        missing, unexpected = peer.load_state_dict(rename(weights), strict=False)
        missing = [key for key in missing if not key.endswith(("relative_position_index", "attn_mask"))]
        if missing or unexpected:
            raise RuntimeError(f"{name} has other weights: missing {missing}, unexpected {unexpected}")
        (their_first,) = rename({first: weights[first]})
        found[name] = make(peer.to(dtype).train(train), first=their_first, pick=pick)
    model = model.to(dtype)
    return {OURS: make(model, first=first), REFERENCE: make(model, first=first, backend="reference")} | found


def check(found: dict[str, Candidate], dtype: torch.dtype) -> None:
    """Raise unless every model's error is at most twice that of our reference road, against the same in float32."""
    reference = found[REFERENCE]
    plain = reference.results()
    exact = Candidate(
        swin_fast.swin_t(drop_path_rate=0.0), reference.image.double(), reference.labels, reference.train,
        reference.first, "reference",
    )  # fmt: skip
    exact.model.double().train(reference.train).load_state_dict(reference.model.state_dict())
    truth = exact.results()
    for name, candidate in found.items():
        wrong = [e for e in testing.errors(candidate.results(), plain, truth, dtype) if not e.ok]
        if wrong:
            raise RuntimeError(f"{name} is not timed, because it is wrong in {dtype}: {wrong}")


def measure(args: argparse.Namespace) -> Iterator[rows.Row]:
    op = "swin_t training" if args.train else "swin_t inference"
    for dtype in (getattr(torch, name) for name in args.dtype):
        best = ceilings.measure(dtype)
        for batch in args.batch:
            found = candidates(batch, dtype, args.train)
            check(found, dtype)
            with FlopCounterMode(display=False) as counter:
                found[REFERENCE]()
            parameters = sum(p.numel() * p.itemsize for p in found[OURS].model.parameters())
            floor = best.floor(counter.get_total_flops(), parameters)
            for name, samples in in_turn(found, args.rounds).items():
                yield rows.make(
                    op, f"{batch}x3x224x224", dtype, args.threads[0], args.allocator, name, samples, floor, best
                )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    run.add_arguments(parser)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--train", action="store_true", help="forward and backward of a training step")
    run.run("benchmarks.models", parser, sys.argv[1:] if argv is None else argv, measure)


if __name__ == "__main__":
    main()
