"""Two suites on a map: the attention layer with its Linears, and the whole block around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import swin_fast
from swin_fast import native, testing
from swin_fast.geometry import padded_size, relative_position_index
from swin_fast.modules.block import SwinTransformerBlockV2
from swin_fast.modules.block_3d import SwinTransformerBlock3D
from tests.weights import randomize

from .. import libraries, peers
from ..group import (
    ALL,
    COMPILED,
    OUR_BACKENDS,
    REFERENCE,
    Candidate,
    Group,
    Keep,
    Made,
    Named,
    build,
    compile_call,
    dtype_name,
    on_backend,
    twice,
)
from .core import BATCHES, CASES, DIRECTIONS, padded

SUITES = ("layer", "block")
TIMED = [
    *(f"swin_t-stage{n}" for n in (1, 2, 3, 4)), "swin_b-stage3", "swin_v2_t-stage1", "swin_v2_t-stage3",
    "swin3d_t-stage1", "swin3d_t-stage3", "swin_unetr",
]  # fmt: skip
WATCHED = ("relative_position_bias_table", "logit_scale")  # a parameter that every library has under this name


@dataclass(frozen=True)
class Run:
    """Forward of a module by `road`; with `incoming`, also the gradients of x and of all parameters."""

    road: Callable[[Tensor], Tensor]
    parameters: Named
    x: Tensor
    incoming: Tensor | None = None

    def __call__(self) -> tuple[Tensor, ...]:
        if self.incoming is None:
            with torch.inference_mode():
                return (self.road(self.x),)
        out = self.road(self.x)
        return out, *torch.autograd.grad(out, [self.x, *self.parameters.values()], self.incoming)

    def results(self) -> Named:
        out, *grads = self()
        named = {"out": out.detach()}
        if grads:
            (watched,) = [g for k, g in zip(self.parameters, grads[1:], strict=True) if k.endswith(WATCHED)]
            named |= {"grad x": grads[0], "grad of the bias table or scale": watched.flatten()}
        return named


def ours(case: testing.Case) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Our block with weights that show mistakes, and its forward on a map."""
    channels, heads, side, shift = case.num_heads * case.head_dim, case.num_heads, case.window_size, case.shift_size
    if len(case.grid) == 3:
        module = SwinTransformerBlock3D(channels, heads, side, shift, policy="video")
        whole = module
    else:
        kind = SwinTransformerBlockV2 if case.cosine else swin_fast.SwinTransformerBlock
        module = kind(channels, case.grid, heads, side[0], shift[0])

        def whole(x: Tensor) -> Tensor:
            return module(x.flatten(1, 2)).view(x.shape)

    return randomize(module), whole


def hand_written(attn: nn.Module, case: testing.Case, attend: Callable, dtype, device) -> Callable[[Tensor], Tensor]:
    """The layer as in the original model code, with our module's weights: x is padded, rolled and partitioned."""
    window, shift = case.window_size, case.shift_size
    size = tuple(padded_size(case.grid, window))
    index = relative_position_index(window).to(device)
    mask = peers.seam_mask(size, window, shift, dtype, device)
    amounts = [n for g, p in zip(reversed(case.grid), reversed(size), strict=True) for n in (0, p - g)]

    def layer(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, *amounts)) if padded(case) else x
        qkv, _ = attn.project_qkv(peers.split(x, window, shift))
        table, scale = attn.position_bias(window)["bias_table"], attn.logits().get("logit_scale")
        scale = None if scale is None else scale.to(x.dtype)
        out = attn.proj(attend(qkv, table.to(x.dtype), index, mask, scale))
        out = peers.join(out, size, window, shift)
        return out[(slice(None), *(slice(n) for n in case.grid))] if padded(case) else out

    return layer


def names(suite: str, case: testing.Case, device: str, compiled: bool) -> list[str]:
    own = [*OUR_BACKENDS[device], REFERENCE]
    others = libraries.of_block(case)
    if suite == "layer":  # transformers' V2 and MONAI have no layer apart from its block
        others = ["eager", "sdpa"] + [n for n in others if n != "monai" and (n, case.cosine) != ("transformers", True)]
    return twice(own + others, compiled)


def make(
    suite: str,
    case: testing.Case,
    dtype: torch.dtype,
    backward: bool,
    device: str = "cpu",
    compiled: bool = False,
    keep: Keep = ALL,
) -> Made:
    if not native.loaded and device == "cpu":
        raise RuntimeError(f"nothing to time: {native.reason}")
    module, whole = ours(case)
    weights = dict(module.named_parameters())
    shape = case.batch, *case.grid, case.num_heads * case.head_dim
    rng = torch.Generator().manual_seed(0)
    x, incoming = (torch.randn(shape, generator=rng).bfloat16().to(device, dtype) for _ in range(2))
    module = module.to(device, dtype)
    road = whole if suite == "block" else partial(_layer, module.attn, case.shift_size)

    def run(road: Callable, module: nn.Module, x: Tensor = x) -> Run:
        part = module if suite == "block" else module.get_submodule(_attention(module))
        leaf = x.clone().requires_grad_(backward)
        return Run(road, dict(part.named_parameters()), leaf, incoming.to(x.dtype) if backward else None)

    def make_one(name: str) -> Candidate:
        kind, wrap = name.removesuffix(COMPILED), compile_call if name.endswith(COMPILED) else lambda call: call
        backends = OUR_BACKENDS[device] | {REFERENCE: "reference"}
        if kind in backends:
            found = run(wrap(road), module)
            return Candidate(on_backend(backends[kind], found), on_backend(backends[kind], found.results))
        if kind in ("eager", "sdpa"):
            found = run(wrap(hand_written(module.attn, case, getattr(peers, kind), dtype, device)), module)
            return Candidate(found, found.results)
        peer = libraries.block(kind, case)
        named = peer.rename({f"layers.0.blocks.0.{k}": p for k, p in weights.items()})
        libraries.load(peer.module, {k.removeprefix(peer.prefix): t for k, t in named.items()}, kind)
        peer.module.to(device, dtype)
        found = run(wrap(peer.whole if suite == "block" else peer.layer), peer.module)
        return Candidate(found, found.results, libraries.DISTRIBUTIONS[kind])

    reference = run(road, module)
    with swin_fast.use_backend("reference"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        road(x)
    moved = _bytes([x] * (5 if backward else 2)) + _bytes(reference.parameters.values()) * (3 if backward else 1)

    def truth() -> Named:
        exact, exact_whole = ours(case)
        exact.to(device, torch.float64).load_state_dict(module.state_dict())
        exact_road = exact_whole if suite == "block" else partial(_layer, exact.attn, case.shift_size)
        return on_backend("reference", run(exact_road, exact, x.double()).results)()

    found, left_out = build(
        {name: partial(make_one, name) for name in names(suite, case, device, compiled) if keep(name)}
    )
    # each product of a forward has two in the backward
    phases = ((counter.get_total_flops() * (3 if backward else 1), moved),)
    return Made(dtype, found, phases, on_backend("reference", reference.results), truth, left_out)


def _layer(attn: nn.Module, shift, x: Tensor) -> Tensor:
    return attn(x, None, shift)


def _attention(module: nn.Module) -> str:
    return "attn" if hasattr(module, "attn") else "attention"


def _bytes(tensors) -> int:
    return sum(t.numel() * t.itemsize for t in tensors)


def _groups() -> Iterator[Group]:
    for suite in SUITES:
        for name in TIMED:
            case = replace(CASES[name], batch=min(8, BATCHES.get(name.partition("-")[0], (8,))[-1]))
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                for direction, backward in DIRECTIONS.items():
                    yield Group(
                        f"{suite}/{name}/b{case.batch}/{dtype_name(dtype)}/{direction}", suite,
                        f"{suite} {direction}", f"{case.batch}x{'x'.join(map(str, case.grid))}"
                        f"x{prod((case.num_heads, case.head_dim))}", dtype, partial(names, suite, case),
                        partial(make, suite, case, dtype, backward),
                        ("cuda",) if dtype == torch.float16 else ("cpu", "cuda"),
                    )  # fmt: skip


GROUPS = list(_groups())
