"""swin_fast: fused kernels for Swin window attention, as an op, drop-in modules and whole models."""

__version__ = "0.1.0"

from . import functional
from .dispatch import use_backend
from .explanation import explain
from .integrations import Report, accelerate, restore
from .models import (
    SwinTransformer,
    SwinTransformer3D,
    SwinTransformerV2,
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
from .modules import (
    BasicLayer,
    PatchEmbed,
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
    WindowAttention3D,
    WindowAttentionV2,
    WindowPolicy,
)

__all__ = [
    "BasicLayer",
    "PatchEmbed",
    "PatchMerging",
    "Report",
    "SwinTransformer",
    "SwinTransformer3D",
    "SwinTransformerBlock",
    "SwinTransformerV2",
    "WindowAttention",
    "WindowAttention3D",
    "WindowAttentionV2",
    "WindowPolicy",
    "accelerate",
    "explain",
    "functional",
    "restore",
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
    "use_backend",
]
