"""Configs: they hold what the constructor got, print what is unusual, cannot change, and build the same model again."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from torch import nn

from swin_fast import SwinTransformer, SwinTransformer3D, SwinTransformerV2, WindowPolicy
from swin_fast.models import (
    CONFIGS,
    Swin3DConfig,
    SwinConfig,
    SwinUNETRConfig,
    SwinUNETREncoder,
    SwinV2Config,
    build,
    from_config,
)

MODELS = {
    SwinConfig: SwinTransformer, SwinV2Config: SwinTransformerV2, Swin3DConfig: SwinTransformer3D,
    SwinUNETRConfig: SwinUNETREncoder,
}  # fmt: skip
TINY = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}


@pytest.mark.parametrize("config_class", MODELS)
def test_a_config_is_what_the_constructor_got(config_class):
    model = MODELS[config_class](**TINY, drop_path_rate=0.3)
    assert model.config == config_class(**TINY, drop_path_rate=0.3)
    assert model.config.depths == (1, 1)
    again = from_config(model.config)
    assert type(again) is type(model) and again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert MODELS[config_class].from_config(model.config).config == model.config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_prints_what_makes_it(name):
    config = CONFIGS[name]
    assert eval(repr(config)) == config == pickle.loads(pickle.dumps(config))  # noqa: S307
    assert hash(config) == hash(replace(config))
    with pytest.raises(FrozenInstanceError):
        config.embed_dim = 1


def test_how_a_config_prints():
    assert repr(SwinConfig()) == "SwinConfig()"
    config = SwinConfig(depths=[2, 2], num_heads=[1, 2], policy="torchvision", norm_layer=nn.RMSNorm)
    want = "SwinConfig(depths=(2, 2), num_heads=(1, 2), norm_layer=RMSNorm, policy=WindowPolicy(clamp='none'))"
    assert repr(config) == want


def test_positions_and_defaults_are_the_original_codes():
    """As microsoft/Swin-Transformer and Video Swin have them; ours come after, or as keywords."""
    original = {
        "img_size": 224, "patch_size": 4, "in_chans": 3, "num_classes": 1000, "embed_dim": 96, "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24), "window_size": 7, "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None,
        "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.1, "norm_layer": nn.LayerNorm, "ape": False,
        "patch_norm": True, "use_checkpoint": False,
    }  # fmt: skip
    v2 = {k: v for k, v in original.items() if k != "qk_scale"} | {"pretrained_window_sizes": (0, 0, 0, 0)}
    video = {
        "patch_size": (4, 4, 4), "in_chans": 3, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24),
        "window_size": (2, 7, 7), "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0,
        "attn_drop_rate": 0.0, "drop_path_rate": 0.2, "norm_layer": nn.LayerNorm, "patch_norm": False,
        "frozen_stages": -1, "use_checkpoint": False,
    }  # fmt: skip
    for config_class, want in ((SwinConfig, original), (SwinV2Config, v2), (Swin3DConfig, video)):
        first = list(fields(config_class))[: len(want)]
        assert [(f.name, f.default) for f in first] == list(want.items())
    assert SwinTransformer(56, 4, 1, 7, 8, [1], [2]).config == SwinConfig(56, 4, 1, 7, 8, (1,), (2,))
    assert SwinTransformer3D(None, True, (1, 4, 4), 1, 8, [1], [2]).config == Swin3DConfig((1, 4, 4), 1, 8, (1,), (2,))


def test_what_help_shows():
    assert inspect.signature(SwinTransformer) == inspect.signature(SwinConfig)
    assert inspect.signature(SwinTransformerV2).parameters["pretrained_window_sizes"].default == (0, 0, 0, 0)


def test_the_table():
    assert {"swin_t", "swin_l_384", "swin_v2_g", "swin_v2_b_384", "swin3d_b", "swin_unetr"} <= CONFIGS.keys()
    for size in "tsbl":
        config, large = CONFIGS[f"swin_{size}"], CONFIGS[f"swin_{size}_384"]
        assert (config.img_size, config.window_size, large.img_size, large.window_size) == (224, 7, 384, 12)
        assert large == replace(config, img_size=384, window_size=12)
    for size in "tsb":
        assert CONFIGS[f"swin_v2_{size}_window16"].window_size == 16
    assert CONFIGS["swin_v2_l_384"].pretrained_window_sizes == (12, 12, 12, 6)


def test_build_takes_keywords():
    model = build("swin_v2_t", img_size=32, window_size=4, depths=(1, 1), num_heads=(3, 6), num_classes=0)
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 192)
    assert model.config.drop_path_rate == CONFIGS["swin_v2_t"].drop_path_rate
    assert build("swin3d_t", depths=(1,), num_heads=(3,), policy=WindowPolicy("none")).config.policy.clamp == "none"


@pytest.mark.parametrize("config_class", MODELS)
def test_new_weights(config_class):
    """Normal with std 0.02 cut off far out, and no bias, as the original code starts."""
    torch.manual_seed(0)
    model = MODELS[config_class](embed_dim=48, depths=(1, 1), num_heads=(2, 2))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.numel() < 1000 or abs(module.weight.std() - 0.02) < 0.002
            assert module.bias is None or not module.bias.any()


def test_bad_names_and_configs():
    with pytest.raises(ValueError, match=r"name must be one of \('swin_t', .*got 'swin_x'"):
        build("swin_x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'window'"):
        build("swin_t", window=7)
    with pytest.raises(TypeError, match="config must be one of SwinConfig, .*, got dict"):
        from_config({})
    with pytest.raises(TypeError, match="config must be a SwinConfig, got SwinV2Config"):
        SwinTransformer.from_config(SwinV2Config())
    with pytest.raises(TypeError, match="unexpected keyword argument 'qk_scale'"):
        SwinTransformerV2(qk_scale=1.0)
