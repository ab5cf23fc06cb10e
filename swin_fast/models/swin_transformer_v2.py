"""Swin Transformer V2, of Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2022."""

from __future__ import annotations

from ..modules import BasicLayerV2, PatchMergingV2
from .config import SwinV2Config
from .swin_transformer import ImageModel


class SwinTransformerV2(ImageModel):
    """Takes the place of the original ``SwinTransformerV2``: same arguments, outputs and state_dict keys.

    Attention is cosine similarity with a learned scale, the position bias a small network's of log-spaced offsets, and
    norms come after attention and MLP.

    Args:
        img_size, patch_size, in_chans, num_classes, embed_dim, depths, num_heads, window_size, mlp_ratio, drop_rate,
            attn_drop_rate, drop_path_rate, norm_layer, ape, patch_norm, use_checkpoint, out_indices, features_only,
            channels_last, frozen_stages, policy: as in `SwinTransformer`.
        qkv_bias: give q and v a bias.
        pretrained_window_sizes: side of the window in pre-training for each stage, by which offsets are normalised; 0
            for none.
        extra_norm_period: every how many blocks of a stage one more norm follows, on the main branch; 0 for never. The
            paper's largest models have 6 (section 3.5); the original code has no such norm.
    """

    config_class = SwinV2Config

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            layer.zero_norms()

    def build_layer(self, i: int, input_resolution: tuple[int, int] | None, drop_path: list[float]) -> BasicLayerV2:
        config = self.config
        return BasicLayerV2(
            self.channels[i], input_resolution, config.depths[i], config.num_heads[i], config.window_size,
            config.mlp_ratio, config.qkv_bias, config.drop_rate, config.attn_drop_rate, drop_path, config.norm_layer,
            PatchMergingV2 if i < self.num_layers - 1 else None, config.use_checkpoint,
            config.pretrained_window_sizes[i], config.extra_norm_period, config.policy,
        )  # fmt: skip

    def no_weight_decay_keywords(self) -> set[str]:
        """Parts of names of parameters that the original's optimizer does not decay."""
        return {"cpb_mlp", "logit_scale"}
