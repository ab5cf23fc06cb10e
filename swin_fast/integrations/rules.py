"""How a module of a library is recognised: by its class, and only in a library that the program has imported itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils import parametrize

from .swap import Fused, overrides


@dataclass(frozen=True)
class Rule:
    """Instances of class `name` in `module` get `mixin`; `parts` are submodules that must be of the library, too."""

    module: str
    name: str
    mixin: type[Fused]
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    def known(self, name: str) -> type[nn.Module] | None:
        """A class of the library's module, None where it was not imported or has no such class."""
        return getattr(sys.modules.get(self.module), name, None)

    def matches(self, module: nn.Module) -> bool:
        known = self.known(self.name)
        return known is not None and isinstance(module, known)

    def why_not(self, module: nn.Module) -> str:
        """Why a module that matches is left alone all the same; empty where it is replaced."""
        if method := overrides(module, self.known(self.name), self.mixin.replaces):
            return f"{type(module).__name__}.{method} is not {self.library}'s own"
        if parametrize.is_parametrized(module):
            return "parameters of its own are parametrized"
        for path, name in self.parts.items():
            try:
                part = module.get_submodule(path)
            except AttributeError:
                return f"it has no {path}"
            known = self.known(name)
            if not isinstance(part, known) or overrides(part, known, ("forward",)):
                return f"{path} is a {type(part).__name__}, not {self.library}'s own {name}"
            if parametrize.is_parametrized(part):
                return f"parameters of {path} are parametrized"
        return self.mixin.why_not(module)
