"""Swin-T of other libraries, before and after accelerate()."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

import swin_fast
from swin_fast import native
from tests.weights import randomize

from .. import libraries
from ..group import ALL, COMPILED, OUR_BACKENDS, Candidate, Group, Keep, Made, dtype_name, on_backend, twice
from .model import IMAGES, Run, phases

LIBRARIES = {  # name -> the first weight of its model
    "timm": "patch_embed.proj.weight",
    "torchvision": "features.0.0.weight",
    "transformers": "swin.embeddings.patch_embeddings.projection.weight",
}
DIRECTIONS = {"inference": False, "training step": True}


def names(library: str, device: str, compiled: bool) -> list[str]:
    return twice([*OUR_BACKENDS[device], library], compiled)


def make(
    library: str,
    batch: int,
    dtype: torch.dtype,
    train: bool,
    device: str = "cpu",
    compiled: bool = False,
    keep: Keep = ALL,
) -> Made:
    """The library's model and its accelerated copy with one batch."""
    if not native.loaded and device == "cpu":
        raise RuntimeError(f"nothing to time: {native.reason}")
    peer = libraries.model(library, "swin_t")
    theirs = randomize(peer.module).to(device, dtype).train(train)
    accelerated = copy.deepcopy(theirs)
    swin_fast.accelerate(accelerated, strict=True)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, *IMAGES["swin_t"], generator=rng).to(device, dtype)
    labels = torch.randint(1000, (batch,), generator=rng).to(device) if train else None
    plain = Run(theirs, image, peer.pick, labels, LIBRARIES[library])

    def make_one(full_name: str) -> Candidate:
        kind, is_compiled = full_name.removesuffix(COMPILED), full_name.endswith(COMPILED)
        run = replace(plain, model=theirs if kind == library else accelerated, compiled=is_compiled)
        backend = OUR_BACKENDS[device].get(kind, "auto")
        return Candidate(on_backend(backend, run), on_backend(backend, run.results), libraries.DISTRIBUTIONS[library])

    def truth():
        return replace(plain, model=copy.deepcopy(theirs).double(), image=image.double()).results()

    found = {name: make_one(name) for name in names(library, device, compiled) if keep(name)}
    return Made(dtype, found, phases(plain), plain.results, truth)


def _groups() -> Iterator[Group]:
    for library in LIBRARIES:
        for direction, train in DIRECTIONS.items():
            for batch in (1, 8) if train else (1, 8, 64):
                for dtype in (torch.float32, torch.bfloat16):
                    kind = direction.replace(" ", "-")
                    yield Group(
                        f"accelerate/{library}/swin_t/b{batch}/{dtype_name(dtype)}/{kind}", "accelerate",
                        f"swin_t {direction}, {library}", f"{batch}x3x224x224", dtype, partial(names, library),
                        partial(make, library, batch, dtype, train), ("cuda",) if batch == 64 else ("cpu", "cuda"),
                    )  # fmt: skip


GROUPS = list(_groups())
