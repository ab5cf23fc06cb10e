"""The sizes of the papers, by name, and the functions that build them."""

from __future__ import annotations

from dataclasses import replace

from .base import SwinModel
from .config import Config, Swin3DConfig, SwinConfig, SwinUNETRConfig, SwinV2Config
from .swin_transformer import SwinTransformer
from .swin_transformer_3d import SwinTransformer3D
from .swin_transformer_v2 import SwinTransformerV2
from .swin_unetr import SwinUNETREncoder

MODELS: dict[type[Config], type[SwinModel]] = {
    model.config_class: model for model in (SwinTransformer, SwinTransformerV2, SwinTransformer3D, SwinUNETREncoder)
}

_SMALL = {"depths": (2, 2, 18, 2)}
_BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_LARGE = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
_GIANT = {"embed_dim": 512, "depths": (2, 2, 42, 4), "num_heads": (16, 32, 64, 128)}

CONFIGS: dict[str, Config] = {
    "swin_t": SwinConfig(drop_path_rate=0.2),
    "swin_s": SwinConfig(**_SMALL, drop_path_rate=0.3),
    "swin_b": SwinConfig(**_BASE, drop_path_rate=0.5),
    "swin_l": SwinConfig(**_LARGE, drop_path_rate=0.2),
    "swin_v2_t": SwinV2Config(img_size=256, window_size=8, drop_path_rate=0.2),
    "swin_v2_s": SwinV2Config(img_size=256, window_size=8, **_SMALL, drop_path_rate=0.3),
    "swin_v2_b": SwinV2Config(img_size=256, window_size=8, **_BASE, drop_path_rate=0.5),
    "swin_v2_l": SwinV2Config(img_size=192, window_size=12, **_LARGE, drop_path_rate=0.2),  # as pre-trained on 22k
    "swin_v2_g": SwinV2Config(img_size=192, window_size=12, **_GIANT, drop_path_rate=0.4, extra_norm_period=6),
    # Video Swin on Kinetics-400
    "swin3d_t": Swin3DConfig(patch_size=(2, 4, 4), window_size=(8, 7, 7), drop_path_rate=0.1, patch_norm=True),
    "swin3d_s": Swin3DConfig(
        patch_size=(2, 4, 4), window_size=(8, 7, 7), **_SMALL, drop_path_rate=0.1, patch_norm=True
    ),
    "swin3d_b": Swin3DConfig(patch_size=(2, 4, 4), window_size=(8, 7, 7), **_BASE, drop_path_rate=0.3, patch_norm=True),
    "swin_unetr": SwinUNETRConfig(),
}
# fine-tuned at a higher resolution, with a larger window
CONFIGS |= {f"swin_{size}_384": replace(CONFIGS[f"swin_{size}"], img_size=384, window_size=12) for size in "tsbl"}
CONFIGS |= {f"swin_v2_{size}_window16": replace(CONFIGS[f"swin_v2_{size}"], window_size=16) for size in "tsb"}
CONFIGS |= {
    f"swin_v2_{size}_384": replace(
        CONFIGS[f"swin_v2_{size}"], img_size=384, window_size=24, drop_path_rate=0.2,
        pretrained_window_sizes=(12, 12, 12, 6),
    )
    for size in "bl"
}  # fmt: skip


def from_config(config: Config) -> SwinModel:
    """The model that `config` describes, with new weights."""
    if type(config) not in MODELS:
        names = ", ".join(c.__name__ for c in MODELS)
        raise TypeError(f"config must be one of {names}, got {type(config).__name__}")
    return MODELS[type(config)].from_config(config)


def build(name: str, **overrides) -> SwinModel:
    """The model of that name in `CONFIGS`; keywords override its config."""
    if name not in CONFIGS:
        raise ValueError(f"name must be one of {tuple(CONFIGS)}, got {name!r}")
    return from_config(replace(CONFIGS[name], **overrides))


def swin_t(**overrides) -> SwinTransformer:
    """Swin-T: C = 96, depths (2, 2, 6, 2), drop path 0.2; keywords of `SwinTransformer` override the table."""
    return build("swin_t", **overrides)


def swin_s(**overrides) -> SwinTransformer:
    """Swin-S: C = 96, depths (2, 2, 18, 2), drop path 0.3; keywords of `SwinTransformer` override the table."""
    return build("swin_s", **overrides)


def swin_b(**overrides) -> SwinTransformer:
    """Swin-B: C = 128, depths (2, 2, 18, 2), drop path 0.5; keywords of `SwinTransformer` override the table."""
    return build("swin_b", **overrides)


def swin_l(**overrides) -> SwinTransformer:
    """Swin-L: C = 192, depths (2, 2, 18, 2), drop path 0.2; keywords of `SwinTransformer` override the table."""
    return build("swin_l", **overrides)


def swin_v2_t(**overrides) -> SwinTransformerV2:
    """Swin V2-T: C = 96, depths (2, 2, 6, 2), window 8 at 256 pixels, drop path 0.2."""
    return build("swin_v2_t", **overrides)


def swin_v2_s(**overrides) -> SwinTransformerV2:
    """Swin V2-S: C = 96, depths (2, 2, 18, 2), window 8 at 256 pixels, drop path 0.3."""
    return build("swin_v2_s", **overrides)


def swin_v2_b(**overrides) -> SwinTransformerV2:
    """Swin V2-B: C = 128, depths (2, 2, 18, 2), window 8 at 256 pixels, drop path 0.5."""
    return build("swin_v2_b", **overrides)


def swin_v2_l(**overrides) -> SwinTransformerV2:
    """Swin V2-L: C = 192, depths (2, 2, 18, 2), window 12 at 192 pixels, drop path 0.2."""
    return build("swin_v2_l", **overrides)


def swin_v2_g(**overrides) -> SwinTransformerV2:
    """Swin V2-G: C = 512, depths (2, 2, 42, 4), window 12 at 192 pixels, drop path 0.4, every sixth block normed."""
    return build("swin_v2_g", **overrides)


def swin3d_t(**overrides) -> SwinTransformer3D:
    """Video Swin-T: C = 96, depths (2, 2, 6, 2), patch (2, 4, 4), window (8, 7, 7), drop path 0.1."""
    return build("swin3d_t", **overrides)


def swin3d_s(**overrides) -> SwinTransformer3D:
    """Video Swin-S: C = 96, depths (2, 2, 18, 2), patch (2, 4, 4), window (8, 7, 7), drop path 0.1."""
    return build("swin3d_s", **overrides)


def swin3d_b(**overrides) -> SwinTransformer3D:
    """Video Swin-B: C = 128, depths (2, 2, 18, 2), patch (2, 4, 4), window (8, 7, 7), drop path 0.3."""
    return build("swin3d_b", **overrides)
