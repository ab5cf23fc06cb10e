"""Window attention of Swin V2: cosine similarity, and a bias that a small network computes from log-spaced offsets."""

from __future__ import annotations

from math import log2

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..geometry import to_axes
from .window_attention import FusedAttention

MAX_LOGIT_SCALE = torch.tensor(100.0).log().item()  # log(100) as rounded to float32, where the original clamps


def relative_coords_table(window_size: tuple[int, int], pretrained_window_size: tuple[int, int]) -> Tensor:
    """(1, 2*Wh-1, 2*Ww-1, 2) float32, the log-spaced offsets of the continuous bias (Swin V2, equation 4).

    sign(d) * log2(1 + 8 |d| / (w - 1)) / log2(8) for an offset d along an axis, with w the window of pre-training where
    that is given (not 0). A side of one token has no offset but 0, which stays 0 (the original divides 0 by 0).
    """
    axes = []
    for w, pretrained in zip(window_size, pretrained_window_size, strict=True):
        offsets = torch.arange(1 - w, w, dtype=torch.float32, device="cpu")
        axes.append(offsets / max((pretrained if pretrained_window_size[0] > 0 else w) - 1, 1))
    table = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None] * 8
    return torch.sign(table) * torch.log2(table.abs() + 1.0) / log2(8)


class WindowAttentionV2(FusedAttention):
    """Multi-head cosine attention inside windows, with a continuous position bias (Liu et al., 2022, section 3).

    Takes the place of the original V2 ``WindowAttention``: same arguments, shapes and state_dict keys. No attention
    matrix is stored.

    Args:
        dim: channels C; `num_heads` divides it.
        window_size: (Wh, Ww), the tokens of a window; an int means both.
        num_heads: attention heads.
        qkv_bias: give q and v a bias (k never has one).
        attn_drop: probability of dropping an attention weight.
        proj_drop: dropout after the projection.
        pretrained_window_size: (Wh, Ww) of pre-training, by which offsets are normalised; 0 means `window_size`.
        policy: a `WindowPolicy` or its name, for pad_order, padding and mask_value on a map.

    Logits are ``exp(min(logit_scale, log(100))) * cos(q, k) + 16 * sigmoid(cpb_mlp(offset))``. Scale and bias are taken
    in float32 or better, and norms have an epsilon that float16 does not round to zero, so a padded map stays finite.
    """

    def __init__(
        self, dim, window_size, num_heads, qkv_bias=True, attn_drop=0.0, proj_drop=0.0, pretrained_window_size=(0, 0),
        policy=None,
    ):  # fmt: skip
        super().__init__(dim, window_size, num_heads, attn_drop, policy)
        self.pretrained_window_size = to_axes(pretrained_window_size, 2, "pretrained_window_size")
        if min(self.pretrained_window_size) < 0:
            raise ValueError(f"pretrained_window_size must be at least 0, got {self.pretrained_window_size}")
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), 10.0).log())
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        table = relative_coords_table(self.window_size, self.pretrained_window_size)
        self.register_buffer("relative_coords_table", table.to(self.logit_scale.device))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        bias = None
        if self.q_bias is not None:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        return F.linear(x, self.qkv.weight, bias), bias

    def position_bias(self, window: tuple[int, ...]) -> dict[str, Tensor]:
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, 2)  # (T, num_heads)
        return {"bias_table": 16 * torch.sigmoid(_wide(table))}

    def logits(self) -> dict:
        return {"logit_scale": _wide(self.logit_scale).flatten().clamp(max=MAX_LOGIT_SCALE).exp()}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pretrained_window_size={self.pretrained_window_size}"


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
