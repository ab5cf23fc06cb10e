"""Who watches the calls of a module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def hooked(module: nn.Module) -> bool:
    """Whether somebody watches or changes the calls of `module`: hooks, or a forward put on the instance."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    ) or (not torch.compiler.is_compiling() and "forward" in vars(module))


def hooked_globally() -> bool:
    """Whether somebody watches the calls of every module."""
    return _has_any_global_hook()


def wrapped(module: nn.Module) -> bool:
    """Whether one of torch's wrappers (FSDP1's, for example, which gathers the weights) stands where `module` was."""
    return any(name.endswith("_wrapped_module") for name in module._modules)
