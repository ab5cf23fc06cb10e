"""Drop-in modules: constructors, forwards, shapes and state_dict keys of the original Swin Transformer code."""

from .basic_layer import BasicLayer
from .block import SwinTransformerBlock
from .mlp import DropPath, Mlp
from .patch import PatchEmbed, PatchMerging
from .window_attention import WindowAttention

__all__ = ["BasicLayer", "DropPath", "Mlp", "PatchEmbed", "PatchMerging", "SwinTransformerBlock", "WindowAttention"]
