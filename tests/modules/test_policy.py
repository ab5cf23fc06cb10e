"""WindowPolicy: which windows and shifts a map gets by each rule, what padding and masks do, names, errors."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from swin_fast import WindowAttention, WindowPolicy
from swin_fast.functional import window_attention
from swin_fast.modules import POLICIES, SwinTransformerBlock

from ..weights import distance, randomize


@pytest.mark.parametrize(
    ("clamp", "size", "window", "shift"),
    [
        ("original", (9, 9), (7, 7), (3, 3)),
        ("original", (7, 14), (7, 7), (0, 0)),
        ("original", (5, 14), (5, 5), (0, 0)),
        ("per_axis", (9, 9), (7, 7), (3, 3)),
        ("per_axis", (7, 14), (7, 7), (0, 3)),
        ("per_axis", (5, 14), (5, 7), (0, 3)),
        ("none", (5, 14), (7, 7), (0, 3)),
        ("none", (5, 6), (7, 7), (0, 0)),
    ],
)
def test_fit(clamp, size, window, shift):
    assert WindowPolicy(clamp=clamp).fit((7, 7), (3, 3), size) == (window, shift)


def test_fit_in_3d():
    fit = WindowPolicy(clamp="per_axis").fit
    assert fit((8, 7, 7), (4, 3, 3), (4, 9, 7)) == ((4, 7, 7), (0, 3, 0))


@pytest.mark.parametrize(
    ("policy", "built_for", "size", "shift"),
    [
        ("timm", (8, 8), (4, 4), (2, 2)),  # as chosen when it was built
        ("timm", (4, 8), (8, 8), (0, 2)),
        ("transformers_v2", (4, 4), (8, 8), (0, 0)),
        ("torchvision", (8, 8), (4, 8), (0, 2)),
        ("torchvision", (4, 8), (4, 8), (0, 2)),
        ("transformers", (8, 8), (4, 8), (0, 0)),
        ("transformers", (4, 4), (5, 8), (2, 2)),
        ("detection", (8, 8), (3, 8), (2, 2)),
        ("detection", None, (3, 3), (2, 2)),
        ("original", (4, 8), (4, 8), (0, 0)),
        ("original", (8, 8), (4, 8), (0, 2)),
        ("original", None, (4, 8), (0, 2)),
    ],
)
def test_shift_of_a_block(policy, built_for, size, shift):
    block = SwinTransformerBlock(8, built_for, 2, window_size=4, shift_size=2, policy=policy)
    assert block.shift_of(size) == shift
    height, width = size
    x = torch.randn(1, height * width, 8)
    y = block.attn(block.norm1(x).unflatten(1, size), shift_size=shift).flatten(1, 2)
    assert torch.equal(block.attend(block.norm1(x), size), y)


def test_a_rectangular_window():
    block = SwinTransformerBlock(8, (3, 9), 2, window_size=4, shift_size=2, policy="timm")
    assert (block.window_size, block.shift_size, block.attn.window_size) == ((3, 4), (0, 2), (3, 4))
    assert block(torch.randn(1, 27, 8)).shape == (1, 27, 8)
    assert block.attn_mask.shape == (3, 12, 12)


def test_a_block_built_for_no_size():
    block = SwinTransformerBlock(8, None, 2, window_size=4, shift_size=2)
    assert "attn_mask" not in block.state_dict() and block.window_size == 4
    with pytest.raises(ValueError, match=r"size must be the \(H, W\) of the map, got None"):
        block(torch.randn(1, 16, 8))


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (WindowPolicy(pad_order="roll_then_pad"), {"pad_order": "roll_then_pad"}),
        (WindowPolicy(padding="masked"), {"pad_qkv": None}),
        (WindowPolicy(mask_value=-200.0), {"mask_value": -200.0}),
        (WindowPolicy(mask_value=float("-inf")), {"mask_value": float("-inf")}),
        (WindowPolicy(), {}),
    ],
)
def test_what_the_op_is_told(policy, options):
    attention = randomize(WindowAttention(8, 4, 2, policy=policy)).double()
    with torch.no_grad():
        attention.qkv.weight.mul_(6)  # logits of some size, so that the masks differ
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    defaults = {"pad_qkv": attention.qkv.bias, "pad_order": "pad_then_roll", "mask_value": -100.0}
    out = window_attention(
        attention.qkv(x), attention.relative_position_bias_table, num_heads=2, window_size=4, shift_size=2,
        **{**defaults, **options},
    )  # fmt: skip
    assert distance(attention(x, shift_size=2), attention.proj(out)) < 1e-14


def test_names():
    assert WindowAttention(8, 4, 2, policy="timm").policy is POLICIES["timm"]
    assert WindowAttention(8, 4, 2).policy == POLICIES["original"] == WindowPolicy()
    assert "policy=WindowPolicy(pad_order='roll_then_pad')" in repr(
        WindowAttention(8, 4, 2, policy=WindowPolicy(pad_order="roll_then_pad"))
    )
    assert "policy" not in repr(WindowAttention(8, 4, 2))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_prints_what_makes_it(policy):
    assert eval(repr(policy)) == policy == pickle.loads(pickle.dumps(policy))  # noqa: S307
    with pytest.raises(FrozenInstanceError):
        policy.shift = "map"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clamp": "all"}, r"clamp must be one of \('original', 'per_axis', 'none'\), got 'all'"),
        ({"shift": "never"}, "shift must be one of .*, got 'never'"),
        ({"pad_order": "pad"}, "pad_order must be one of .*, got 'pad'"),
        ({"padding": "zeros"}, "padding must be one of .*, got 'zeros'"),
        ({"clamped_bias": "cut"}, "clamped_bias must be one of .*, got 'cut'"),
        ({"mask_value": 1.0}, r"mask_value must be a number <= 0 .*, got 1.0"),
        ({"mask_value": float("nan")}, r"mask_value must be a number <= 0 .*, got nan"),
        ({"mask_value": "-100"}, r"mask_value must be a number <= 0 .*, got '-100'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        WindowPolicy(**options)


def test_bad_policies():
    with pytest.raises(ValueError, match=r"policy must be a WindowPolicy or one of \('original', .*got 'keras'"):
        WindowAttention(8, 4, 2, policy="keras")
    with pytest.raises(TypeError, match="policy must be a WindowPolicy or a name, got dict"):
        WindowAttention(8, 4, 2, policy={})
    with pytest.raises(ValueError, match="input_resolution must be given for the policy shift='built', got None"):
        SwinTransformerBlock(8, None, 2, policy="timm")
