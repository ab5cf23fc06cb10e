"""How a module changes its behaviour: it takes a subclass of its own class, made once for each class.

Parameters, buffers, hooks and names stay where they are, because nothing but `__class__` changes. A copy or a pickle
names the library's class and the mixin, so it loads wherever both can be imported.
"""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import Tensor, nn

from ..modules.hooks import hooked, wrapped

_made: dict[tuple[type, type], type] = {}
_said: set[tuple[type, str]] = set()


class Fused:
    """Base of the mixins that stand before a library's class and run its window attention in one pass.

    A mixin overrides the method of the library that rolls, partitions, attends and reverses; `super()` is the library's
    own road. `replaces` names the methods of the library that the mixin knows, for a report: a subclass that overrides
    one of them is left alone. `_swin_fast` holds the options of the module, plain values only.
    """

    replaces: tuple[str, ...] = ("forward",)
    what = "window attention"  # for the report
    _swin_fast_original: type[nn.Module]
    _swin_fast_mixin: type
    _swin_fast: dict

    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        """Why this very module cannot be replaced; empty where it can."""
        return ""

    @classmethod
    def options(cls, module: nn.Module, name: str, stateful_window: bool) -> dict:
        """What the mixin must know of the module beside its attributes; `name` is its place in the model."""
        return {}

    def __reduce_ex__(self, protocol):
        reduced = super().__reduce_ex__(protocol)
        if type(self) is not _made.get((self._swin_fast_original, self._swin_fast_mixin)):
            return reduced  # somebody's class stands on top of ours
        return _rebuild, (self._swin_fast_original, self._swin_fast_mixin), *reduced[2:]


def _rebuild(original: type[nn.Module], mixin: type[Fused]) -> nn.Module:
    cls = fused_class(original, mixin)
    return cls.__new__(cls)


def fused_class(original: type[nn.Module], mixin: type[Fused]) -> type:
    """The subclass that `mixin` makes of `original`. It keeps the name, which wrapping policies go by."""
    key = original, mixin
    if key not in _made:
        names = ("__module__", "__qualname__", "__doc__")
        namespace = {name: getattr(original, name) for name in names}
        namespace |= {"_swin_fast_original": original, "_swin_fast_mixin": mixin}
        _made[key] = type(original)(original.__name__, (mixin, original), namespace)
    return _made[key]


def swap(module: nn.Module, mixin: type[Fused], options: dict) -> None:
    module._swin_fast = options
    module.__class__ = fused_class(type(module), mixin)


def swap_back(module: nn.Module) -> None:
    module.__class__ = module._swin_fast_original
    del module._swin_fast


def covered(module: nn.Module) -> bool:
    """Whether another class (FSDP2's, a parametrization's) was put on top of ours."""
    return type(module) is not fused_class(module._swin_fast_original, module._swin_fast_mixin)


def overrides(module: nn.Module, known: type[nn.Module], methods: tuple[str, ...]) -> str:
    """The first of `methods` that is not the known class's own on this module; empty if all are.

    A wrapper made with functools.wraps counts as what it wraps: transformers and FSDP2 wrap `forward` in subclasses.
    """
    for name in methods:
        if name in vars(module):
            return name
        if inspect.unwrap(getattr(type(module), name)) is not inspect.unwrap(getattr(known, name)):
            return name
    return ""


def own_road(module: Fused, x: Tensor, skipped: tuple[str, ...], reason: str = "") -> bool:
    """Whether this call has to take the library's own road; the reason is said once for each class.

    `skipped` names submodules that the fused road does not call: a hook on one of them, or a wrapper around it, wants
    what only the library's road computes. Tracing by torch.fx or torch.jit records the library's road, too, without a
    word.
    """
    if not isinstance(x, Tensor) or torch.jit.is_tracing():
        return True
    if not reason:
        for name in skipped:
            child = module
            for part in name.split("."):
                child = child._modules.get(part) if child is not None else None
            if child is not None and hooked(child):
                reason = f"{name} is hooked, and the fused road does not call it"
                break
            if child is not None and wrapped(child):
                reason = f"{name} is wrapped in a {type(child).__name__}, and the fused road does not call it"
                break
    if reason and not torch.compiler.is_compiling() and (type(module), reason) not in _said:
        _said.add((type(module), reason))
        text = f"swin_fast: {type(module).__name__} takes the library's own road in such calls, because {reason}"
        warnings.warn(text, stacklevel=4)
    return bool(reason)
