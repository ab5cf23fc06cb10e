"""The feed-forward part of a block, and stochastic depth."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .. import ops
from .hooks import hooked, hooked_globally


def linear_gelu(linear: nn.Module, act: nn.Module, x: Tensor, exact: bool) -> Tensor:
    """act(linear(x)), by our kernel where it takes the result and `exact` says that `act` is the exact GELU.

    What a plain Linear returns is new, and nobody else has it unless it is hooked, so it is written over in place: on
    the way from one layer to the next, fresh memory costs more than the arithmetic.
    """
    x = linear(x)
    if not exact or not ops.runs_gelu(x) or hooked(act) or hooked_globally():
        return act(x)
    if type(linear) is not nn.Linear or hooked(linear) or not x.is_contiguous():
        return ops.gelu(x)
    torch.ops.swin_fast.gelu_.default(x)
    return x


def exact_gelu(act: nn.Module) -> bool:
    return type(act) is nn.GELU and act.approximate == "none"


class Mlp(nn.Module):
    """Two Linears with an activation between, dropout after each; acts on the last axis, (..., in_features)."""

    def __init__(self, in_features, hidden_features=None, out_features=None, act_layer=nn.GELU, drop=0.0):
        super().__init__()
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(linear_gelu(self.fc1, self.act, x, exact_gelu(self.act)))))


class DropPath(nn.Module):
    """In training, zero a whole sample with probability `drop_prob` and divide the others by what is kept.

    Stochastic depth (Huang et al., "Deep Networks with Stochastic Depth", 2016), for a residual branch; x is (B, ...).
    """

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f"drop_prob must be in [0, 1), got {drop_prob!r}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"
