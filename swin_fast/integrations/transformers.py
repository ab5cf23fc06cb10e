"""transformers' Swin, Swinv2, Swin2SR, MaskFormerSwin, Donut's and CLAP's Swin: the whole layer around the attention.

Swin, Donut and CLAP clamp the window in the forward and keep it: after one small map, larger ones run with the small
window. That is the library's behaviour, so it is the default; ``stateful_window=False`` clamps for the call only. Where
the clamped window is smaller than its bias table, the library raises; here the bias of the offsets inside it is read.
Swinv2 and Swin2SR add the shift mask twice, so its value is -200.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..functional import window_attention
from .attention import (
    LARGEST_LOGIT,
    bias_index,
    dropout_rate,
    packed_pad_vector,
    packed_projection,
    padded,
    position_bias,
    shrunk_index,
    why_not,
)
from .rules import Rule
from .swap import Fused, own_road

WEIGHTS = "attention weights are asked for"
Size = tuple[int, int]


def _attend(attn, q, k, v, x: Tensor, table: Tensor, index, window: int, shift: int, **options) -> Tensor:
    """x (B, H, W, C) -> (B, H, W, C) before the output projection."""
    return window_attention(
        packed_projection(q, k, v, x),
        table,
        num_heads=attn.num_attention_heads,
        window_size=(window, window),
        shift_size=(shift, shift),
        bias_index=index,
        pad_qkv=packed_pad_vector(q, k, v, x) if padded(x, (window, window)) else None,
        **options,
    )


class _Clamping(Fused):
    """Layers that clamp window and shift to the map: `set_shift_and_window_size` keeps them, as the library does."""

    @classmethod
    def options(cls, module: nn.Module, name: str, stateful_window: bool) -> dict:
        block = name.rpartition(".")[2]  # shift_size may have been set to 0 by a forward; odd blocks are shifted
        window = cls.table_window(module)
        shift = window // 2 if block.isdigit() and int(block) % 2 else 0
        return {"stateful": stateful_window, "window": window, "shift": shift}

    @classmethod
    def table_window(cls, module: nn.Module) -> int:
        """The side of the window that the bias table was made for."""
        return module.attention.self.window_size[0]

    def _window_and_shift(self, size: Size, always_partition: bool) -> Size:
        if self._swin_fast["stateful"]:
            if not always_partition:
                self.set_shift_and_window_size(size)
            return self.window_size, self.shift_size
        window, shift = self._swin_fast["window"], self._swin_fast["shift"]
        if not always_partition and min(size) <= window:
            return min(size), 0
        return window, shift

    def _index(self, buffer: Tensor, window: int) -> Tensor | None:
        full = self._swin_fast["window"]
        if window != full:
            return shrunk_index((full, full), (window, window), buffer.device)
        return bias_index(buffer, (full, full))


class Swin(_Clamping):
    @classmethod
    def table_window(cls, module: nn.Module) -> int:
        return module.attention.relative_position_bias.window_size[0]

    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn, window = module.attention, cls.table_window(module)
        return why_not(attn.head_dim, (window,), (window // 2,), attn.attention_dropout)

    def _reason(self, asked: bool | None) -> str:
        config = self.attention.config
        if asked or config.output_attentions:
            return WEIGHTS
        if config._attn_implementation not in (None, "eager", "sdpa"):
            return f"its attention implementation is {config._attn_implementation!r}"
        watched = [h for h in self._forward_hooks.values() if not getattr(h, "swin_fast_verifies", False)]
        if config._attn_implementation == "eager" and watched:
            return "it is hooked, and eager attention gives its weights to hooks"
        return ""

    def forward(self, hidden_states: Tensor, input_dimensions: Size, always_partition: bool = False, **kwargs):
        skipped = "attention", "attention.relative_position_bias"
        if own_road(self, hidden_states, skipped, self._reason(kwargs.get("output_attentions"))):
            return super().forward(hidden_states, input_dimensions, always_partition, **kwargs)
        attn = self.attention
        window, shift = self._window_and_shift(input_dimensions, always_partition)
        x = self.layernorm_before(hidden_states).view(hidden_states.shape[0], *input_dimensions, -1)
        x = _attend(
            attn, attn.q_proj, attn.k_proj, attn.v_proj, x,
            attn.relative_position_bias.relative_position_bias_table,
            self._index(attn.relative_position_bias.relative_position_index, window), window, shift,
            scale=attn.scaling, dropout_p=dropout_rate(attn.attention_dropout, attn.training),
        )  # fmt: skip
        x = self.dropout(attn.o_proj(x)).view(hidden_states.shape)
        hidden_states = hidden_states + self.drop_path(x)
        x = self.dropout(self.mlp(self.layernorm_after(hidden_states)))
        return x + hidden_states, None


class _Older(Fused):
    """Layers of the kind of 4.x: `attention.self` with query, key and value, `attention.output`."""

    skipped = "attention", "attention.self", "attention.self.dropout"

    @classmethod
    def why_not(cls, module: nn.Module) -> str:
        attn = module.attention.self
        window = tuple(attn.window_size)
        if len(set(window)) > 1 or not isinstance(module.window_size, int):
            return f"its window {window} is not square"
        return why_not(attn.attention_head_size, window, (window[0] // 2,) * 2, attn.dropout)

    def _softmax(self, x: Tensor, index: Tensor | None, window: int, shift: int) -> Tensor:
        attn = self.attention.self
        x = _attend(
            attn, attn.query, attn.key, attn.value, x, attn.relative_position_bias_table, index, window, shift,
            dropout_p=dropout_rate(attn.dropout, attn.dropout.training),
        )  # fmt: skip
        return self.attention.output(x, x)

    def _pre_norm(self, hidden_states: Tensor, size: Size, window: int, shift: int, index: Tensor | None) -> Tensor:
        x = self.layernorm_before(hidden_states).view(hidden_states.shape[0], *size, -1)
        x = self._softmax(x, index, window, shift).view(hidden_states.shape)
        hidden_states = hidden_states + self.drop_path(x)
        x = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + x


class MaskFormerSwin(_Older):
    """The window is never clamped, and the shift and its mask stay however small the map is."""

    def forward(self, hidden_states: Tensor, input_dimensions: Size, output_attentions: bool = False):
        if own_road(self, hidden_states, self.skipped, WEIGHTS if output_attentions else ""):
            return super().forward(hidden_states, input_dimensions, output_attentions)
        window = self.window_size
        index = bias_index(self.attention.self.relative_position_index, (window, window))
        return (self._pre_norm(hidden_states, input_dimensions, window, self.shift_size, index),)


class DonutOrClap(_Clamping, _Older):
    def forward(
        self, hidden_states: Tensor, input_dimensions: Size, output_attentions: bool | None = False,
        always_partition: bool | None = False,
    ):  # fmt: skip
        if own_road(self, hidden_states, self.skipped, WEIGHTS if output_attentions else ""):
            return super().forward(hidden_states, input_dimensions, output_attentions, always_partition)
        window, shift = self._window_and_shift(input_dimensions, bool(always_partition))
        index = self._index(self.attention.self.relative_position_index, window)
        return (self._pre_norm(hidden_states, input_dimensions, window, shift, index),)


class SwinV2(_Older):
    what = "cosine window attention"

    def forward(self, hidden_states: Tensor, input_dimensions: Size, output_attentions: bool | None = False):
        if own_road(self, hidden_states, self.skipped, WEIGHTS if output_attentions else ""):
            return super().forward(hidden_states, input_dimensions, output_attentions)
        attn, window = self.attention.self, self.window_size
        x = hidden_states.view(hidden_states.shape[0], *input_dimensions, -1)
        x = _attend(
            attn, attn.query, attn.key, attn.value, x, position_bias(attn, attn.continuous_position_bias_mlp),
            bias_index(attn.relative_position_index, (window, window)), window, self.shift_size,
            logit_scale=attn.logit_scale.clamp(max=LARGEST_LOGIT).exp().flatten(), mask_value=-200.0,
            dropout_p=dropout_rate(attn.dropout, attn.dropout.training),
        )  # fmt: skip
        x = self.attention.output(x, x).view(hidden_states.shape)
        hidden_states = hidden_states + self.drop_path(self.layernorm_before(x))
        x = self.output(self.intermediate(hidden_states))
        return (hidden_states + self.drop_path(self.layernorm_after(x)),)


def _older(model: str, file: str, prefix: str, mixin: type[Fused]) -> Rule:
    parts = {"attention": "Attention", "attention.self": "SelfAttention", "attention.output": "SelfOutput"}
    named = {path: prefix + name for path, name in parts.items()}
    return Rule(f"transformers.models.{model}.modeling_{file}", f"{prefix}Layer", mixin, named)


RULES = (
    Rule(
        "transformers.models.swin.modeling_swin", "SwinLayer", Swin,
        {"attention": "SwinAttention", "attention.relative_position_bias": "SwinRelativePositionBias"},
    ),
    _older("swinv2", "swinv2", "Swinv2", SwinV2),
    _older("swin2sr", "swin2sr", "Swin2SR", SwinV2),
    _older("maskformer", "maskformer_swin", "MaskFormerSwin", MaskFormerSwin),
    _older("donut", "donut_swin", "DonutSwin", DonutOrClap),
    _older("clap", "clap", "ClapAudio", DonutOrClap),
)  # fmt: skip
