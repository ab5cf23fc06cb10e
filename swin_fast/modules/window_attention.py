"""Window attention as a module: the qkv Linear, the fused op, the projection."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn as nn
from torch import Tensor

from ..functional import window_attention
from ..geometry import bias_table_size, relative_position_index
from .checks import check_int, check_size
from .policy import DEFAULT_2D, WindowPolicy, to_policy


class FusedAttention(nn.Module):
    """What the window attentions here share: from x to the fused op and back. Subclasses make q, k, v and the bias.

    ``relative_position_index`` is in the state_dict because the original's is. The kernel computes it, so a state_dict
    with another index is refused.
    """

    axes = 2
    default_policy = DEFAULT_2D

    def __init__(self, dim, window_size, num_heads, attn_drop, policy: WindowPolicy | str | None):
        super().__init__()
        self.dim = check_int("dim", dim)
        self.window_size = check_size("window_size", window_size, self.axes)
        self.num_heads = check_int("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        if not 0 <= attn_drop < 1:
            raise ValueError(f"attn_drop must be in [0, 1), got {attn_drop!r}")
        self.policy = to_policy(policy, self.default_policy)
        index = relative_position_index(self.window_size)
        self.register_buffer("relative_position_index", index.to(torch.empty(0).device))  # (N, N)

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., C) -> q, k and v (..., 3 * C), and the bias (3 * C) in them: what a token of zeros becomes."""
        raise NotImplementedError

    def position_bias(self, window: tuple[int, ...]) -> dict[str, Tensor]:
        """The op's arguments that say which bias each pair of tokens in a window of this size gets."""
        raise NotImplementedError

    def logits(self) -> dict:
        """The op's arguments that say what q . k is multiplied by."""
        raise NotImplementedError

    def attend(self, x: Tensor, mask: Tensor | None, shift_size, window: tuple[int, ...]) -> Tensor:
        """`forward` with windows of a size that the caller has chosen."""
        windows = self._check_input(x, shift_size, window)
        tokens = x.unflatten(1, window) if windows else x
        qkv, bias = self.project_qkv(tokens)
        # a compiled graph is for any size: the vector changes nothing where there is no padding to read it
        padded = torch.compiler.is_compiling() or any(n % w for n, w in zip(tokens.shape[1:-1], window, strict=True))
        pad_qkv = None
        if padded and not windows and self.policy.padding == "attended":
            pad_qkv = qkv.new_zeros(qkv.shape[-1]) if bias is None else bias
        out = window_attention(
            qkv,
            **self.position_bias(window),
            **self.logits(),
            num_heads=self.num_heads,
            window_size=window,
            shift_size=shift_size,
            pad_qkv=pad_qkv,
            pad_order=self.policy.pad_order,
            mask=mask,
            mask_value=self.policy.mask_value,
            dropout_p=self.attn_drop.p if self.attn_drop.training else 0.0,
        )
        return self.proj_drop(self.proj(out.reshape(x.shape)))

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
        return self.attend(x, mask, shift_size, self.window_size)

    def _check_input(self, x: Tensor, shift_size, window: tuple[int, ...]) -> bool:
        """Whether x holds windows, and not a map."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        a_map = f"(B, {', '.join('DHW'[-self.axes :])}, {self.dim})"
        if x.dim() not in (3, 2 + self.axes) or x.shape[-1] != self.dim:
            raise ValueError(f"x must be (num_windows*B, N, {self.dim}) or {a_map}, got {tuple(x.shape)}")
        if x.dim() != 3:
            return False
        if x.shape[1] != prod(window):
            raise ValueError(f"x must hold windows of {window} = {prod(window)} tokens, got {tuple(x.shape)}")
        if shift_size not in (0, (0,) * self.axes, [0] * self.axes):
            raise ValueError(f"shift_size needs x as a map {a_map}, got {tuple(x.shape)}")
        return True

    def _load_from_state_dict(self, state_dict, prefix, *args):
        key = prefix + "relative_position_index"
        loaded, standard = state_dict.get(key), relative_position_index(self.window_size)
        if loaded is not None and not loaded.is_meta and loaded.shape == standard.shape:
            if not torch.equal(loaded.cpu().long(), standard):
                raise ValueError(f"{key} must be the standard index of a window of {self.window_size}, got another one")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        text = f"dim={self.dim}, window_size={self.window_size}, num_heads={self.num_heads}"
        return text if self.policy == self.default_policy else f"{text}, policy={self.policy}"


class WindowAttention(FusedAttention):
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
        policy: a `WindowPolicy` or its name, for pad_order, padding and mask_value on a map.
    """

    def __init__(
        self, dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0, policy=None
    ):
        super().__init__(dim, window_size, num_heads, attn_drop, policy)
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty(bias_table_size(self.window_size), num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.qkv(x), self.qkv.bias

    def position_bias(self, window: tuple[int, ...]) -> dict[str, Tensor]:
        return {"bias_table": self.relative_position_bias_table}

    def logits(self) -> dict:
        return {"scale": self.scale}
