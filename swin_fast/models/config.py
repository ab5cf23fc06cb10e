"""What each model is built from: a frozen value that holds the constructor's arguments and prints what is unusual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch.nn as nn

from ..modules import POLICIES, WindowPolicy
from ..modules.checks import check_int
from ..modules.policy import DEFAULT_2D, DEFAULT_3D, to_policy


@dataclass(frozen=True)
class Config:
    """What the three configs share. Lists become tuples, and a policy's name becomes the policy."""

    def __post_init__(self):
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        default = next(f.default for f in fields(self) if f.name == "policy")
        object.__setattr__(self, "policy", to_policy(self.policy, default))
        self._check_stages()
        if self.features_only and self.out_indices is None:
            object.__setattr__(self, "out_indices", tuple(range(len(self.depths))))
        object.__setattr__(self, "features_only", self.out_indices is not None)

    def _check_stages(self) -> None:
        depths, stages = self.depths, len(self.depths)
        if stages != len(self.num_heads) or not depths:
            raise ValueError(f"num_heads must have one entry per stage of depths {depths}, got {self.num_heads}")
        check_int("frozen_stages", self.frozen_stages, least=-1)
        if self.frozen_stages > stages:
            raise ValueError(f"frozen_stages must be at most {stages}, got {self.frozen_stages}")
        if self.out_indices is None:
            return
        if not isinstance(self.out_indices, Sequence) or not self.out_indices:
            raise ValueError(f"out_indices must hold at least one stage, got {self.out_indices!r}")
        for i in self.out_indices:
            if check_int("out_indices", i, least=0) >= stages:
                raise ValueError(f"out_indices must be stages from 0 to {stages - 1}, got {self.out_indices}")
        if list(self.out_indices) != sorted(set(self.out_indices)):
            raise ValueError(f"out_indices must rise, got {self.out_indices}")

    def __repr__(self) -> str:
        changed = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default)
        shown = (f"{name}={getattr(value, '__qualname__', None) or repr(value)}" for name, value in changed)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class SwinConfig(Config):
    """The arguments of `SwinTransformer`, which documents them; positions and defaults are the original code's."""

    img_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    norm_layer: Callable[..., nn.Module] = nn.LayerNorm
    ape: bool = False
    patch_norm: bool = True
    use_checkpoint: bool = False
    fused_window_process: bool = False
    features_only: bool = False
    out_indices: tuple[int, ...] | None = None
    channels_last: bool = False
    frozen_stages: int = -1
    policy: WindowPolicy | str = DEFAULT_2D


@dataclass(frozen=True, repr=False)
class SwinV2Config(Config):
    """The arguments of `SwinTransformerV2`, which documents them; positions and defaults are the original code's."""

    img_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    norm_layer: Callable[..., nn.Module] = nn.LayerNorm
    ape: bool = False
    patch_norm: bool = True
    use_checkpoint: bool = False
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    extra_norm_period: int = 0
    features_only: bool = False
    out_indices: tuple[int, ...] | None = None
    channels_last: bool = False
    frozen_stages: int = -1
    policy: WindowPolicy | str = DEFAULT_2D

    def _check_stages(self) -> None:
        super()._check_stages()
        if len(self.pretrained_window_sizes) < len(self.depths):
            raise ValueError(
                f"pretrained_window_sizes must have one entry per stage of depths {self.depths}, "
                f"got {self.pretrained_window_sizes}"
            )


@dataclass(frozen=True, repr=False)
class Swin3DConfig(Config):
    """The arguments of `SwinTransformer3D`, which documents them; defaults are Video Swin's."""

    patch_size: int | tuple[int, int, int] = (4, 4, 4)
    in_chans: int = 3
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, int, int] = (2, 7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.2
    norm_layer: Callable[..., nn.Module] = nn.LayerNorm
    patch_norm: bool = False
    frozen_stages: int = -1
    use_checkpoint: bool = False
    features_only: bool = False
    out_indices: tuple[int, ...] | None = None
    channels_last: bool = False
    policy: WindowPolicy | str = DEFAULT_3D


@dataclass(frozen=True, repr=False)
class SwinUNETRConfig(Swin3DConfig):
    """The arguments of `SwinUNETREncoder`, which documents them; defaults are those of MONAI's SwinUNETR."""

    patch_size: int | tuple[int, int, int] = (2, 2, 2)
    in_chans: int = 1
    embed_dim: int = 24
    depths: tuple[int, ...] = (2, 2, 2, 2)
    window_size: int | tuple[int, int, int] = (7, 7, 7)
    drop_path_rate: float = 0.0
    policy: WindowPolicy | str = POLICIES["video"]
    merging: str = "monai"

    def _check_stages(self) -> None:
        super()._check_stages()
        if self.merging not in ("monai", "monai_v2"):
            raise ValueError(f"merging must be 'monai' or 'monai_v2', got {self.merging!r}")
        if self.features_only or self.out_indices is not None:
            raise ValueError("out_indices must be None: all maps of this encoder come out")
