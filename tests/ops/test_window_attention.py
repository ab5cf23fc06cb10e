"""The kernel against float64, forward and every gradient, over the shapes and options of the contract."""

from __future__ import annotations

import pytest
import torch

from swin_fast import native

from .cases import DTYPES, Case, assert_accurate, run

# windows of the field and the awkward ones; maps divided and not, square and not, larger and smaller than the window
SHAPES = [
    Case((7, 7), (14, 21), shift=3, head_dim=32, heads=3),
    Case((7, 7), (10, 13), shift=(3, 2), head_dim=32),
    Case((7, 7), (7, 7), head_dim=32, heads=4),
    Case((7, 7), (5, 3), shift=(0, 3), head_dim=16),
    Case((8, 8), (16, 8), shift=4, head_dim=30, heads=1),
    Case((8, 8), (11, 24), shift=(4, 0), head_dim=10, heads=6),
    Case((12, 12), (12, 24), shift=6, heads=1, head_dim=32),
    Case((12, 12), (13, 12), shift=5, heads=1, head_dim=24),
    Case((16, 16), (16, 32), shift=8, heads=1, head_dim=32, batch=1),
    Case((16, 16), (17, 9), shift=(3, 8), heads=1, head_dim=16),
    Case((24, 24), (24, 24), shift=12, heads=1, head_dim=32, batch=1),
    Case((24, 24), (20, 30), shift=(0, 5), heads=1, head_dim=16, batch=1),
    Case((32, 32), (32, 32), shift=16, heads=1, head_dim=32, batch=1),
    Case((32, 32), (30, 33), heads=1, head_dim=8, batch=1),
    Case((4, 6), (9, 11), shift=(2, 5), head_dim=16, heads=5),
    Case((1, 1), (3, 4)),
    Case((1, 5), (4, 12), shift=(0, 2)),
    Case((2, 2), (4, 7), shift=1, head_dim=2, heads=6),
    Case((3, 5), (1, 1), shift=(1, 4), head_dim=2, heads=1, batch=1),
    Case((3, 5), (7, 4), shift=(2, 3), head_dim=4, heads=3, batch=3),
    Case((7, 7, 7), (7, 7, 7), shift=3, heads=1, head_dim=16, batch=1),
    Case((7, 7, 7), (9, 6, 8), shift=(3, 0, 2), heads=1, head_dim=8, batch=1),
    Case((8, 7, 7), (8, 7, 14), shift=(4, 3, 3), heads=1, head_dim=32, batch=1),
    Case((2, 3, 4), (5, 7, 6), shift=(1, 2, 3), heads=3, head_dim=10),
    Case((2, 1, 3), (3, 2, 7), shift=(1, 0, 2), heads=2, head_dim=6),
    # results of more than 2 MiB in 2-byte types, too: written past the caches
    Case((7, 7), (97, 98), shift=3, heads=4, head_dim=32, batch=1, pad="attended"),
    # a bias too large to be expanded ahead for all windows
    Case((32, 32), (32, 33), heads=3, head_dim=8, batch=1),
]
HEAD_DIMS = [
    Case((3, 4), (7, 6), shift=(1, 2), head_dim=d) for d in (2, 4, 8, 10, 14, 16, 18, 24, 30, 32, 34, 48, 62, 64, 66)
] + [Case((7, 7), (14, 9), shift=3, heads=1, batch=1, head_dim=d) for d in (72, 96, 98, 128, 130, 192, 254, 256)]
HEADS = [Case((4, 4), (8, 10), shift=2, heads=h, head_dim=16) for h in (1, 2, 3, 4, 5, 6, 24)]

W, G = (4, 3), (9, 8)  # a map with padding on both axes
PADDING = [
    Case(W, g, shift=s, pad=pad, pad_order=order, bias=bias)
    for order in ("pad_then_roll", "roll_then_pad")
    for pad in ("attended", "masked")
    for g, s, bias in ((G, (2, 1), "table"), ((9, 6), (3, 0), "none"), ((2, 5), (3, 2), "table"), ((8, 7), 0, "none"))
] + [
    Case((3, 2, 2), (4, 5, 3), shift=(1, 0, 1), pad=pad, pad_order=order)
    for order in ("pad_then_roll", "roll_then_pad")
    for pad in ("attended", "masked")
]
OPTIONS = [
    Case(W, (8, 6), bias="none", head_dim=16),
    Case(W, (8, 6), bias="index", head_dim=16, shift=1),
    Case(W, (8, 6), scale=0.3, head_dim=16, shift=1),
    Case(W, (8, 6), scale=1.0, head_dim=16),
    Case(W, (8, 6), scale=-0.7),
    Case(W, (8, 6), scale=0.0),
    Case(W, (8, 6), shift=1, mask_value=0.0),
    Case(W, (8, 6), shift=1, mask_value=-2.5, scale=0.9),
    Case(W, (8, 6), shift=(2, 1), mask_value=-torch.inf),
    Case(W, G, shift=(2, 1), mask_value=-torch.inf),
    Case(W, G, shift=(2, 1), mask_value=-torch.inf, pad="attended", pad_order="roll_then_pad"),
    Case(W, (8, 6), mask="batch", shift=2),
    Case(W, (8, 9), mask="image", batch=3),
    Case(W, G, mask="image", pad="attended", shift=(1, 2), scale=0.9),
    Case(W, G, mask="one", bias="none"),
    Case((4, 4), (4, 4), batch=6, mask="batch", bias="index"),
    Case(W, (8, 6), cosine=True, head_dim=16, shift=1),
    Case(W, G, cosine=True, shift=1, pad="attended", bias="index"),
    Case(W, G, cosine=True, shift=1, mask="image", mask_value=-torch.inf),
    Case((8, 8), (16, 16), cosine=True, heads=3, head_dim=32, shift=4),
    Case((7, 7), (14, 9), cosine=True, head_dim=32, shift=3, pad="attended", mask="one"),
    Case((9, 9), (9, 9), cosine=True, head_dim=32, batch=1, mask="one"),
    Case(W, (8, 6), dropout=0.5, head_dim=16, shift=1),
    Case(W, G, dropout=0.1, pad="attended", shift=1),
    Case((7, 7), (14, 14), dropout=0.25, heads=3, head_dim=32, shift=3),
    Case((24, 24), (24, 25), dropout=0.2, heads=1, batch=1, shift=3, pad="attended"),
    Case(W, G, dropout=0.9, cosine=True, mask="batch", bias="index", shift=(3, 2), mask_value=-torch.inf),
    Case((3, 2, 2), (4, 5, 3), shift=1, cosine=True, pad="attended", pad_order="roll_then_pad", mask="image"),
]
WIDE = [
    Case(W, G, shift=1, pad="attended", mask="image", head_dim=32, wide=True),
    Case(W, G, shift=1, pad="attended", cosine=True, bias="index", wide=True),
    Case((7, 7), (14, 14), shift=3, heads=3, head_dim=32, wide=True, dropout=0.1),
]
ALL = [*SHAPES, *HEAD_DIMS, *HEADS, *PADDING, *OPTIONS]


def test_the_kernel_is_what_these_tests_run():
    assert native.loaded, native.reason


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_forward_and_gradients(case, dtype):
    tensors = case.tensors(dtype)
    assert_accurate(case, tensors, run(case, tensors))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_half_map_with_float32_parameters(case, dtype):
    tensors = case.tensors(dtype)
    assert tensors["bias_table"].dtype == torch.float32
    assert_accurate(case, tensors, run(case, tensors))


@pytest.mark.parametrize("case", [WIDE[0], WIDE[1]], ids=str)
def test_half_parameters_of_a_float32_map(case):
    tensors = case.tensors(torch.float32)
    for name in ("bias_table", "mask", "logit_scale"):
        if tensors[name] is not None:
            tensors[name] = tensors[name].bfloat16()
    assert_accurate(case, tensors, run(case, tensors))
