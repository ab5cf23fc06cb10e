"""torchvision's attention of `swin_*`, `swin_v2_*` and `swin3d_*`.

The window never shrinks in 2D (a small map is padded), the shift is dropped on an axis that holds one window. In 3D an
axis shorter than the window becomes the window, and the bias is read through ``relative_position_index[:N, :N]``. The
Linears are read, not called, as in torchvision itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import window_attention
from ..geometry import padded_size
from .attention import LARGEST_LOGIT, bias_index, dropout_rate, padded, position_bias, why_not
from .rules import Rule
from .swap import Fused, own_road


class Attention(Fused):
    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        head_dim = module.qkv.out_features // (3 * module.num_heads)
        return why_not(head_dim, module.window_size, module.shift_size, module.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        if own_road(self, x, ()):
            return super().forward(x)
        window, size = self.window_size, padded_size(x.shape[1:3], self.window_size)
        shift = [0 if w >= p else s for w, p, s in zip(window, size, self.shift_size, strict=True)]
        return _attend(self, x, self.relative_position_bias_table, window, shift, self.qkv.bias)


class AttentionV2(Attention):
    what = "cosine window attention"

    def forward(self, x: Tensor) -> Tensor:
        if own_road(self, x, ()):
            return super(Attention, self).forward(x)
        window, size = self.window_size, padded_size(x.shape[1:3], self.window_size)
        shift = [0 if w >= p else s for w, p, s in zip(window, size, self.shift_size, strict=True)]
        bias = self.qkv.bias
        if bias is not None:  # keys have no bias in V2; the parameter has a third for them all the same
            third = bias.numel() // 3
            bias = torch.cat((bias[:third], torch.zeros_like(bias[third : 2 * third]), bias[2 * third :]))
        scale = self.logit_scale.clamp(max=LARGEST_LOGIT).exp().flatten()
        return _attend(self, x, position_bias(self, self.cpb_mlp), window, shift, bias, scale)


class Attention3d(Attention):
    what = "3D window attention"

    def forward(self, x: Tensor) -> Tensor:
        if own_road(self, x, ()):
            return super(Attention, self).forward(x)
        window, shift = list(self.window_size), list(self.shift_size)
        for axis, n in enumerate(x.shape[1:4]):
            if n <= window[axis]:
                window[axis], shift[axis] = n, 0
        return _attend(self, x, self.relative_position_bias_table, window, shift, self.qkv.bias)


def _attend(module, x, table, window, shift, bias, logit_scale=None) -> Tensor:
    pad = None
    if padded(x, window):
        pad = x.new_zeros(module.qkv.weight.shape[0]) if bias is None else bias
    out = window_attention(
        F.linear(x, module.qkv.weight, bias),
        table,
        num_heads=module.num_heads,
        window_size=window,
        shift_size=shift,
        bias_index=bias_index(module.relative_position_index, window),
        pad_qkv=pad,
        logit_scale=logit_scale,
        dropout_p=dropout_rate(module.attention_dropout, module.training),
    )
    out = F.linear(out, module.proj.weight, module.proj.bias)
    return F.dropout(out, p=module.dropout, training=module.training)


RULES = (
    Rule("torchvision.models.swin_transformer", "ShiftedWindowAttentionV2", AttentionV2),
    Rule("torchvision.models.swin_transformer", "ShiftedWindowAttention", Attention),
    Rule("torchvision.models.video.swin_transformer", "ShiftedWindowAttention3d", Attention3d),
)
