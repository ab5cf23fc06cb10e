"""`accelerate` and `restore`: one call that makes the Swin model somebody already has run on our kernels, and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from . import feed_forward, monai, structure, timm, torchvision, transformers
from .report import Entry, Report
from .swap import Fused, covered, swap, swap_back
from .verify import Recorder, example_input

RULES = (*timm.RULES, *torchvision.RULES, *transformers.RULES, *monai.RULES)
FUSE = ("auto", "attention")


def accelerate(
    model: nn.Module,
    *,
    fuse: str = "auto",
    verify: bool | Tensor | Sequence | dict = False,
    strict: bool = False,
    stateful_window: bool = True,
) -> Report:
    """Run the window attention of a Swin model in one pass over memory, and the GELU of its MLPs by our CPU kernel.

    Known are the Swin models of timm (V1, V2, V2-CR), torchvision (V1, V2, 3D), transformers (Swin, Swinv2, Swin2SR,
    MaskFormerSwin, Donut's and CLAP's) and MONAI (SwinUNETR), by their classes; and by structure, wherever they were
    copied to, the blocks of Swin-Transformer V1 and V2, Swin-Transformer-Object-Detection, Video-Swin, SwinIR, HAT,
    mmdet, mmseg and mmpretrain. Such a copy is replaced only after a run of it with random weights, at its own size
    where that is fixed, gave the same on both roads.

    Parameters and buffers stay the same objects under the same names, so an optimizer made before and a state_dict
    saved afterwards keep working, and so do hooks, copies, pickles, torch.compile, torch.export, checkpointing,
    autocast and wrapping in DDP or FSDP before or after. Outputs are the library's up to rounding. Attention dropout
    has the same distribution and other random numbers; dropout after the projection draws in the order of the map.

    Args:
        model: any module; it is changed in place. Calling it again does no harm.
        fuse: what is fused. "attention" is partition, shift, masked attention with bias, and reverse; "auto" is all
            that this version can fuse: that, and the exact GELU of the blocks' MLPs on the CPU, which without gradients
            writes over what the first Linear returned. It stays the library's in training, in compiled and traced
            code, and on other devices. A tanh GELU is left alone.
        verify: compare the model before and after, in eval mode: on this input (a tensor, a tuple of arguments or a
            dict of keywords), or with True on a random one of the size in the model's configuration. The report has
            the difference of each block; RuntimeError, and the model is restored, if they differ too much.
        strict: RuntimeError, and the model as it was, if a known module would be left alone or none is known.
        stateful_window: transformers' Swin, Donut and CLAP keep the window that they shrink for a small map, and use it
            for every map afterwards. True does the same, as the outputs before and after are to be equal; False
            shrinks it for that call only.

    Returns:
        What happened to each known module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if fuse not in FUSE:
        raise ValueError(f"fuse must be one of {FUSE}, got {fuse!r}")
    if not isinstance(verify, (bool, Tensor, Sequence, dict)) or isinstance(verify, str):
        raise TypeError(f"verify must be a bool, a tensor, a tuple of arguments or a dict, got {type(verify).__name__}")
    if verify is not False:
        restore(model)  # so that the first run is the library's
    report, work = Report(), []
    for name, module in model.named_modules():
        entry, mixin = _look(name, module)
        found = [] if entry is None else [(entry, module, mixin)]
        if fuse == "auto" and (mlp := feed_forward.look(name, module, mixin)):
            found.append(mlp)
        for entry, part, mixin in found:
            report.entries.append(entry)
            if mixin is not None:
                entry.by = f"swin_fast {mixin.what}"
                work.append((part, mixin, mixin.options(part, entry.name, stateful_window)))
    if strict and (report.left or not report.entries):
        raise RuntimeError(f"strict: not every module could be replaced, so none was\n{report}")
    recorder = None
    if verify is not False:
        recorder = Recorder(model, example_input(model) if verify is True else verify, report)
        recorder.before()
    for module, mixin, options in work:
        if isinstance(module, Fused):
            module._swin_fast = options
        else:
            swap(module, mixin, options)
    if recorder is not None and (wrong := recorder.after()):
        for module, _, _ in work:
            swap_back(module)
        raise RuntimeError(f"verify: {wrong}, so the model has its own classes again\n{report}")
    return report


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: every module gets its own class back. Outputs are then the library's, bit for bit.

    RuntimeError, and nothing is changed, where another class was put on top of ours afterwards (FSDP2's, a
    parametrization's).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    fused = [(name, module) for name, module in model.named_modules() if isinstance(module, Fused)]
    for name, module in fused:
        if covered(module):
            raise RuntimeError(f"{name} cannot be restored: {type(module)} was put on top of it after accelerate()")
    for _, module in fused:
        swap_back(module)


def _look(name: str, module: nn.Module) -> tuple[Entry | None, type[Fused] | None]:
    """What is known of a module, and the mixin that it gets; (None, None) if nothing is. MLPs come with blocks."""
    if isinstance(module, feed_forward.FeedForward):
        return None, None
    if isinstance(module, Fused):
        original, mixin = module._swin_fast_original, module._swin_fast_mixin
        return Entry(name, original.__name__, original.__module__.partition(".")[0]), mixin
    kind = type(module).__name__
    if type(module).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None, None  # our own modules are fused already
    for rule in RULES:
        if rule.matches(module):
            reason = rule.why_not(module)
            return Entry(name, kind, rule.library, reason=reason), None if reason else rule.mixin
    shape, reason = structure.recognise(module)
    if shape is None and not reason:
        return None, None
    library = type(module).__module__.partition(".")[0]
    return Entry(name, kind, library, reason=reason), shape.mixin if shape else None
