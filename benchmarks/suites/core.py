"""The attention core: from the qkv map to the map of the heads' outputs, and its gradients.

The original code rolls and partitions x before the qkv Linear, which moves a third of the channels: candidates "on
windows" are that road. They are given x and the windows of qkv, and their time is the roll and partition of x plus the
attention on those windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from swin_fast import native, testing, use_backend
from swin_fast.functional import window_attention
from swin_fast.geometry import padded_size

from .. import ceilings, peers
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
    compile_call,
    dtype_name,
    on_backend,
    twice,
)

DIRECTIONS = {"forward": False, "forward+backward": True}


def _stages(name, sizes, heads, window, head_dim=32, **options) -> dict[str, testing.Case]:
    """The stages of a model, whose maps halve and whose heads double; an axis of one window is not shifted."""
    cases = {}
    for n, size in enumerate(sizes):
        shift = tuple(0 if m <= w else w // 2 for m, w in zip(size, window, strict=True))
        count = heads * 2**n
        grid = "x".join(map(str, (*size, count * head_dim)))
        cases[f"{name}-stage{n + 1}"] = testing.Case(
            grid, size, window, shift, num_heads=count, head_dim=head_dim, **{"pad": "masked", **options}
        )
    return cases


_MAPS = [(n, n) for n in (56, 28, 14, 7)]
CASES = {
    **_stages("swin_t", _MAPS, 3, (7, 7)),  # Swin-S has the same
    **_stages("swin_b", _MAPS, 4, (7, 7)),
    **_stages("swin_l", _MAPS, 6, (7, 7)),
    **_stages("swin_v2_t", [(n, n) for n in (64, 32, 16, 8)], 3, (8, 8), cosine=True),
    **_stages("swin3d_t", [(16, n, n) for n in (56, 28, 14, 7)], 3, (8, 7, 7)),
    "swinir": testing.Case("64x64x180", (64, 64), (8, 8), (4, 4), num_heads=6, head_dim=30, pad="masked"),
    "swin_unetr": testing.Case(
        "48x48x48x48", (48, 48, 48), (7, 7, 7), (3, 3, 3), num_heads=3, head_dim=16, pad="attended"
    ),
}
BATCHES = {"swin_t": (1, 8, 64), "swin_b": (1, 8, 64), "swin3d_t": (1,), "swinir": (1,), "swin_unetr": (1,)}  # else 8


@dataclass(frozen=True)
class Core:
    """A core with its inputs; the last output is the core's, and gradients are of the inputs in their order."""

    forward: Callable[..., tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    incoming: tuple[Tensor, ...]
    qkv_to_map: Callable[[Tensor], Tensor]
    backward: bool

    def __call__(self) -> tuple[Tensor, ...]:
        if self.backward:
            outputs = self.forward(**self.inputs)
            return *outputs, *torch.autograd.grad(outputs, list(self.inputs.values()), self.incoming)
        with torch.inference_mode():
            return self.forward(**self.inputs)

    def results(self) -> Named:
        """One call's tensors under the names of `swin_fast.testing.run`."""
        called = self()
        named = {"out": called[len(self.incoming) - 1].detach()}
        if not self.backward:
            return named
        grads = dict(zip(self.inputs, called[len(self.incoming) :], strict=True))
        parts = self.qkv_to_map(grads.pop("qkv")).chunk(3, -1)
        named |= {f"grad {name}": part for name, part in zip("qkv", parts, strict=True)}
        return named | {f"grad {name}": grad for name, grad in grads.items()}


def padded(case: testing.Case) -> bool:
    return tuple(padded_size(case.grid, case.window_size)) != tuple(case.grid)


def names(case: testing.Case, backward: bool, device: str, compiled: bool) -> list[str]:
    others = ["eager", "sdpa"] + [f"{name} on windows" for name in ("eager", "sdpa") if not padded(case)]
    found = [*OUR_BACKENDS[device], *([REFERENCE] if device == "cuda" else []), *twice(others, compiled)]
    # FlexAttention has no backward on a CPU, and is not fused where it is not compiled
    return found + ["flex" + COMPILED] * (compiled and not (device == "cpu" and backward))


def make(
    case: testing.Case,
    dtype: torch.dtype,
    backward: bool,
    device: str = "cpu",
    compiled: bool = False,
    keep: Keep = ALL,
) -> Made:
    if not native.loaded and device == "cpu":
        raise RuntimeError(f"nothing to time: {native.reason}")
    tensors, options = testing.make_inputs(case, dtype, device)
    rng = torch.Generator().manual_seed(0)
    shape = *tensors["qkv"].shape[:-1], tensors["qkv"].shape[-1] // 3
    grad = torch.randn(shape, generator=rng).bfloat16().to(device, dtype)  # as in `testing.run`
    size, window, shift = padded_size(case.grid, case.window_size), case.window_size, case.shift_size
    split = partial(peers.split, window=window, shift=shift)
    join = partial(peers.join, size=size, window=window, shift=shift)

    def build(name: str) -> Candidate:
        if name in OUR_BACKENDS[device] or name == REFERENCE:
            backend = (OUR_BACKENDS[device] | {REFERENCE: "reference"})[name]
            run = Core(lambda **t: (window_attention(**t, **options),), leaves(tensors), (grad,), same, backward)
            return Candidate(on_backend(backend, run), on_backend(backend, run.results))
        kind, wrap = name.removesuffix(COMPILED), compile_call if name.endswith(COMPILED) else same
        attend = getattr(peers, kind.split()[0])
        from_map, from_windows = peers.roads(case, dtype, attend, device)
        if not kind.endswith("on windows"):
            run = Core(wrap(from_map), leaves(tensors), (grad,), same, backward)
        else:
            given = leaves({"x": torch.randn_like(grad)} | tensors | {"qkv": split(tensors["qkv"])})
            run = Core(wrap(from_windows), given, (split(grad), grad), join, backward)
        return Candidate(run, run.results)

    def leaves(tensors: Named) -> Named:
        return {name: t.clone().requires_grad_(backward) for name, t in tensors.items()}

    def formula(tensors: Named) -> Named:
        if backward:
            return testing.run(tensors, options, "reference")
        with torch.inference_mode(), use_backend("reference"):
            return {"out": window_attention(**tensors, **options)}

    found = {name: build(name) for name in names(case, backward, device, compiled) if keep(name)}
    channels = case.num_heads * case.head_dim
    phases = ceilings.attention_phases(case.batch * prod(case.grid), prod(window), channels, dtype.itemsize, backward)
    double = partial(formula, {name: t.double() for name, t in tensors.items()})
    return Made(dtype, found, phases, partial(formula, tensors), double)


def same(x):
    return x


def _groups() -> Iterator[Group]:
    for name, case in CASES.items():
        model = name.partition("-")[0]
        for batch in BATCHES.get(model, (8,)):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                for direction, backward in DIRECTIONS.items():
                    given = replace(case, batch=batch), dtype, backward
                    yield Group(
                        f"core/{name}/b{batch}/{dtype_name(dtype)}/{direction}", "core", f"attention {direction}",
                        f"{batch}x{case.name}", dtype, partial(names, given[0], backward), partial(make, *given),
                        ("cuda",) if batch == 64 or dtype == torch.float16 else ("cpu", "cuda"),
                    )  # fmt: skip


GROUPS = list(_groups())
