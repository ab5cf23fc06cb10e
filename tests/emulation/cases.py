"""Calls that the compiled-in kernels take: every window and head_dim of theirs, and every option of the op."""

from __future__ import annotations

from math import inf

import torch

from ..ops.cases import Case

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WINDOWS = ((7, 7), (8, 8), (12, 12), (16, 16))
HEAD_DIMS = (16, 24, 30, 32, 64)

# each window, each head_dim, maps divided and not, and maps smaller than the window
SHAPES = [
    Case((7, 7), (14, 21), shift=3, head_dim=32, heads=3, batch=1),
    Case((7, 7), (10, 13), shift=(3, 2), head_dim=32, pad="attended"),
    Case((7, 7), (7, 7), head_dim=64, heads=3),
    Case((7, 7), (5, 3), shift=(0, 3), head_dim=16),
    Case((8, 8), (16, 8), shift=4, head_dim=30, heads=1),
    Case((8, 8), (11, 15), shift=(4, 0), head_dim=24, heads=3, batch=1),
    Case((12, 12), (12, 24), shift=6, heads=1, head_dim=32, batch=1),
    Case((12, 12), (13, 12), shift=5, heads=1, head_dim=24, batch=1, pad="attended"),
    Case((16, 16), (16, 16), heads=2, head_dim=30, batch=1),
    Case((16, 16), (17, 9), shift=(3, 8), heads=1, head_dim=16, batch=1, pad="attended", pad_order="roll_then_pad"),
    Case((16, 16), (16, 32), shift=8, heads=1, head_dim=64, batch=1),
]

G = (9, 12)  # a map with padding on both axes
PADDING = [
    Case((7, 7), g, shift=s, head_dim=d, heads=1, pad=pad, pad_order=order)
    for order in ("pad_then_roll", "roll_then_pad")
    for pad in ("attended", "masked")
    for g, s, d in ((G, (2, 1), 32), ((5, 6), (3, 5), 30), ((8, 7), 0, 24))
]
OPTIONS = [
    Case((7, 7), (14, 7), bias="none", head_dim=16),
    Case((7, 7), (14, 7), bias="index", head_dim=16, shift=1),
    Case((8, 8), (8, 16), scale=0.3, head_dim=32, shift=1, heads=1),
    Case((7, 7), (7, 7), scale=-0.7, head_dim=30),
    Case((7, 7), (7, 7), scale=0.0, head_dim=16),
    Case((7, 7), (14, 7), shift=2, mask_value=0.0, head_dim=16, heads=1),
    Case((7, 7), (7, 14), shift=2, pad="attended", head_dim=16, heads=1),  # nothing to pad
    Case((7, 7), (7, 14), shift=1, mask_value=-2.5, scale=0.9, head_dim=32, heads=1),
    Case((8, 8), (8, 8), shift=(2, 1), mask_value=-inf, head_dim=24),
    Case((7, 7), G, shift=(2, 1), mask_value=-inf, head_dim=32, heads=1),
    Case((7, 7), (7, 14), mask="batch", shift=2, head_dim=32, heads=1),
    Case((7, 7), G, mask="image", pad="attended", shift=(1, 2), scale=0.9, head_dim=16, heads=1),
    Case((7, 7), G, mask="one", bias="none", head_dim=64, heads=1, batch=1),
    Case((8, 8), (8, 16), cosine=True, head_dim=32, shift=4),
    Case((7, 7), G, cosine=True, shift=1, pad="attended", bias="index", head_dim=30, heads=1),
    Case((12, 12), (12, 13), cosine=True, shift=2, mask="image", mask_value=-inf, head_dim=16, heads=1, batch=1),
    Case((8, 8), (8, 8), dropout=0.5, head_dim=16),
    Case((7, 7), G, dropout=0.1, pad="attended", shift=1, head_dim=32, heads=1),
    Case((12, 12), (24, 12), dropout=0.25, shift=3, heads=1, batch=1, head_dim=32),
    Case(
        (8, 8), (9, 8), dropout=0.9, cosine=True, mask="batch", bias="index", shift=(3, 2), mask_value=-inf, head_dim=24
    ),
]
WIDE = [
    Case((7, 7), G, shift=1, pad="attended", mask="image", head_dim=32, wide=True, heads=1),
    Case((8, 8), (10, 8), shift=1, pad="attended", cosine=True, bias="index", head_dim=16, wide=True),
]
# several windows for each block of a multiprocessor that holds five: the next window is copied ahead
MANY_WINDOWS = [
    Case((7, 7), (21, 28), shift=3, head_dim=32, heads=2, batch=1),
    Case((7, 7), (20, 13), shift=(2, 3), head_dim=30, pad="attended", cosine=True, dropout=0.1),
    Case((8, 8), (20, 24), shift=1, head_dim=64, heads=1, batch=3, mask="image", bias="index"),
]
# a block has eight windows, the most of a forward, or forty: both places in shared memory are used again and again
LONG_RUNS = [
    Case((5, 6), (24, 69), shift=(2, 1), head_dim=16, heads=2, batch=1, pad="attended"),
    Case((7, 7), (46, 55), shift=3, head_dim=16, heads=1, batch=2),
]
# not compiled in as such, but the kernels take any window of at most 256 tokens, on 2D and 3D maps
OTHERS = [
    Case((4, 6), (9, 11), shift=(2, 5), head_dim=16, heads=1),
    Case((1, 1), (3, 4), head_dim=2),
    Case((3, 5), (7, 4), shift=(2, 3), head_dim=10, heads=1),
    Case((2, 7, 7), (3, 9, 7), shift=(1, 3, 0), head_dim=32, heads=1, batch=1, pad="attended"),
    Case((4, 4, 4), (4, 5, 8), shift=(2, 1, 3), head_dim=62, heads=1, batch=1),
]
ALL = [*SHAPES, *PADDING, *OPTIONS, *OTHERS]
