"""What benchmarks.scaling runs at maps of any size: the attention core at stage 1 of Swin-T, and a whole Swin-T.

A map that windows do not divide is padded, as the models do it: at 2048 x 2048 no stage of Swin-T is a multiple of 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import swin_fast
from swin_fast import testing
from swin_fast.functional import window_attention
from swin_fast.geometry import bias_table_size
from tests.models.peer_weights import to_timm, to_torchvision
from tests.peers import define_torchvision_operators
from tests.weights import randomize

from . import ceilings, peers
from .peers import OURS, WINDOW

PATCH, SHIFT, HEADS, CHANNELS = 4, WINDOW // 2, 3, 96
REFERENCE = "swin_fast reference"
CANDIDATES = {"core": (OURS, "eager", "sdpa"), "model": (OURS, "timm", "torchvision")}
LARGEST_FLOAT32 = 1e-4  # two candidates may differ by so much of the largest value; in the half types by 8 roundings


@dataclass(frozen=True)
class Point:
    """`side` is that of the picture in pixels; the core's map has a quarter of it. `train` has the backward, too."""

    part: str
    candidate: str
    batch: int
    side: int
    dtype: str = "float32"
    train: bool = False

    @property
    def op(self) -> str:
        if self.part == "core":
            return "attention forward+backward" if self.train else "attention forward"
        return "swin_t training" if self.train else "swin_t inference"

    @property
    def shape(self) -> str:
        cells = self.side // PATCH
        return (
            f"{self.batch}x{cells}x{cells}x{CHANNELS}"
            if self.part == "core"
            else f"{self.batch}x3x{self.side}x{self.side}"
        )

    @property
    def tokens(self) -> int:
        """Of the map after the patch embedding."""
        return self.batch * (self.side // PATCH) ** 2

    def floor(self, best: ceilings.Ceilings) -> float:
        """Seconds; a model moves its parameters and its picture at least."""
        dtype = getattr(torch, self.dtype)
        if self.part == "core":
            return ceilings.attention_floor(best, self.tokens, WINDOW**2, CHANNELS, dtype.itemsize, self.train)
        with torch.device("meta"):
            model, image = swin_fast.swin_t(drop_path_rate=0.0), torch.empty(self.batch, 3, self.side, self.side)
        with swin_fast.use_backend("reference"), FlopCounterMode(display=False) as counter:
            model(image)
        elements = sum(p.numel() for p in model.parameters()) + image.numel()
        return best.floor((1 + 2 * self.train) * counter.get_total_flops(), elements * dtype.itemsize)


@dataclass(frozen=True)
class Road:
    """`forward(*inputs)` with fixed numbers. With a backward, the `leaves` by name get gradients."""

    forward: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    incoming: Tensor | None
    leaves: dict[str, Tensor]
    backend: str = "auto"

    def __call__(self) -> tuple[Tensor, ...]:
        with swin_fast.use_backend(self.backend):
            if self.incoming is None:
                with torch.inference_mode():
                    return (self.forward(*self.inputs),)
            out = self.forward(*self.inputs)
            return out.detach(), *torch.autograd.grad(out, list(self.leaves.values()), self.incoming)

    def results(self) -> dict[str, Tensor]:
        return dict(zip(["out", *(f"grad {name}" for name in self.leaves)], self(), strict=False))


def road(point: Point, device: torch.device, dtype: torch.dtype | None = None, policy: str | None = None) -> Road:
    """The candidate of `point`, on numbers that depend on its size alone."""
    return (_core if point.part == "core" else _model)(point, device, dtype or getattr(torch, point.dtype), policy)


def _core(point: Point, device: torch.device, dtype: torch.dtype, policy: str | None) -> Road:
    side = point.side // PATCH
    rng = torch.Generator().manual_seed(0)
    given = getattr(torch, point.dtype)
    qkv = torch.randn(point.batch, side, side, 3 * CHANNELS, generator=rng).to(given).to(device, dtype)
    table = torch.randn(bias_table_size((WINDOW,) * 2), HEADS, generator=rng).to(given).to(device, dtype)
    zeros = qkv.new_zeros(3 * CHANNELS)
    if point.candidate in (OURS, REFERENCE):
        options = {"num_heads": HEADS, "window_size": (WINDOW,) * 2, "shift_size": (SHIFT,) * 2, "pad_qkv": zeros}
        forward = partial(window_attention, **options)
    else:
        case = testing.Case("", (side,) * 2, (WINDOW,) * 2, (SHIFT,) * 2, point.batch, HEADS)
        from_map, _ = peers.roads(case, dtype, getattr(peers, point.candidate), str(device))

        def forward(qkv: Tensor, table: Tensor) -> Tensor:
            return from_map(qkv, table, zeros)[0]

    leaves = {"qkv": qkv, "bias_table": table}
    if not point.train:
        return Road(forward, (qkv, table), None, {}, _backend(point))
    for leaf in leaves.values():
        leaf.requires_grad_()
    incoming = torch.randn(*qkv.shape[:-1], CHANNELS, generator=rng).to(given).to(device, dtype)
    return Road(forward, (qkv, table), incoming, leaves, _backend(point))


def _model(point: Point, device: torch.device, dtype: torch.dtype, policy: str | None) -> Road:
    given = getattr(torch, point.dtype)
    ours = randomize(swin_fast.swin_t(img_size=point.side, drop_path_rate=0.0, policy=policy))
    weights, model, first = dict(ours.named_parameters()), ours, "patch_embed.proj.weight"
    if point.candidate not in (OURS, REFERENCE):
        model, rename = _peer(point.candidate, point.side)
        missing, unexpected = model.load_state_dict(rename(weights), strict=False)
        missing = [key for key in missing if not key.endswith(("relative_position_index", "attn_mask"))]
        if missing or unexpected:
            raise RuntimeError(f"{point.candidate} has other weights: missing {missing}, unexpected {unexpected}")
        (first,) = rename({first: weights[first]})
    model = model.to(given).to(device, dtype).train(point.train)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(point.batch, 3, point.side, point.side, generator=rng).to(given).to(device, dtype)
    if not point.train:
        return Road(model, (image,), None, {}, _backend(point))
    leaves = {first: model.get_parameter(first)} | {n: p for n, p in model.named_parameters() if n != first}
    incoming = torch.randn(point.batch, 1000, generator=rng).to(given).to(device, dtype)
    return Road(model, (image,), incoming, leaves, _backend(point))


def _peer(name: str, side: int) -> tuple[torch.nn.Module, Callable]:
    define_torchvision_operators()
    if name == "timm":
        from timm.models.swin_transformer import swin_tiny_patch4_window7_224

        return swin_tiny_patch4_window7_224(img_size=side, drop_path_rate=0.0), to_timm
    from torchvision.models.swin_transformer import SwinTransformer

    config = {"depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": [WINDOW] * 2}
    return SwinTransformer([PATCH] * 2, CHANNELS, **config, stochastic_depth_prob=0.0), to_torchvision


def _backend(point: Point) -> str:
    return "reference" if point.candidate == REFERENCE else "auto"


def _policy(point: Point) -> str | None:
    """Libraries pad in different orders: a peer's model is held against ours with its own policy."""
    return None if point.part == "core" or point.candidate == OURS else point.candidate


def check(point: Point, device: torch.device) -> None:
    """Raise unless the candidate keeps the tests' error rule, against the formula in float64 and in its own dtype."""
    plain = replace(point, candidate=REFERENCE)
    policy = _policy(point)
    roads = [road(point, device), road(plain, device, policy=policy), road(plain, device, torch.float64, policy)]
    got, rough, exact = (_first_two(r.results()) for r in roads)
    wrong = [e for e in testing.errors(got, rough, exact, getattr(torch, point.dtype)) if not e.ok]
    if wrong:
        raise RuntimeError(f"{point.candidate} is not timed, because it is wrong at {point.shape}: {wrong}")


def _first_two(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of the first leaf, by place: peers name their weights in their own way."""
    return dict(zip(("out", "grad"), results.values(), strict=False))


def apart(point: Point, own: Road, device: torch.device) -> float:
    """Largest difference between the outputs of the candidate, `own`, and of ours, as a share of ours' largest value.

    Raises RuntimeError where that is more than rounding.
    """
    ours = road(replace(point, candidate=OURS), device, policy=_policy(point))
    theirs = own()[0]
    largest = difference = 0.0
    for a, b in zip(_pieces(ours()[0]), _pieces(theirs), strict=True):
        largest, difference = max(largest, b.abs().max().item()), max(difference, (a - b).abs().max().item())
    dtype = getattr(torch, point.dtype)
    bound = LARGEST_FLOAT32 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    if not difference <= bound * largest:
        raise RuntimeError(f"{point.candidate} and ours are {difference / largest:.1e} apart at {point.shape}")
    return difference / largest


def _pieces(t: Tensor) -> Iterator[Tensor]:
    """Rows of all maps, some at a time, so that comparing needs no memory of its own."""
    rows = t.reshape(-1, prod(t.shape[-2:])) if t.dim() > 2 else t
    return iter(rows.split(256))
