"""Whole models, built of `swin_fast.modules`."""

from .swin_transformer import SwinTransformer, swin_b, swin_l, swin_s, swin_t

__all__ = ["SwinTransformer", "swin_b", "swin_l", "swin_s", "swin_t"]
