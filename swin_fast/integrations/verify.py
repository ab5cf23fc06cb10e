"""`accelerate(verify=...)`: one run before and one after, compared at every replaced module and at the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor, nn

from .report import Report

# Largest difference as a share of the largest value, through a whole model. The half types' own error grows with the
# depth, so there it only tells a wrong result from rounding.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}


def example_input(model: nn.Module) -> tuple | dict:
    """A random input of the size that the model's configuration names; ValueError where it names none."""
    first = next(model.parameters(), None)
    place = {} if first is None else {"device": first.device, "dtype": first.dtype}
    config, image = getattr(model, "pretrained_cfg", None), None
    if isinstance(config, dict) and config.get("input_size"):  # timm
        image = tuple(config["input_size"])
        embed = getattr(model, "patch_embed", None)
        if getattr(embed, "img_size", None):
            image = (image[0], *embed.img_size)
    elif (config := getattr(model, "config", None)) is not None and hasattr(config, "image_size"):  # transformers
        sides = config.image_size if isinstance(config.image_size, (tuple, list)) else (config.image_size,) * 2
        return {"pixel_values": torch.randn(1, getattr(config, "num_channels", 3), *sides, **place)}
    elif type(model).__module__.startswith("torchvision.models."):
        image = (3, 8, 112, 112) if type(model).__name__ == "SwinTransformer3d" else (3, 224, 224)
    elif getattr(getattr(model, "patch_embed", None), "img_size", None):  # the original family
        embed = model.patch_embed
        channels = getattr(embed, "in_chans", None) or getattr(model, "in_chans", None)
        sides = embed.img_size if isinstance(embed.img_size, (tuple, list)) else (embed.img_size,) * 2
        image = (channels, *sides) if channels else None
    if image is None:
        raise ValueError(
            f"verify=True found no input size in the configuration of {type(model).__name__}; "
            "pass verify=<a tensor, a tuple of arguments or a dict of keywords>"
        )
    return (torch.randn(1, *image, **place),)


class Recorder:
    """Runs the model on one input, before and after, and writes the differences into the report."""

    def __init__(self, model: nn.Module, given: Tensor | tuple | list | dict, report: Report):
        self.model, self.report = model, report
        self.arguments = () if isinstance(given, dict) else (given,) if isinstance(given, Tensor) else tuple(given)
        self.keywords = given if isinstance(given, dict) else {}
        self.first: dict[str, list[Tensor]] = {}

    def before(self) -> None:
        self.first = self._run()

    def after(self) -> str:
        """Fill in the report; what is too different in words, or an empty string."""
        second, wrong = self._run(), []
        for entry in self.report.replaced:
            entry.difference = _difference(second.get(entry.name, []), self.first.get(entry.name, []))
        self.report.difference = _difference(second["output"], self.first["output"])
        named = [(e.name, e.difference, self.first.get(e.name, [])) for e in self.report.replaced]
        for name, difference, tensors in (*named, ("the output", self.report.difference, self.first["output"])):
            bound = max((BOUNDS.get(t.dtype, 0.0) for t in tensors), default=0.0)
            if not difference <= bound:
                wrong.append(f"{name} differs by {difference:.1e}, allowed are {bound:.1e}")
        return "; ".join(wrong)

    def _run(self) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        handles = []
        for entry in self.report.replaced:

            def keep(module, args, output, name=entry.name):
                found.setdefault(name, []).extend(_tensors(output))

            keep.swin_fast_verifies = True
            handles.append(self.model.get_submodule(entry.name).register_forward_hook(keep))
        try:
            with torch.no_grad(), _unchanged(self.model):
                found["output"] = _tensors(self.model(*self.arguments, **self.keywords))
        finally:
            for handle in handles:
                handle.remove()
        return found


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Eval mode and a fixed seed inside; afterwards the modes and windows (transformers changes them) are as before."""
    kept = [
        (m, m.training, {k: vars(m)[k] for k in ("window_size", "shift_size") if k in vars(m)}) for m in model.modules()
    ]
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, training, sizes in kept:
            module.training = training
            vars(module).update(sizes)


def _tensors(output) -> list[Tensor]:
    """The floating tensors in an output, copied, because the next operation may write over one."""
    if isinstance(output, Tensor):
        return [output.detach().clone()] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = output.values()
    if not isinstance(output, (tuple, list)) and not hasattr(output, "__iter__"):
        return []
    return [t for part in output for t in _tensors(part)] if not isinstance(output, str) else []


def _difference(got: list[Tensor], want: list[Tensor]) -> float:
    """Largest difference over the largest value of any pair; 0 for no tensors, inf for others than expected."""
    if [t.shape for t in got] != [t.shape for t in want]:
        return float("inf")
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if g.numel() == 0 or torch.equal(g, w):
            continue
        share = ((g.double() - w.double()).abs().max() / w.double().abs().max()).item()
        worst = max(worst, share if isfinite(share) else float("inf"))
    return worst
