"""The attention of mmdet, mmseg and mmpretrain, `ShiftWindowMSA`, recognised by structure: it needs mmcv to import.

mmdet and mmseg keep window, shift and mask however small the map is. mmpretrain does so with `pad_small_map`; without
it, a map as large as the window is not shifted, and a smaller one is refused.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import bias_index, cosine_attention, softmax_attention, why_not
from .swap import Fused, own_road


class ShiftWindowAttention(Fused):
    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn, window, shift = module.w_msa, (module.window_size,) * 2, (module.shift_size,) * 2
        if tuple(attn.window_size) != window:
            return f"its attention has windows of {tuple(attn.window_size)}, the module of {module.window_size}"
        return why_not(attn.embed_dims // attn.num_heads, window, shift, attn.attn_drop)

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C)"""
        attn, window, shift = self.w_msa, self.window_size, self.shift_size
        reason = ""
        if not getattr(self, "pad_small_map", True):
            reason = "the map is smaller than the window" if min(hw_shape) < window else ""
            shift = 0 if min(hw_shape) == window else shift
        if own_road(self, query, ("w_msa", "w_msa.attn_drop", "w_msa.softmax"), reason):
            return super().forward(query, hw_shape)
        attend = cosine_attention if hasattr(attn, "logit_scale") else softmax_attention
        index = bias_index(attn.relative_position_index, (window, window))
        x = query.view(query.shape[0], *hw_shape, query.shape[-1])
        x = attend(attn, x, (window, window), (shift, shift), index, "pad_then_roll")
        return self.drop(x.view(query.shape))
