"""Swin Transformer for images, of Liu et al., "Swin Transformer", 2021, as a classifier and as a backbone."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..modules import BasicLayer, PatchEmbed, PatchMerging
from ..modules.checks import check_int
from .base import SwinModel
from .config import SwinConfig


class ImageModel(SwinModel):
    """What V1 and V2 share; a subclass says how a stage is built."""

    def __init__(self, *args, pretrain_img_size=None, **kwargs):
        if pretrain_img_size is not None:
            kwargs = {"features_only": True} | kwargs | {"img_size": pretrain_img_size}
        super().__init__(*args, **kwargs)
        config = self.config
        self.num_classes = check_int("num_classes", config.num_classes, least=0)
        self.mlp_ratio = config.mlp_ratio
        self.ape = config.ape
        norm = config.norm_layer if config.patch_norm else None
        self.patch_embed = PatchEmbed(config.img_size, config.patch_size, config.in_chans, config.embed_dim, norm)
        self.patches_resolution = size = self.patch_embed.patches_resolution
        if config.ape:
            tokens = (1, self.patch_embed.num_patches, config.embed_dim)
            grid = (1, config.embed_dim, *size)  # the detection code's shape
            self.absolute_pos_embed = nn.Parameter(torch.empty(tokens if self.out_indices is None else grid))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.layers = nn.ModuleList()
        for i, rates in enumerate(self.drop_path_rates()):
            resolution = size if self.out_indices is None else None  # a backbone is built for no size
            self.layers.append(self.build_layer(i, resolution, rates))
            size = self.layers[-1].output_size(size)
        self.add_norms()
        if self.out_indices is None:
            self.avgpool = nn.AdaptiveAvgPool1d(1)
            self.head = nn.Linear(self.num_features, config.num_classes) if config.num_classes else nn.Identity()
        self.init_weights()
        self.train()

    def build_layer(self, i: int, input_resolution: tuple[int, int] | None, drop_path: list[float]) -> nn.Module:
        """Stage i."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_chans, H, W) -> (B, num_classes), or (B, num_features) without a head.

        A backbone (`out_indices`): a tuple of maps (B, C_i, H_i, W_i), or (B, H_i, W_i, C_i) with `channels_last`.
        """
        return self.head(self.forward_features(x)) if self.out_indices is None else self.forward_maps(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_features), the last map normed and averaged."""
        x, size = self._embed(x)
        for layer in self.layers:
            x, size = layer(x, size), layer.output_size(size)
        return self.avgpool(self.norm(x).transpose(1, 2)).flatten(1)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The normed map of each stage in `out_indices`; stages after the last of them are not run."""
        x, size = self._embed(x)
        maps = []
        for i, layer in enumerate(self.layers[: self.out_indices[-1] + 1]):
            x, blocks = layer(x, size, also_blocks=True)
            if i in self.out_indices:
                maps.append(self.put_out(i, blocks.unflatten(1, size)))
            size = layer.output_size(size)
        return tuple(maps)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens = self.patch_embed(x)
        size = self.patch_embed.output_size(x.shape[2:])
        if self.ape:
            tokens = tokens + self._position_embedding(size)
        return self.pos_drop(tokens), size

    def _position_embedding(self, size: tuple[int, int]) -> Tensor:
        table = self.absolute_pos_embed
        if table.dim() == 3:
            if size == self.patches_resolution:
                return table
            table = table.unflatten(1, self.patches_resolution).permute(0, 3, 1, 2)  # (1, C, Ph, Pw)
        if size != self.patches_resolution:
            table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)

    def frozen_parts(self) -> list:
        parts = [self.patch_embed] if self.frozen_stages >= 0 else []
        if self.frozen_stages >= 1 and self.ape:
            parts.append(self.absolute_pos_embed)
        if self.frozen_stages >= 2:
            parts += [self.pos_drop, *self.layers[: self.frozen_stages - 1]]
        return parts

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the original's optimizer does not decay."""
        return {"absolute_pos_embed"}


class SwinTransformer(ImageModel):
    """Takes the place of the original ``SwinTransformer``: same arguments, outputs and state_dict keys.

    Args:
        img_size: pixels (H, W) that the model is built for, an int means both. It sets the sizes of ``attn_mask``, of
            the position embedding, and of the window where a map is smaller than one; any image can be given.
        patch_size: pixels (H, W) of a patch, an int means both.
        in_chans: channels of the image.
        num_classes: outputs of the head; 0 for no head, so that the features come out.
        embed_dim: channels C of the first stage; every stage doubles them.
        depths, num_heads: blocks, and attention heads, of each stage.
        window_size, mlp_ratio, qkv_bias, qk_scale, norm_layer, fused_window_process: as in `SwinTransformerBlock`.
        drop_rate: dropout after the embedding, the projections and in the MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first.
        ape: add a learned absolute position embedding.
        patch_norm: norm after the patch embedding.
        use_checkpoint: recompute the blocks in the backward instead of keeping their activations.
        out_indices: stages whose maps come out, each with a norm of its own (``norm0`` ...), instead of classes; the
            backbone of the original's detection code, with its state_dict. It has no head, and it is built for no size:
            windows never shrink. `img_size` is that of the position embedding; `pretrain_img_size`, the detection
            code's name for it, is taken too.
        features_only: all stages, where `out_indices` is not given.
        channels_last: maps as (B, H, W, C) instead of (B, C, H, W).
        frozen_stages: as in the detection code: -1 for none; 0 freezes the patch embedding, 1 also the position
            embedding, n > 1 also the first n - 1 stages.
        policy: a `WindowPolicy` or the name of a library, for windows and shifts as that library has them: "detection"
            for a checkpoint trained by the detection code, whose backbone shifts maps of one window, too.

    At `img_size` the outputs are the original's. Other images are beyond it: they are padded to whole patches, an odd
    map to an even one, windows as `SwinTransformerBlock` says, and the position embedding is resized (bicubic). No call
    changes a later one. A patch that does not divide `img_size` itself is padded too; the original drops the rest.
    """

    config_class = SwinConfig

    def build_layer(self, i: int, input_resolution: tuple[int, int] | None, drop_path: list[float]) -> BasicLayer:
        config = self.config
        return BasicLayer(
            self.channels[i], input_resolution, config.depths[i], config.num_heads[i], config.window_size,
            config.mlp_ratio, config.qkv_bias, config.qk_scale, config.drop_rate, config.attn_drop_rate, drop_path,
            config.norm_layer, PatchMerging if i < self.num_layers - 1 else None, config.use_checkpoint,
            config.fused_window_process, config.policy,
        )  # fmt: skip

    def no_weight_decay_keywords(self) -> set[str]:
        """Parts of names of parameters that the original's optimizer does not decay."""
        return {"relative_position_bias_table"}
