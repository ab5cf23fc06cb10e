"""Models and blocks of the libraries, and our parameter names in their tongues. Imports a library only when asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from swin_fast import testing
from swin_fast.models import CONFIGS
from tests.models import peer_weights
from tests.peers import define_torchvision_operators

Named = dict[str, Tensor]
DISTRIBUTIONS = {
    "timm": ("timm",),
    "timm fused_attn": ("timm",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "monai": ("monai",),
    "onnxruntime": ("onnxruntime", "torchvision"),
    "openvino": ("openvino", "torchvision"),
}
TIMM = {  # ours -> timm's name; transformers has these, too
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_l": "swin_large_patch4_window7_224",
    "swin_v2_t": "swinv2_tiny_window8_256",
}
TORCHVISION = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin3d_t")


@dataclass(frozen=True)
class Model:
    """A library's model without drop path. `rename` puts our parameters' names in its tongue, `pick` takes logits."""

    module: nn.Module
    rename: Callable[[Named], Named]
    pick: Callable = lambda out: out


def model(library: str, name: str) -> Model:
    """Our model `name` as `library` has it."""
    define_torchvision_operators()
    if library in ("timm", "timm fused_attn"):
        import timm
        from timm.layers import set_fused_attn, use_fused_attn

        before = use_fused_attn(experimental=True)
        set_fused_attn(True, experimental=library == "timm fused_attn")  # what TIMM_FUSED_ATTN=2 does
        module = timm.create_model(TIMM[name], drop_path_rate=0.0)
        set_fused_attn(True, experimental=before)
        return Model(module, peer_weights.to_timm)
    return {"torchvision": _torchvision, "transformers": _transformers, "monai": _monai}[library](name)


def of_model(name: str) -> list[str]:
    """The libraries that have our model `name`."""
    libraries = {
        "timm": name in TIMM,
        "timm fused_attn": name in TIMM and name != "swin_v2_t",  # timm's V2 has no fused attention
        "torchvision": name in TORCHVISION,
        "transformers": name in TIMM,
        "monai": name == "swin_unetr",
    }
    return [library for library, has in libraries.items() if has]


def _torchvision(name: str) -> Model:
    from torchvision import models
    from torchvision.ops import StochasticDepth

    if name == "swin3d_t":
        module = models.video.swin3d_t()
        module.head = module.avgpool = nn.Identity()  # ours ends with the map
        rename = peer_weights.to_torchvision_3d
    else:
        module = getattr(models, name)()
        rename = _torchvision_v2 if "v2" in name else peer_weights.to_torchvision
    for part in module.modules():
        if isinstance(part, StochasticDepth):
            part.p = 0.0
    return Model(module, rename)


def _torchvision_v2(named: Named) -> Named:
    return peer_weights.join_qkv_bias(peer_weights.to_torchvision(named))


def _transformers(name: str) -> Model:
    import transformers

    ours = CONFIGS[name]
    sizes = {"embed_dim": ours.embed_dim, "depths": list(ours.depths), "num_heads": list(ours.num_heads)}
    sizes |= {"num_labels": 1000, "drop_path_rate": 0.0}
    if name == "swin_v2_t":
        config = transformers.Swinv2Config(image_size=256, window_size=8, **sizes)
        module, body, rename = transformers.Swinv2ForImageClassification(config), "swinv2", "to_transformers_v2"
    else:
        module = transformers.SwinForImageClassification(transformers.SwinConfig(image_size=224, **sizes))
        body, rename = "swin", "to_transformers"

    def classifier(named: Named) -> Named:
        head = {f"classifier.{k.removeprefix('head.')}": t for k, t in named.items() if k.startswith("head.")}
        rest = getattr(peer_weights, rename)({k: t for k, t in named.items() if not k.startswith("head.")})
        return head | {f"{body}.{k}": t for k, t in rest.items()}

    return Model(module, classifier, lambda out: out.logits)


def _monai(name: str) -> Model:
    from monai.networks.nets import SwinUNETR

    # its encoder; the convolutions that decode are the same with any encoder
    return Model(SwinUNETR(1, 14, feature_size=48).swinViT, peer_weights.to_monai, last_map)


def last_map(maps: list[Tensor]) -> Tensor:
    return maps[-1]


def load(module: nn.Module, weights: Named, what: str) -> None:
    """Copy `weights`, which must be all that `module` has but for buffers that can be worked out."""
    missing, unexpected = module.load_state_dict(weights, strict=False)
    missing = [key for key in missing if not key.endswith(peer_weights.BUFFERS)]
    if missing or unexpected:
        raise RuntimeError(f"{what} has other weights: missing {missing}, unexpected {unexpected}")


@dataclass(frozen=True)
class Block:
    """A library's block: `whole` and its attention with its Linears, `layer`, both (B, *map, C) -> the same shape."""

    module: nn.Module
    whole: Callable[[Tensor], Tensor]
    layer: Callable[[Tensor], Tensor] | None
    rename: Callable[[Named], Named]
    prefix: str  # of a model's first block, in the library's tongue


def of_block(case: testing.Case) -> list[str]:
    """The libraries that have a block for `case`."""
    if len(case.grid) == 3:
        return ["monai"] if case.pad == "attended" else ["torchvision", "monai"]
    if case.cosine:
        return ["timm", "torchvision", "transformers"]
    return ["timm", "timm fused_attn", "torchvision", "transformers", "monai"]


def block(library: str, case: testing.Case) -> Block:
    define_torchvision_operators()
    return {
        "timm": _timm_block, "timm fused_attn": _timm_fused_block, "torchvision": _torchvision_block,
        "transformers": _transformers_block, "monai": _monai_block,
    }[library](case)  # fmt: skip


def _channels(case: testing.Case) -> int:
    return case.num_heads * case.head_dim


def _timm_fused_block(case: testing.Case) -> Block:
    from timm.layers import set_fused_attn

    set_fused_attn(True, experimental=True)
    try:
        return _timm_block(case)
    finally:
        set_fused_attn(True)


def _timm_block(case: testing.Case) -> Block:
    from timm.models.swin_transformer import SwinTransformerBlock
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    kind = SwinTransformerV2Block if case.cosine else SwinTransformerBlock
    options = {"window_size": case.window_size, "shift_size": case.shift_size}
    module = kind(_channels(case), case.grid, case.num_heads, **options)
    return Block(module, module, module._attn, peer_weights.to_timm, "layers.0.blocks.0.")


def _torchvision_block(case: testing.Case) -> Block:
    from torchvision.models import swin_transformer
    from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

    arguments = _channels(case), case.num_heads, list(case.window_size), list(case.shift_size)
    if case.cosine:
        module = swin_transformer.SwinTransformerBlockV2(*arguments)
        return Block(module, module, module.attn, _torchvision_v2, "features.1.0.")
    if len(case.grid) == 3:
        module = swin_transformer.SwinTransformerBlock(*arguments, attn_layer=ShiftedWindowAttention3d)
        return Block(module, module, module.attn, peer_weights.to_torchvision_3d, "features.0.0.")
    module = swin_transformer.SwinTransformerBlock(*arguments)
    return Block(module, module, module.attn, peer_weights.to_torchvision, "features.1.0.")


def _transformers_block(case: testing.Case) -> Block:
    import transformers
    from transformers.models.swin import modeling_swin
    from transformers.models.swinv2 import modeling_swinv2

    (side, _), (shift, _), channels = case.window_size, case.shift_size, _channels(case)
    given = channels, case.grid, case.num_heads

    def whole(x: Tensor) -> Tensor:
        return module(x.flatten(1, 2), case.grid)[0].view(x.shape)

    if case.cosine:
        module = modeling_swinv2.Swinv2Layer(transformers.Swinv2Config(window_size=side), *given, shift_size=shift)
        return Block(module, whole, None, peer_weights.to_transformers_v2, "encoder.layers.0.blocks.0.")
    config = transformers.SwinConfig(window_size=side)
    config._attn_implementation = "sdpa"  # what its models choose
    module = modeling_swin.SwinLayer(config, *given, shift_size=shift)

    def layer(x: Tensor) -> Tensor:
        windows = modeling_swin.window_partition(module.cyclic_shift(x), side).view(-1, side * side, channels)
        out, _ = module.attention(windows, module.get_attn_mask(*case.grid, dtype=x.dtype, device=x.device))
        out = modeling_swin.window_reverse(out.view(-1, side, side, channels), side, *case.grid)
        return module.cyclic_shift(out, reverse=True)

    return Block(module, whole, layer, peer_weights.to_transformers, "encoder.layers.0.blocks.0.")


def _monai_block(case: testing.Case) -> Block:
    from monai.networks.nets import swin_unetr

    from swin_fast.geometry import padded_size

    window, shift = tuple(case.window_size), tuple(case.shift_size)
    module = swin_unetr.SwinTransformerBlock(_channels(case), case.num_heads, window, shift)
    size, masks = padded_size(case.grid, window), {}

    def whole(x: Tensor) -> Tensor:
        if x.dtype not in masks:  # its BasicLayer makes one in every call, for all its blocks
            masks[x.dtype] = swin_unetr.compute_mask(list(size), window, shift, x.device).to(x.dtype)
        return module(x, masks[x.dtype])

    return Block(module, whole, None, peer_weights.to_monai, "layers1.0.blocks.0.")
