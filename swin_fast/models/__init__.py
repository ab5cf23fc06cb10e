"""Whole models, built of `swin_fast.modules`."""

from .builders import (
    CONFIGS,
    build,
    from_config,
    swin3d_b,
    swin3d_s,
    swin3d_t,
    swin_b,
    swin_l,
    swin_s,
    swin_t,
    swin_v2_b,
    swin_v2_g,
    swin_v2_l,
    swin_v2_s,
    swin_v2_t,
)
from .checkpoints import Checkpoint, CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from .config import Swin3DConfig, SwinConfig, SwinUNETRConfig, SwinV2Config
from .swin_transformer import SwinTransformer
from .swin_transformer_3d import SwinTransformer3D
from .swin_transformer_v2 import SwinTransformerV2
from .swin_unetr import SwinUNETREncoder

__all__ = [
    "CONFIGS",
    "Checkpoint",
    "CheckpointError",
    "Swin3DConfig",
    "SwinConfig",
    "SwinTransformer",
    "SwinTransformer3D",
    "SwinTransformerV2",
    "SwinUNETRConfig",
    "SwinUNETREncoder",
    "SwinV2Config",
    "build",
    "from_config",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
    "swin_b",
    "swin_l",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_g",
    "swin_v2_l",
    "swin_v2_s",
    "swin_v2_t",
]
