"""timm's Swin: `swin_transformer`, `swin_transformer_v2` and `swin_transformer_v2_cr`.

timm rolls the map first and pads it afterwards; window and shift are fixed per block, and changed by `set_input_size`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..functional import window_attention
from .attention import (
    LARGEST_LOGIT,
    bias_index,
    cosine_attention,
    dropout_rate,
    offset_pairs,
    pad_vector,
    padded,
    softmax_attention,
    why_not,
)
from .rules import Rule
from .swap import Fused, own_road

ORDER = "roll_then_pad"


class _Block(Fused):
    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn = module.attn
        # not the weight's own shape: sharded by FSDP it is empty on some ranks
        channels = getattr(attn.qkv, "out_features", 3 * module.dim) // 3
        head_dim = channels // attn.num_heads
        return why_not(head_dim, module.window_size, module.shift_size, attn.attn_drop)

    def _reason(self, x: Tensor, resolution: tuple[int, int]) -> str:
        """The mask of timm is kept for one size unless it is dynamic; ours is for any."""
        if isinstance(x, Tensor) and any(self.shift_size) and not self.dynamic_mask:
            if tuple(x.shape[1:3]) != tuple(resolution):
                return "its shift mask is kept for another map (make the model with strict_img_size=False)"
        if self.window_size[0] * self.window_size[1] > 1024:
            return "a window has more than 1024 tokens"
        return ""


class BlockV1(_Block):
    replaces = ("forward", "_attn")

    def _attn(self, x: Tensor) -> Tensor:
        skipped = "attn", "attn.attn_drop", "attn.softmax"
        if own_road(self, x, skipped, self._reason(x, self.input_resolution)):
            return super()._attn(x)
        index = bias_index(self.attn.relative_position_index, self.window_size)
        return softmax_attention(self.attn, x, self.window_size, self.shift_size, index, ORDER)


class BlockV2(_Block):
    replaces = ("forward", "_attn")
    what = "cosine window attention"

    def _attn(self, x: Tensor) -> Tensor:
        skipped = "attn", "attn.attn_drop", "attn.softmax"
        if own_road(self, x, skipped, self._reason(x, self.input_resolution)):
            return super()._attn(x)
        index = bias_index(self.attn.relative_position_index, self.window_size)
        return cosine_attention(self.attn, x, self.window_size, self.shift_size, index, ORDER)


class BlockV2Cr(_Block):
    replaces = ("forward", "_shifted_window_attn")
    what = "cosine window attention"

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        attn, window = self.attn, self.window_size
        if own_road(self, x, ("attn", "attn.attn_drop"), self._reason(x, self.feat_size)):
            return super()._shifted_window_attn(x)
        coordinates, index = attn.relative_coordinates_log, None  # (N * N, 2)
        if attn.meta_mlp.training:  # its dropout draws for each pair
            index = torch.arange(len(coordinates), device=x.device).view(math.prod(window), -1)
        else:
            coordinates = coordinates[offset_pairs(coordinates, window)]
        out = window_attention(
            attn.qkv(x),
            attn.meta_mlp(coordinates),
            num_heads=attn.num_heads,
            window_size=window,
            shift_size=self.shift_size,
            bias_index=index,
            pad_qkv=pad_vector(attn.qkv, x) if padded(x, window) else None,
            pad_order=ORDER,
            logit_scale=attn.logit_scale.clamp(max=LARGEST_LOGIT).exp(),
            dropout_p=dropout_rate(attn.attn_drop, attn.attn_drop.training),
        )
        return attn.proj_drop(attn.proj(out))


_V1, _V2, _CR = (f"timm.models.swin_transformer{suffix}" for suffix in ("", "_v2", "_v2_cr"))
RULES = (
    Rule(_V1, "SwinTransformerBlock", BlockV1, {"attn": "WindowAttention"}),
    Rule(_V2, "SwinTransformerV2Block", BlockV2, {"attn": "WindowAttention"}),
    Rule(_CR, "SwinTransformerV2CrBlock", BlockV2Cr, {"attn": "WindowMultiHeadAttention"}),
)
