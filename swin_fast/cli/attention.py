"""What a block's attention op is given, and one query's attention, computed in plain PyTorch for the figure."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import window_attention
from ..geometry import padded_size, relative_position_index


class Core(NamedTuple):
    """The arguments of one block's window attention: qkv is (B, H, W, 3 * C), the rest as in `window_attention`."""

    qkv: Tensor
    bias_table: Tensor
    pad_qkv: Tensor | None
    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    scale: float

    def run(self) -> Tensor:
        return window_attention(
            self.qkv, self.bias_table, num_heads=self.num_heads, window_size=self.window_size,
            shift_size=self.shift_size, scale=self.scale, pad_qkv=self.pad_qkv,
        )  # fmt: skip

    def float(self) -> Core:
        pad_qkv = None if self.pad_qkv is None else self.pad_qkv.float()
        return self._replace(qkv=self.qkv.float(), bias_table=self.bias_table.float(), pad_qkv=pad_qkv)


class QueryAttention(NamedTuple):
    """One query token's attention: `weights` (heads, Wh, Ww) over the tokens at `rows` x `columns` of the map."""

    query: tuple[int, int]
    rows: Tensor
    columns: Tensor
    weights: Tensor


def cores(model: nn.Module, x: Tensor) -> list[Core]:
    """The attention arguments of every block, in order, while `model` runs on `x`."""
    found: list[Core] = []

    def record(attn: nn.Module, args: tuple, kwargs: dict) -> None:
        size, qkv = args[0].shape[1:3], attn.qkv(args[0])
        pad_qkv = attn.qkv.bias if tuple(size) != padded_size(size, attn.window_size) else None
        table, shift = attn.relative_position_bias_table, kwargs["shift_size"]
        found.append(Core(qkv, table, pad_qkv, attn.num_heads, attn.window_size, shift, attn.scale))

    blocks = [block for layer in model.layers for block in layer.blocks]
    hooks = [block.attn.register_forward_pre_hook(record, with_kwargs=True) for block in blocks]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def query_attention(core: Core, query: tuple[int, int], image: int = 0) -> QueryAttention:
    """Softmax of scale * q . k + bias + shift mask of the query token (row, column) over its window, in float32."""
    height, width, channels = core.qkv.shape[1:]
    size = padded_size((height, width), core.window_size)
    axes, place, across = [], [], []
    for at, n, w, s in zip(query, size, core.window_size, core.shift_size, strict=True):
        rolled = (at - s) % n
        tokens = torch.arange(rolled // w * w, rolled // w * w + w)
        axes.append((tokens + s) % n)
        place.append(rolled % w)
        across.append((tokens >= n - s) != (rolled >= n - s))  # on the other side of the seam
    rows, columns = axes
    window = core.qkv.new_empty(*core.window_size, channels)
    inside = ((rows < height)[:, None] & (columns < width)).to(window.device)
    window[:] = 0 if core.pad_qkv is None else core.pad_qkv
    window[inside] = core.qkv[image, rows.clamp(max=height - 1)][:, columns.clamp(max=width - 1)][inside]
    q, k, _ = window.float().flatten(0, 1).unflatten(-1, (3, core.num_heads, -1)).permute(1, 2, 0, 3)  # (heads, N, d)
    own = place[0] * core.window_size[1] + place[1]
    index = relative_position_index(core.window_size)[own].to(q.device)
    logits = core.scale * (q[:, own, None] * k).sum(-1) + core.bias_table.float()[index].T  # (heads, N)
    masked = (across[0][:, None] | across[1]).flatten().to(q.device)
    weights = (logits - 100.0 * masked).softmax(-1)
    return QueryAttention(query, rows, columns, weights.unflatten(-1, core.window_size).detach().cpu())


def query_to_show(image: Tensor, core: Core, shift: tuple[int, int]) -> tuple[int, int]:
    """The token (row, column) at which `image`, (3, H, W), has the most contrast within a window's reach.

    There is one candidate a window, away from the edge of the map. `shift` is the next block's: the candidate lies
    where both its windows have tokens on every side of it.
    """
    axes = []
    for n, w, s in zip(core.qkv.shape[1:3], core.window_size, shift, strict=True):
        inner = range(w, n - 2 * w + 1, w)  # first tokens of windows that do not touch the edge
        axes.append([start + (w + s) // 2 for start in inner] or [n // 2])
    light = F.adaptive_avg_pool2d(image.float().mean(0)[None], core.qkv.shape[1:3])[0]  # one value a token
    reach_y, reach_x = (w // 2 for w in core.window_size)

    def contrast(query: tuple[int, int]) -> float:
        row, column = query
        near = light[max(row - reach_y, 0) : row + reach_y + 1, max(column - reach_x, 0) : column + reach_x + 1]
        return near.var().item()

    return max(((row, column) for row in axes[0] for column in axes[1]), key=contrast)
