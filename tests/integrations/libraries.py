"""Every Swin class of timm, torchvision, transformers and MONAI, small: two stages, windows of 4, shift 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ..peers import define_torchvision_operators
from ..weights import randomize

define_torchvision_operators()

HEADS, DEPTHS, WINDOW = (2, 4), (2, 2), 4
# image sizes for patches of 2: maps of 8x8 then 4x4; 9x11 then 5x6; 8x14 then 4x7; 3x3 then 2x2
# (at 9x11 it shows whether the map is rolled or padded first, which at 10x10 it does not)
SIZES = {"divisible": (16, 16), "not_divisible": (18, 22), "not_square": (16, 28), "smaller_than_window": (6, 6)}


@dataclass(frozen=True)
class Model:
    """`build(drop_path)` makes the model; `image(size)` its input; `blocks` modules are replaced, MLPs too."""

    needs: tuple[str, ...]
    build: Callable[[float], nn.Module]
    blocks: int = 8
    image: Callable[[tuple[int, int]], Tensor] = lambda size: torch.randn(2, 3, *size)
    call: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x)
    sizes: tuple[str, ...] = tuple(SIZES)
    crashes: tuple[str, ...] = ()  # sizes at which the library raises

    def make(self, drop_path: float = 0.0) -> nn.Module:
        for name in self.needs:
            pytest.importorskip(name)
        torch.manual_seed(0)
        model = randomize(self.build(drop_path))
        for name, p in model.named_parameters():
            if name.endswith("logit_scale"):  # cosines times 3 or so: larger ones make rounding show in the outputs
                p.data.sub_(1.2)
        return model


def timm_v1(drop_path):
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=16, patch_size=2, embed_dim=16, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, num_classes=5,
        drop_path_rate=drop_path, strict_img_size=False,
    )  # fmt: skip


def timm_v1_always_partition(drop_path):
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=(20, 16), patch_size=2, embed_dim=16, depths=DEPTHS, num_heads=HEADS, window_size=(4, 6),
        num_classes=5, drop_path_rate=drop_path, strict_img_size=False, always_partition=True, qkv_bias=False,
    )  # fmt: skip


def timm_v2(drop_path):
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return SwinTransformerV2(
        img_size=16, patch_size=2, embed_dim=16, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, num_classes=5,
        drop_path_rate=drop_path, strict_img_size=False, pretrained_window_sizes=(6, 3),
    )  # fmt: skip


def timm_v2_cr(drop_path):
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2Cr

    return SwinTransformerV2Cr(
        img_size=16, patch_size=2, embed_dim=16, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, num_classes=5,
        drop_path_rate=drop_path, strict_img_size=False, init_values=None,
    )  # fmt: skip


def torchvision_v1(drop_path):
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        [2, 2], 16, list(DEPTHS), list(HEADS), [4, 4], stochastic_depth_prob=drop_path, num_classes=5
    )


def torchvision_v2(drop_path):
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    return SwinTransformer(
        [2, 2], 16, list(DEPTHS), list(HEADS), [4, 4], stochastic_depth_prob=drop_path, num_classes=5,
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip


def torchvision_3d(drop_path):
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d(
        [2, 2, 2], 16, list(DEPTHS), list(HEADS), [2, 4, 4], stochastic_depth_prob=drop_path, num_classes=5
    )


def _config(cls, drop_path, **options):
    return cls(
        **{
            "image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": DEPTHS, "num_heads": HEADS,
            "window_size": WINDOW, "drop_path_rate": drop_path, "num_labels": 5, **options,
        }
    )  # fmt: skip


def hf_swin(drop_path):
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(_config(SwinConfig, drop_path))


def hf_swin_eager(drop_path):
    from transformers import SwinConfig, SwinModel

    return SwinModel(_config(SwinConfig, drop_path, attn_implementation="eager", qkv_bias=False))


def hf_swin_backbone(drop_path):
    from transformers import SwinBackbone, SwinConfig

    return SwinBackbone(_config(SwinConfig, drop_path, out_features=["stage1", "stage2"]))


def hf_swinv2(drop_path):
    from transformers import Swinv2Config, Swinv2ForImageClassification

    return Swinv2ForImageClassification(_config(Swinv2Config, drop_path, pretrained_window_sizes=(6, 3)))


def hf_swin2sr(drop_path):
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    return Swin2SRForImageSuperResolution(_config(Swin2SRConfig, drop_path, patch_size=1, upscale=2))


def hf_maskformer(drop_path):
    from transformers import MaskFormerSwinConfig
    from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone

    return MaskFormerSwinBackbone(_config(MaskFormerSwinConfig, drop_path, out_features=["stage1", "stage2"]))


def hf_donut(drop_path):
    from transformers import DonutSwinConfig, DonutSwinModel

    return DonutSwinModel(_config(DonutSwinConfig, drop_path))


def hf_clap_odd(drop_path):
    return hf_clap(drop_path, spec_size=40)


def hf_clap(drop_path, spec_size=32):
    from transformers import ClapAudioConfig, ClapAudioModel

    return ClapAudioModel(
        ClapAudioConfig(
            window_size=WINDOW,
            spec_size=spec_size,
            num_mel_bins=8,
            patch_size=2,
            patch_stride=[2, 2],
            hidden_size=32,
            patch_embeds_hidden_size=16,
            depths=list(DEPTHS),
            num_attention_heads=list(HEADS),
            num_classes=3,
            drop_path_rate=drop_path,
            enable_fusion=False,
            enable_patch_layer_norm=True,
        )  # fmt: skip
    )


def monai_2d(drop_path):
    from monai.networks.nets.swin_unetr import SwinTransformer

    return SwinTransformer(
        in_chans=3, embed_dim=16, window_size=(4, 4), patch_size=(2, 2), depths=(2, 2, 2, 2), num_heads=(2, 4, 4, 4),
        drop_path_rate=drop_path, spatial_dims=2,
    )  # fmt: skip


def monai_3d(drop_path):
    from monai.networks.nets.swin_unetr import SwinTransformer

    return SwinTransformer(
        in_chans=1, embed_dim=8, window_size=(2, 4, 3), patch_size=(2, 2, 2), depths=(2, 2, 1, 1),
        num_heads=(2, 4, 4, 4), drop_path_rate=drop_path, spatial_dims=3, downsample="mergingv2",
    )  # fmt: skip


def monai_unetr(drop_path):
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, depths=(2, 1, 1, 1), num_heads=(3, 6, 6, 6), window_size=4,
        dropout_path_rate=drop_path, spatial_dims=2, norm_name=("group", {"num_groups": 2}),
    )  # fmt: skip


def swin2sr_layers(model, x):
    """The whole model raises for a picture that windows do not divide, outside the attention; its layers do not."""
    tokens, size = model.swin2sr.embeddings(model.swin2sr.first_convolution(x))
    return model.swin2sr.encoder(tokens, size)


def clip(size):
    return torch.randn(2, 3, 5, *size)


def volume(size):
    return torch.randn(1, 1, 6, *size)


def mel(size):
    return torch.randn(2, 1, size[0] * 4, 8)


def grey(size):
    return torch.randn(2, 1, *(64 if n == 16 else 96 for n in size))


MODELS = {
    "timm_v1": Model(("timm",), timm_v1),
    "timm_v1_always_partition": Model(("timm",), timm_v1_always_partition),
    "timm_v2": Model(("timm",), timm_v2),
    "timm_v2_cr": Model(("timm",), timm_v2_cr),
    "torchvision_v1": Model(("torchvision",), torchvision_v1),
    "torchvision_v2": Model(("torchvision",), torchvision_v2),
    "torchvision_3d": Model(("torchvision",), torchvision_3d, image=clip),
    "transformers_swin": Model(("transformers",), hf_swin, crashes=("smaller_than_window",)),
    "transformers_swin_eager": Model(("transformers",), hf_swin_eager, crashes=("smaller_than_window",)),
    "transformers_swin_backbone": Model(("transformers",), hf_swin_backbone),
    "transformers_swinv2": Model(("transformers",), hf_swinv2),
    "transformers_swin2sr": Model(("transformers",), hf_swin2sr, call=swin2sr_layers),
    "transformers_swin2sr_whole": Model(("transformers",), hf_swin2sr, sizes=("divisible", "not_square")),
    "transformers_maskformer": Model(("transformers",), hf_maskformer),
    "transformers_donut": Model(("transformers",), hf_donut, crashes=("smaller_than_window",)),
    "transformers_clap": Model(("transformers",), hf_clap, image=mel, sizes=("divisible",)),
    "transformers_clap_odd": Model(("transformers",), hf_clap_odd, image=mel, sizes=("not_divisible",)),
    "monai_2d": Model(("monai", "einops"), monai_2d, blocks=20),
    "monai_3d": Model(("monai", "einops"), monai_3d, blocks=16, image=volume),
    "monai_unetr": Model(("monai", "einops"), monai_unetr, blocks=14, image=grey, sizes=("divisible", "not_square")),
}
