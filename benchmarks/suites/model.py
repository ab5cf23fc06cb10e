"""Whole models at inference, and training steps: ours, the libraries' with the same weights, and their exports."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import swin_fast
from swin_fast import native
from tests.weights import randomize

from .. import exported, libraries
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
    dtype_name,
    on_backend,
    twice,
)

FIRST = "patch_embed.proj.weight"
IMAGES = {
    "swin_t": (224, 224), "swin_s": (224, 224), "swin_b": (224, 224), "swin_l": (224, 224), "swin_v2_t": (256, 256),
    "swin3d_t": (16, 112, 112), "swin_unetr": (96, 96, 96),
}  # fmt: skip
INFERENCE = [(name, batch) for name in IMAGES for batch in ((1, 8) if name in ("swin_t", "swin_v2_t") else (1,))]
TRAINING = [("swin_t", 8)]
ON_A_GPU = [("swin_t", 64), ("swin_v2_t", 64), ("swin_b", 64)]
OPTIONS = {
    "swin3d_t": {"policy": "video"},  # torchvision's rules for maps that the window does not fit
    "swin_unetr": {"embed_dim": 48},  # of the paper; MONAI's default is half of it
}
RATE = 1e-7  # of AdamW: the weights stay what they were checked with, and a step takes as long


@dataclass
class Run:
    """A model with a batch; with `labels`, a training step: forward, backward, AdamW. `first` is a watched weight."""

    model: nn.Module
    image: Tensor
    pick: Callable = lambda out: out
    labels: Tensor | None = None
    first: str = FIRST
    compiled: bool = False
    optimizer: torch.optim.Optimizer | None = field(default=None, init=False)

    def __post_init__(self):
        self.road = torch.compile(self.model, dynamic=False) if self.compiled else self.model

    def forward(self) -> Tensor:
        return self.pick(self.road(self.image))

    def __call__(self) -> Tensor:
        if self.labels is None:
            with torch.inference_mode():
                return self.forward()
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=True)
        loss = self._backward()[1]
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)  # at the end, so that gradients count as memory of this call
        return loss

    def _backward(self) -> tuple[Tensor, Tensor]:
        logits = self.forward()
        loss = F.cross_entropy(logits, self.labels)
        loss.backward()
        return logits.detach(), loss.detach()

    def results(self) -> Named:
        """Logits; in training the gradient of the first weight, too, and no step is made."""
        if self.labels is None:
            return {"logits": self().flatten(1)}
        self.model.zero_grad(set_to_none=True)
        logits, _ = self._backward()
        # to size one, as the allowance of the error rule wants; the same factor everywhere
        grad = self.model.get_parameter(self.first).grad * 1e2
        self.model.zero_grad(set_to_none=True)
        return {"logits": logits, "grad of the first weight": grad}


def names(name: str, train: bool, dtype: torch.dtype, device: str, compiled: bool) -> list[str]:
    found = twice([*OUR_BACKENDS[device], REFERENCE, *libraries.of_model(name)], compiled)
    if device == "cuda" or train:
        return found
    if "torchvision" not in found:  # whose models are exported
        return found
    # ONNX Runtime has no bfloat16 on a CPU
    return found + [engine for engine in exported.ENGINES if dtype == torch.float32 or engine == "openvino"]


def make(
    name: str,
    batch: int,
    dtype: torch.dtype,
    train: bool,
    device: str = "cpu",
    compiled: bool = False,
    keep: Keep = ALL,
) -> Made:
    if not native.loaded and device == "cpu":
        raise RuntimeError(f"nothing to time: {native.reason}")
    model = randomize(swin_fast.models.build(name, drop_path_rate=0.0, **OPTIONS.get(name, {}))).train(train)
    weights = dict(model.named_parameters())
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(batch, model.config.in_chans, *IMAGES[name], generator=rng).to(device, dtype)
    labels = torch.randint(1000, (batch,), generator=rng).to(device) if train else None
    backends = OUR_BACKENDS[device] | {REFERENCE: "reference"}
    pick = libraries.last_map if name == "swin_unetr" else Run.pick
    own = Run(copy.deepcopy(model).to(device, dtype), image, pick, labels)
    built: dict[str, libraries.Model] = {}

    def library(kind: str) -> libraries.Model:
        if kind not in built:
            peer = libraries.model(kind, name)
            libraries.load(peer.module, peer.rename(weights), kind)
            built[kind] = replace(peer, module=peer.module.train(train))
        return built[kind]

    def engine(kind: str) -> Candidate:
        file = exported.export(f"torchvision-{name}", library("torchvision").module.float(), image.float())
        threads = torch.get_num_threads()
        if kind == "onnxruntime":
            call = exported.onnxruntime_call(file, image, threads)
        else:
            call = exported.openvino_call(file, image, threads, dtype)
        return Candidate(call, lambda: {"logits": call().flatten(1).clone()}, libraries.DISTRIBUTIONS[kind], False)

    def make_one(full_name: str) -> Candidate:
        kind, is_compiled = full_name.removesuffix(COMPILED), full_name.endswith(COMPILED)
        if kind in backends:
            run = replace(own, compiled=is_compiled)
            return Candidate(on_backend(backends[kind], run), on_backend(backends[kind], run.results))
        if kind in exported.ENGINES:
            return engine(kind)
        peer = library(kind)
        (first,) = peer.rename({FIRST: weights[FIRST]})
        run = Run(peer.module.to(device, dtype), image, peer.pick, labels, first, is_compiled)
        return Candidate(run, run.results, libraries.DISTRIBUTIONS[kind])

    # an export is of float32 weights, before the others are given their dtype
    wanted = [n for n in names(name, train, dtype, device, compiled) if keep(n)]
    order = sorted(wanted, key=lambda n: n not in exported.ENGINES)
    found, left_out = build({n: partial(make_one, n) for n in order})
    found = {n: found[n] for n in wanted if n in found}
    return Made(dtype, found, phases(own), on_backend("reference", own.results), partial(_truth, own), left_out)


def _truth(run: Run) -> Named:
    """What `run` gives in float64, in plain PyTorch."""
    exact = replace(run, model=copy.deepcopy(run.model).double(), image=run.image.double(), compiled=False)
    return on_backend("reference", exact.results)()


def phases(run: Run) -> tuple[tuple[float, float], ...]:
    """Operations of the products, and bytes of the parameters: read once; in a step also gradient, step and states."""
    with swin_fast.use_backend("reference"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run.pick(run.model(run.image))
    parameters = sum(p.numel() * p.itemsize for p in run.model.parameters())
    if run.labels is None:
        return ((counter.get_total_flops(), parameters),)
    # each product of a forward has two in the backward; weights read, gradients written, then AdamW moves seven
    return ((3 * counter.get_total_flops(), 2 * parameters), (0, 7 * parameters))


def _shape(name: str, batch: int) -> str:
    return "x".join(map(str, (batch, swin_fast.models.CONFIGS[name].in_chans, *IMAGES[name])))


def _groups() -> Iterator[Group]:
    for suite, train in (("model", False), ("training", True)):
        for name, batch in (TRAINING if train else INFERENCE) + ON_A_GPU:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                if train and dtype == torch.float16:
                    continue  # needs a scaler of the loss
                yield Group(
                    f"{suite}/{name}/b{batch}/{dtype_name(dtype)}", suite,
                    f"{name} {'training step' if train else 'inference'}", _shape(name, batch), dtype,
                    partial(names, name, train, dtype), partial(make, name, batch, dtype, train),
                    ("cuda",) if dtype == torch.float16 or (name, batch) in ON_A_GPU else ("cpu", "cuda"),
                )  # fmt: skip


GROUPS = list(_groups())
