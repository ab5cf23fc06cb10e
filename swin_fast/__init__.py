"""swin_fast: fused kernels for Swin window attention, as an op, drop-in modules and whole models."""

__version__ = "0.1.0"

from . import functional
from .dispatch import use_backend
from .explanation import explain
from .models import SwinTransformer, swin_b, swin_l, swin_s, swin_t
from .modules import BasicLayer, PatchEmbed, PatchMerging, SwinTransformerBlock, WindowAttention

__all__ = [
    "BasicLayer",
    "PatchEmbed",
    "PatchMerging",
    "SwinTransformer",
    "SwinTransformerBlock",
    "WindowAttention",
    "explain",
    "functional",
    "swin_b",
    "swin_l",
    "swin_s",
    "swin_t",
    "use_backend",
]
