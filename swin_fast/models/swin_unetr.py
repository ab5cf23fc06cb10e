"""The encoder of Swin UNETR, of Hatamizadeh et al., "Swin UNETR", 2022, as MONAI has it."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from ..modules import PatchMerging3D
from .config import SwinUNETRConfig
from .swin_transformer_3d import SwinTransformer3D


class SwinUNETREncoder(SwinTransformer3D):
    """What MONAI calls ``swinViT``: the map of the patches, and of each stage after its merging, which halves all axes.

    Args:
        merging: "monai" or "monai_v2", in which order a merging joins 2 x 2 x 2 tokens: MONAI's "merging" (what its
            SwinUNETR takes) and "mergingv2".
        policy: as in `SwinTransformer3D`; here "video" by default, which is MONAI's way.
        in_chans, embed_dim, window_size, patch_size, depths, num_heads, mlp_ratio, qkv_bias, qk_scale, drop_rate,
            attn_drop_rate, drop_path_rate, norm_layer, patch_norm, use_checkpoint, frozen_stages, channels_last: as in
            `SwinTransformer3D`, with the defaults of MONAI's SwinUNETR.

    state_dict keys are those of `SwinTransformer3D` without ``norm``.
    """

    config_class = SwinUNETRConfig

    def merging(self, i: int):
        return partial(PatchMerging3D, order=self.config.merging)

    def add_norms(self) -> None:
        self.num_features = self.channels[-1]  # MONAI's norms have no weights

    def forward(self, x: Tensor, normalize: bool = True) -> list[Tensor]:
        """(B, in_chans, D, H, W) -> [(B, C, D0, H0, W0), (B, 2*C, D1, H1, W1), ...], one more map than stages.

        `normalize` gives each token of what comes out mean 0 and variance 1; the next stage reads it unchanged.
        """
        x = self.pos_drop(self.patch_embed(x))
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        if normalize:
            maps = [F.layer_norm(m, m.shape[-1:]) for m in maps]
        return maps if self.config.channels_last else [m.movedim(-1, 1).contiguous() for m in maps]
