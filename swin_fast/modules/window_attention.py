"""Window attention as a module: the qkv Linear, the fused op, the projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..functional import window_attention
from ..geometry import bias_table_size, relative_position_index
from .checks import check_int, check_size


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a relative position bias (Liu et al., 2021, section 3.2).

    Takes the place of the original ``WindowAttention``: same arguments, shapes and state_dict keys. No attention
    matrix is stored.

    Args:
        dim: channels C; `num_heads` divides it.
        window_size: (Wh, Ww), the tokens of a window; an int means both.
        num_heads: attention heads.
        qkv_bias: give the qkv Linear a bias.
        qk_scale: multiplies q . k; None or 0 means ``(dim // num_heads) ** -0.5``.
        attn_drop: probability of dropping an attention weight.
        proj_drop: dropout after the projection.

    ``relative_position_index`` is in the state_dict because the original's is. The kernel computes it, so a state_dict
    with another index is refused.
    """

    def __init__(self, dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0):
        super().__init__()
        self.dim = check_int("dim", dim)
        self.window_size = check_size("window_size", window_size)
        self.num_heads = check_int("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        if not 0 <= attn_drop < 1:
            raise ValueError(f"attn_drop must be in [0, 1), got {attn_drop!r}")
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty(bias_table_size(self.window_size), num_heads))
        index = relative_position_index(self.window_size).to(self.relative_position_bias_table.device)
        self.register_buffer("relative_position_index", index)  # (N, N)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None, shift_size: int | Sequence[int] = 0) -> Tensor:
        """Attend inside the windows of x, given as windows or as a whole map.

        Args:
            x: (num_windows * B, N, C), windows as the original takes them, or (B, H, W, C), a channels-last map. A map
                is partitioned, shifted, masked at the seam and put together again inside the kernel. Where the window
                does not divide it, it acts as if padded right and bottom with zeros before the qkv Linear: padded keys
                are attended, with that Linear's bias.
            mask: (M, N, N), added to the logits; M divides the number of windows, and window i reads mask[i % M].
            shift_size: cyclic shift of a map in tokens, (vertical, horizontal) or one int, below `window_size`.

        Returns:
            x's shape.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        if x.dim() not in (3, 4) or x.shape[-1] != self.dim:
            raise ValueError(f"x must be (num_windows*B, N, {self.dim}) or (B, H, W, {self.dim}), got {tuple(x.shape)}")
        qkv, pad_qkv = self.qkv(x), None
        if x.dim() == 3:
            tokens = self.window_size[0] * self.window_size[1]
            if x.shape[1] != tokens:
                raise ValueError(f"x must hold windows of {self.window_size} = {tokens} tokens, got {tuple(x.shape)}")
            if shift_size not in (0, (0, 0), [0, 0]):
                raise ValueError(f"shift_size needs x as a map (B, H, W, {self.dim}), got {tuple(x.shape)}")
            qkv = qkv.unflatten(1, self.window_size)
        elif torch.compiler.is_compiling() or x.shape[1] % self.window_size[0] or x.shape[2] % self.window_size[1]:
            # a compiled graph is for any size: the vector changes nothing where there is no padding to read it
            pad_qkv = qkv.new_zeros(3 * self.dim) if self.qkv.bias is None else self.qkv.bias
        out = window_attention(
            qkv,
            self.relative_position_bias_table,
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=shift_size,
            scale=self.scale,
            pad_qkv=pad_qkv,
            mask=mask,
            dropout_p=self.attn_drop.p if self.attn_drop.training else 0.0,
        )
        return self.proj_drop(self.proj(out.reshape(x.shape)))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        key = prefix + "relative_position_index"
        loaded, standard = state_dict.get(key), relative_position_index(self.window_size)
        if loaded is not None and not loaded.is_meta and loaded.shape == standard.shape:
            if not torch.equal(loaded.cpu().long(), standard):
                raise ValueError(f"{key} must be the standard index of a window of {self.window_size}, got another one")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, window_size={self.window_size}, num_heads={self.num_heads}"
