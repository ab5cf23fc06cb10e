"""Drop-in modules: constructors, forwards, shapes and state_dict keys of the original Swin Transformer code."""

from .basic_layer import BasicLayer, BasicLayerV2
from .block import SwinTransformerBlock, SwinTransformerBlockV2
from .block_3d import BasicLayer3D, SwinTransformerBlock3D
from .mlp import DropPath, Mlp
from .patch import PatchEmbed, PatchMerging, PatchMergingV2
from .patch_3d import PatchEmbed3D, PatchMerging3D
from .policy import POLICIES, WindowPolicy
from .window_attention import WindowAttention
from .window_attention_3d import WindowAttention3D
from .window_attention_v2 import WindowAttentionV2

__all__ = [
    "POLICIES",
    "BasicLayer",
    "BasicLayer3D",
    "BasicLayerV2",
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "PatchEmbed3D",
    "PatchMerging",
    "PatchMerging3D",
    "PatchMergingV2",
    "SwinTransformerBlock",
    "SwinTransformerBlock3D",
    "SwinTransformerBlockV2",
    "WindowAttention",
    "WindowAttention3D",
    "WindowAttentionV2",
    "WindowPolicy",
]
