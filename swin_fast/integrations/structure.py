"""Recognises the blocks of the original family in anybody's tree, by what they hold and how they are called.

A copy may have been edited, so a look is not enough: each block is copied, given random weights and run on both roads,
and one that computes something else is left alone.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..geometry import padded_size, relative_position_index
from ..reference import shift_regions
from . import openmmlab, original, video
from .swap import Fused, swap

CLOSE = 1e-4  # of the largest value, float32: what two orders of summation differ by stays far below


@dataclass(frozen=True)
class Shape:
    """A kind of block: `takes` are the arguments of its forward, `holds` attributes that tell it from others.

    `calls(block)` makes the inputs with which the two roads are compared, a list of argument tuples.
    """

    name: str
    takes: tuple[str, ...]
    holds: tuple[str, ...]
    mixin: type[Fused]
    calls: Callable[[nn.Module], list[tuple]]

    def fits(self, module: nn.Module) -> bool:
        found = tuple(inspect.signature(inspect.unwrap(type(module).forward)).parameters)[1:]
        return found == self.takes and all(_has(module, path) for path in self.holds)

    def why_not(self, module: nn.Module) -> str:
        if "forward" in vars(module):
            return "its forward was put on the instance"
        if any(parametrize.is_parametrized(m) for m in (module, _attention(module))):
            return "parameters of its own are parametrized"
        try:
            return self.mixin.why_not(module) or _difference(module, self)
        except (AttributeError, TypeError, ValueError) as error:
            return f"it is not quite the block that it looks like: {error}"


def _has(module: nn.Module, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _attention(module: nn.Module) -> nn.Module:
    return module.w_msa if hasattr(module, "w_msa") else getattr(module, "attn", module)


def _difference(module: nn.Module, shape: Shape) -> str:
    """Why the two roads of the block are not the same, from a run of a copy with random weights; empty if they are."""
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return "its weights are on the meta device, and a block known by its looks is compared before it is replaced"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            theirs = _randomized(module)
        except Exception as error:  # wrapped or sharded in some way that cannot be copied
            return f"it cannot be copied to be compared: {type(error).__name__}: {error}".partition("\n")[0]
        calls = shape.calls(theirs)
        ours = copy.deepcopy(theirs)
        swap(ours, shape.mixin, {})
        for arguments in calls:
            try:
                want = theirs(*arguments)
            except Exception as error:  # anybody's code: whatever it raises, the block is not ours to replace
                return f"it does not run as a {shape.name} does: {type(error).__name__}: {error}".partition("\n")[0]
            got = ours(*arguments)
            if not isinstance(want, Tensor) or want.shape != got.shape:
                return f"it does not return what a {shape.name} returns"
            if not (want - got).abs().max() <= CLOSE * want.abs().max():
                return f"it computes something else than a {shape.name}"
    return ""


def _randomized(module: nn.Module) -> nn.Module:
    """A float32 copy in eval mode without hooks, its weights random, so that a zero-initialised part shows, too."""
    block = copy.deepcopy(module).float().eval().requires_grad_(False)
    for m in block.modules():
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks):
            hooks.clear()
    for p in block.parameters():
        noise = torch.randn(p.shape, dtype=torch.float32, device="cpu")
        p.copy_(noise * p[0].numel() ** -0.5 if p.dim() > 1 else 1 + 0.2 * noise)
    return block


def _tokens(block: nn.Module, *grid: int) -> Tensor:
    first = next(block.parameters())
    channels = block.w_msa.embed_dims if hasattr(block, "w_msa") else block.dim
    return torch.randn(2, *grid, channels, dtype=torch.float32, device="cpu").to(first.device)


def _mask(block: nn.Module, size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    regions = shift_regions(padded_size(size, window), window, shift)
    across = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(across.shape).masked_fill(across, -100.0).to(next(block.parameters()).device)


def _fixed(block: nn.Module) -> list[tuple]:
    return [(_tokens(block, prod(block.input_resolution)),)]


def _detection(block: nn.Module) -> list[tuple]:
    size = block.H, block.W = block.window_size + 1, 2 * block.window_size + 1  # it is told the size in attributes
    window, shift = (block.window_size,) * 2, (block.shift_size,) * 2
    return [(_tokens(block, prod(size)), _mask(block, size, window, shift))]


def _restoration(block: nn.Module) -> list[tuple]:
    sizes, own = [(2 * block.window_size, 3 * block.window_size)], tuple(block.input_resolution)
    if not any(n % block.window_size for n in own):  # its mask is kept, any other is made in the forward
        sizes.append(own)
    return [(_tokens(block, prod(size)), size) for size in sizes]


def _hybrid(block: nn.Module) -> list[tuple]:
    size, window = (2 * block.window_size, 3 * block.window_size), (block.window_size,) * 2
    shift = (block.shift_size,) * 2
    mask = _mask(block, size, window, shift)
    return [(_tokens(block, prod(size)), size, relative_position_index(window).to(mask.device), mask)]


def _video(block: nn.Module) -> list[tuple]:
    calls = []
    for size in ([w + 1 for w in block.window_size], [max(1, w - 1) for w in block.window_size]):
        window, shift = video.clamp(size, block.window_size, block.shift_size)
        calls.append((_tokens(block, *size), _mask(block, tuple(size), window, shift)))
    return calls


def _openmmlab(block: nn.Module) -> list[tuple]:
    w = block.window_size
    sizes = [(w + 1, 2 * w + 1), (w, 2 * w)]
    return [(_tokens(block, prod(size)), size) for size in sizes]


_BLOCK = ("norm1", "attn.qkv", "attn.proj", "attn.proj_drop", "attn.attn_drop", "drop_path", "norm2", "mlp")
_V1 = (*_BLOCK, "attn.relative_position_bias_table", "attn.scale", "shift_size", "dim")
_V2 = (*_BLOCK, "attn.logit_scale", "attn.cpb_mlp", "attn.q_bias", "attn.v_bias", "input_resolution", "shift_size")
_HAT = (*_V1, "conv_block", "conv_scale")
_MSA = ("w_msa.qkv", "w_msa.proj", "w_msa.proj_drop", "w_msa.attn_drop", "w_msa.embed_dims", "drop", "shift_size")
SHAPES = (
    Shape("Swin block", ("x",), (*_V1, "input_resolution"), original.BlockV1, _fixed),
    Shape("Swin V2 block", ("x",), _V2, original.BlockV2, _fixed),
    Shape("SwinIR block", ("x", "x_size"), (*_V1, "calculate_mask"), original.RestorationBlock, _restoration),
    Shape("HAT block", ("x", "x_size", "rpi_sa", "attn_mask"), _HAT, original.HybridBlock, _hybrid),
    Shape("Video-Swin block", ("x", "mask_matrix"), (*_V1, "forward_part1"), video.Block, _video),
    Shape("detection Swin block", ("x", "mask_matrix"), (*_V1, "H", "W"), original.DetectionBlock, _detection),
    Shape("shifted window attention", ("query", "hw_shape"), _MSA, openmmlab.ShiftWindowAttention, _openmmlab),
)
OVERLAPPING = ("overlap_win_size", "unfold", "qkv", "relative_position_bias_table")


def recognise(module: nn.Module) -> tuple[Shape | None, str]:
    """(shape, "") of a block that can be replaced, (None, why not) of one that is known, (None, "") of any other."""
    if all(_has(module, name) for name in OVERLAPPING):
        return None, "overlapping cross attention is left to the library"
    for shape in SHAPES:
        if shape.fits(module):
            reason = shape.why_not(module)
            return (None, reason) if reason else (shape, "")
    return None, ""
