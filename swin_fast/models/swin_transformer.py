"""Swin Transformer, the image classifier of Liu et al., "Swin Transformer", 2021, and its four sizes."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..modules import BasicLayer, PatchEmbed, PatchMerging
from ..modules.checks import check_int


class SwinTransformer(nn.Module):
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

    At `img_size` the outputs are the original's. Other images are beyond it: they are padded to whole patches, an odd
    map to an even one, windows as `SwinTransformerBlock` says, and the position embedding is resized (bicubic). No call
    changes a later one. A patch that does not divide `img_size` itself is padded too; the original drops the rest.
    """

    def __init__(
        self, img_size=224, patch_size=4, in_chans=3, num_classes=1000, embed_dim=96, depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24), window_size=7, mlp_ratio=4.0, qkv_bias=True, qk_scale=None, drop_rate=0.0,
        attn_drop_rate=0.0, drop_path_rate=0.1, norm_layer=nn.LayerNorm, ape=False, patch_norm=True,
        use_checkpoint=False, fused_window_process=False,
    ):  # fmt: skip
        super().__init__()
        if len(depths) != len(num_heads) or not depths:
            raise ValueError(f"num_heads must have one entry per stage of depths {depths}, got {num_heads}")
        self.num_classes = check_int("num_classes", num_classes, least=0)
        self.num_layers = len(depths)
        self.embed_dim = check_int("embed_dim", embed_dim)
        self.num_features = embed_dim * 2 ** (self.num_layers - 1)
        self.mlp_ratio = mlp_ratio
        self.ape = ape
        self.patch_norm = patch_norm
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        self.patches_resolution = self.patch_embed.patches_resolution
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        total = sum(depths)
        rates = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        self.layers, size = nn.ModuleList(), self.patches_resolution
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            layer = BasicLayer(
                embed_dim * 2**i, size, depth, heads, window_size, mlp_ratio, qkv_bias, qk_scale, drop_rate,
                attn_drop_rate, drop_path=rates[:depth], norm_layer=norm_layer,
                downsample=PatchMerging if i < len(depths) - 1 else None, use_checkpoint=use_checkpoint,
                fused_window_process=fused_window_process,
            )  # fmt: skip
            self.layers.append(layer)
            rates, size = rates[depth:], layer.output_size(size)
        self.norm = norm_layer(self.num_features)
        self.avgpool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(self._init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes), or (B, num_features) without a head."""
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_features), the last map normed and averaged."""
        tokens = self.patch_embed(x)
        x, size = tokens, self.patch_embed.output_size(x.shape[2:])
        if self.ape:
            x = x + self._position_embedding(size)
        x = self.pos_drop(x)
        for layer in self.layers:
            x, size = layer(x, size), layer.output_size(size)
        return self.avgpool(self.norm(x).transpose(1, 2)).flatten(1)

    def _position_embedding(self, size: tuple[int, int]) -> Tensor:
        if size == self.patches_resolution:
            return self.absolute_pos_embed
        grid = self.absolute_pos_embed.unflatten(1, self.patches_resolution).permute(0, 3, 1, 2)  # (1, C, Ph, Pw)
        return F.interpolate(grid, size=size, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the original's optimizer does not decay."""
        return {"absolute_pos_embed"}

    def no_weight_decay_keywords(self) -> set[str]:
        """Parts of names of parameters that the original's optimizer does not decay."""
        return {"relative_position_bias_table"}

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _build(embed_dim, depths, num_heads, drop_path_rate, arguments) -> SwinTransformer:
    table = {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads, "drop_path_rate": drop_path_rate}
    return SwinTransformer(**{**table, **arguments})


def swin_t(**kwargs) -> SwinTransformer:
    """Swin-T: C = 96, depths (2, 2, 6, 2), drop path 0.2; keywords of `SwinTransformer` override the table."""
    return _build(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, kwargs)


def swin_s(**kwargs) -> SwinTransformer:
    """Swin-S: C = 96, depths (2, 2, 18, 2), drop path 0.3; keywords of `SwinTransformer` override the table."""
    return _build(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, kwargs)


def swin_b(**kwargs) -> SwinTransformer:
    """Swin-B: C = 128, depths (2, 2, 18, 2), drop path 0.5; keywords of `SwinTransformer` override the table."""
    return _build(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, kwargs)


def swin_l(**kwargs) -> SwinTransformer:
    """Swin-L: C = 192, depths (2, 2, 18, 2), drop path 0.2; keywords of `SwinTransformer` override the table."""
    return _build(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.2, kwargs)
