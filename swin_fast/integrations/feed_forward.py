"""The GELU of the MLPs in the blocks of every library: between two Linears, in place, by our kernel.

An MLP takes part only inside a block that is known. In training, compiled or traced, and wherever somebody watches, its
activation is called as the module that it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modules.mlp import exact_gelu, linear_gelu
from .report import Entry
from .rules import Rule
from .structure import SHAPES, Shape
from .swap import Fused


class FeedForward(Fused):
    """`pair` names the first Linear and the activation; `rest` is what comes after them."""

    what = "GELU"
    pair = "fc1", "act"

    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        act = getattr(module, cls.pair[1])
        return "" if _exact(act) else f"its activation is {act}, not the exact GELU"

    def forward(self, x: Tensor) -> Tensor:
        linear, act = (getattr(self, name) for name in self.pair)
        return self.rest(linear_gelu(linear, act, x, _exact(act)))


class Timm(FeedForward):
    def rest(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.norm(self.drop1(x))))


class Torchvision(FeedForward):
    pair = "0", "1"

    def rest(self, x: Tensor) -> Tensor:
        for module in list(self)[2:]:
            x = module(x)
        return x


class Transformers(FeedForward):
    pair = "fc1", "activation_fn"

    def rest(self, x: Tensor) -> Tensor:
        return self.fc2(x)


class TransformersOlder(FeedForward):
    """The second Linear is a module of its own."""

    pair = "dense", "intermediate_act_fn"

    def rest(self, x: Tensor) -> Tensor:
        return x


class Monai(FeedForward):
    pair = "linear1", "fn"

    def rest(self, x: Tensor) -> Tensor:
        return self.drop2(self.linear2(self.drop1(x)))


class Original(FeedForward):
    """The original family's, wherever it was copied to."""

    def rest(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(x)))


def _exact(act: nn.Module) -> bool:
    kind = type(act).__module__, type(act).__qualname__
    if kind == ("transformers.activations", "GELUActivation"):
        return act.act is F.gelu
    return kind == ("timm.layers.activations", "GELU") or exact_gelu(act)


def _tokens(mlp: nn.Module) -> list[tuple]:
    first = next(mlp.parameters())
    return [(torch.randn(2, 5, mlp.fc1.in_features, dtype=torch.float32, device="cpu").to(first.device),)]


COPIED = Shape("two-layer MLP", ("x",), ("fc1", "act", "fc2", "drop"), Original, _tokens)


def _transformers_older(module: str, prefix: str) -> tuple[str, str, str, Rule]:
    module = f"transformers.models.{module}"
    return module, f"{prefix}Layer", "intermediate", Rule(module, f"{prefix}Intermediate", TransformersOlder)


_TIMM, _SWIN = Rule("timm.layers.mlp", "Mlp", Timm), "transformers.models.swin.modeling_swin"
_MONAI = Rule("monai.networks.blocks.mlp", "MLPBlock", Monai)
# module and name of the block, its submodule, and the rule of that one
BLOCKS = (
    ("timm.models.swin_transformer", "SwinTransformerBlock", "mlp", _TIMM),
    ("timm.models.swin_transformer_v2", "SwinTransformerV2Block", "mlp", _TIMM),
    ("timm.models.swin_transformer_v2_cr", "SwinTransformerV2CrBlock", "mlp", _TIMM),
    # V2's and 3D's are subclasses
    (
        "torchvision.models.swin_transformer",
        "SwinTransformerBlock",
        "mlp",
        Rule("torchvision.ops.misc", "MLP", Torchvision),
    ),
    ("monai.networks.nets.swin_unetr", "SwinTransformerBlock", "mlp", _MONAI),
    (_SWIN, "SwinLayer", "mlp", Rule(_SWIN, "SwinMLP", Transformers)),
    _transformers_older("swinv2.modeling_swinv2", "Swinv2"),
    _transformers_older("swin2sr.modeling_swin2sr", "Swin2SR"),
    _transformers_older("maskformer.modeling_maskformer_swin", "MaskFormerSwin"),
    _transformers_older("donut.modeling_donut_swin", "DonutSwin"),
    _transformers_older("clap.modeling_clap", "ClapAudio"),
)
_COPIES = {shape.mixin for shape in SHAPES}


def look(name: str, block: nn.Module, mixin: type[Fused] | None) -> tuple[Entry, nn.Module, type[Fused] | None] | None:
    """What is known of the MLP in `block`, which gets `mixin`: its entry, the MLP, and its own mixin or None.

    None where there is no MLP that is known, or its activation is not a GELU of any kind.
    """
    path, rule = _known(block, mixin)
    mlp = getattr(block, path, None)
    if rule is None or not isinstance(mlp, nn.Module):
        return None
    name = f"{name}.{path}".removeprefix(".")
    if isinstance(mlp, FeedForward):
        original = mlp._swin_fast_original
        return Entry(name, original.__name__, original.__module__.partition(".")[0]), mlp, mlp._swin_fast_mixin
    if not (rule.fits(mlp) if isinstance(rule, Shape) else rule.matches(mlp)):
        return None
    act = getattr(mlp, rule.mixin.pair[1], None)
    if not isinstance(act, nn.Module) or "gelu" not in type(act).__name__.lower():
        return None
    reason = rule.why_not(mlp)
    entry = Entry(name, type(mlp).__name__, type(mlp).__module__.partition(".")[0], reason=reason)
    return entry, mlp, None if reason else rule.mixin


def _known(block: nn.Module, mixin: type[Fused] | None) -> tuple[str, Rule | Shape | None]:
    if mixin in _COPIES:
        return "mlp", COPIED
    for module, kind, path, rule in BLOCKS:
        if Rule(module, kind, Fused).matches(block):
            return path, rule
    return "", None
