"""microsoft/Swin-Transformer, V1 and V2, its detection backbone, and Video Swin: the keys are ours."""

from __future__ import annotations

from ..config import Config, Swin3DConfig
from .format import Format
from .names import COMPUTED


class Original(Format):
    name = "original"
    library = "the original code"
    anchor = "layers.0.blocks.0.attn.qkv.weight"
    wrapper = "model"
    buffers = COMPUTED

    def policy(self, config: Config) -> str:
        if isinstance(config, Swin3DConfig):
            return "video"
        return "original" if config.out_indices is None else "detection"
