"""Which ops of the dispatcher run inside a block."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """`names` are those of the ops that were called inside, "swin_fast::gelu" or "aten::gelu", each as often."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))
