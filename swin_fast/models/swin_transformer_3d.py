"""Swin Transformer for videos and volumes, of Liu et al., "Video Swin Transformer", 2022."""

from __future__ import annotations

from functools import partial

import torch.nn as nn
from torch import Tensor

from ..modules import BasicLayer3D, PatchEmbed3D, PatchMerging3D
from .base import SwinModel
from .config import Swin3DConfig


class SwinTransformer3D(SwinModel):
    """Takes the place of Video Swin's ``SwinTransformer3D``: same arguments, output and state_dict keys.

    Args:
        pretrained: None. Video Swin reads a file here; load the weights into the model instead.
        pretrained2d: has no effect without `pretrained`.
        patch_size: frames and pixels (D, H, W) of a patch, an int means all three.
        in_chans: channels of the video.
        embed_dim: channels C of the first stage; every stage doubles them.
        depths, num_heads: blocks, and attention heads, of each stage.
        window_size: tokens (D, H, W) of a window; the next stages' maps have fewer rows and columns, as many frames.
        mlp_ratio, qkv_bias, qk_scale, norm_layer: as in `SwinTransformerBlock3D`.
        drop_rate, attn_drop_rate, drop_path_rate, patch_norm, use_checkpoint: as in `SwinTransformer`.
        frozen_stages: -1 for none, 0 freezes the patch embedding, n > 0 also the first n stages.
        out_indices: stages whose maps come out, each with a norm of its own, instead of the last stage's.
        features_only: all stages, where `out_indices` is not given.
        channels_last: maps as (B, D, H, W, C) instead of (B, C, D, H, W).
        policy: a `WindowPolicy` or the name of a library. By default an axis that a window holds takes the axis as
            window, without a shift, and each pair of tokens the bias of its offset. Video Swin, whose checkpoints were
            trained so, reads other entries of the table there: "video".

    Any size of video works: it is padded to whole patches, maps to whole windows and even sides. No call changes a
    later one.
    """

    config_class = Swin3DConfig

    def __init__(self, pretrained=None, pretrained2d=True, *args, **kwargs):
        if pretrained is not None:
            raise ValueError(f"pretrained must be None (load a state_dict into the model instead), got {pretrained!r}")
        super().__init__(*args, **kwargs)
        config = self.config
        self.window_size, self.patch_size = config.window_size, config.patch_size
        norm = config.norm_layer if config.patch_norm else None
        self.patch_embed = PatchEmbed3D(config.patch_size, config.in_chans, config.embed_dim, norm)
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.layers = nn.ModuleList(
            BasicLayer3D(
                self.channels[i], config.depths[i], config.num_heads[i], config.window_size, config.mlp_ratio,
                config.qkv_bias, config.qk_scale, config.drop_rate, config.attn_drop_rate, rates, config.norm_layer,
                self.merging(i), config.use_checkpoint, config.policy,
            )
            for i, rates in enumerate(self.drop_path_rates())
        )  # fmt: skip
        self.add_norms()
        self.init_weights()
        self.train()

    def merging(self, i: int):
        """What stage i ends with, or None."""
        return partial(PatchMerging3D, order="space") if i < self.num_layers - 1 else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_chans, D, H, W) -> the last stage's map, normed, (B, num_features, D', H', W').

        With `out_indices`: a tuple of maps (B, C_i, D_i, H_i, W_i). Channels come last with `channels_last`.
        """
        x = self.pos_drop(self.patch_embed(x))
        maps = []
        last = self.num_layers - 1 if self.out_indices is None else self.out_indices[-1]
        for i, layer in enumerate(self.layers[: last + 1]):
            x, blocks = layer(x, also_blocks=True)
            if self.out_indices is not None and i in self.out_indices:
                maps.append(self.put_out(i, blocks))
        if self.out_indices is not None:
            return tuple(maps)
        x = self.norm(x)
        return x if self.config.channels_last else x.movedim(-1, 1).contiguous()

    def frozen_parts(self) -> list:
        parts = [self.patch_embed] if self.frozen_stages >= 0 else []
        if self.frozen_stages >= 1:
            parts += [self.pos_drop, *self.layers[: self.frozen_stages]]
        return parts

    def no_weight_decay_keywords(self) -> set[str]:
        """Parts of names of parameters that the original's optimizer does not decay."""
        return {"relative_position_bias_table"}
