"""Every argument that is wrong is named, with what it got and what it needs, before any kernel runs."""

from __future__ import annotations

import pytest
import torch

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention

N, HEADS, DIM = 12, 2, 96  # windows of 4 x 3 tokens, head_dim 16
QKV, TABLE, INDEX = torch.zeros(2, 8, 9, DIM), torch.zeros(35, HEADS), torch.zeros(N, N, dtype=torch.int64)

WRONG = [
    # argument, value, other arguments, error, what the message says
    ("qkv", [1.0], {}, TypeError, "got list"),
    ("qkv", None, {}, TypeError, "got NoneType"),
    ("qkv", torch.zeros(8, 9, DIM), {}, ValueError, "got 3 axes"),
    ("qkv", torch.zeros(1, 2, 2, 2, 2, DIM), {}, ValueError, "got 6 axes"),
    ("qkv", torch.zeros(2, 8, 9, DIM, dtype=torch.int64), {}, TypeError, "got torch.int64"),
    ("qkv", torch.zeros(2, 8, 9, DIM, dtype=torch.complex64), {}, TypeError, "got torch.complex64"),
    ("qkv", torch.zeros(2, 8, 9, DIM, dtype=torch.bool), {}, TypeError, "got torch.bool"),
    ("qkv", torch.zeros(2, 0, 9, DIM), {}, ValueError, r"at least one token.*\(2, 0, 9, 96\)"),
    ("qkv", torch.zeros(2, 8, 9, 0), {}, ValueError, "got 0"),
    ("qkv", torch.zeros(2, 8, 9, 97), {}, ValueError, "got 97 for num_heads=2"),
    ("num_heads", 5, {}, ValueError, "got 96 for num_heads=5"),
    ("num_heads", 0, {}, ValueError, "num_heads=0"),
    ("num_heads", -2, {}, ValueError, "num_heads=-2"),
    ("num_heads", 2.0, {}, TypeError, "got float"),
    ("num_heads", True, {}, TypeError, "got bool"),
    ("num_heads", "2", {}, TypeError, "got str"),
    ("num_heads", 32, {"bias_table": None}, ValueError, "head_dim must be even.*got 1 "),
    ("num_heads", 1, {"qkv": torch.zeros(2, 8, 9, 3 * 258)}, ValueError, "head_dim.*at most 256, got 258"),
    ("window_size", 4.0, {}, TypeError, "got float"),
    ("window_size", "43", {}, TypeError, "got str"),
    ("window_size", True, {}, TypeError, "got bool"),
    ("window_size", None, {}, TypeError, "got NoneType"),
    ("window_size", (4, 3.0), {}, TypeError, r"got \(4, 3.0\)"),
    ("window_size", (4, True), {}, TypeError, r"got \(4, True\)"),
    ("window_size", (4, 3, 2), {}, ValueError, r"\(2\), got 3"),
    ("window_size", (4,), {}, ValueError, r"\(2\), got 1"),
    ("window_size", 0, {}, ValueError, r"at least 1.*got \(0, 0\)"),
    ("window_size", (4, -3), {}, ValueError, r"got \(4, -3\)"),
    ("window_size", (32, 33), {}, ValueError, "at most 1024 tokens.*1056"),
    ("shift_size", 3, {}, ValueError, r"below window_size \(4, 3\).*got \(3, 3\)"),
    ("shift_size", (-1, 0), {}, ValueError, r"got \(-1, 0\)"),
    ("shift_size", 1.5, {}, TypeError, "got float"),
    ("shift_size", (1, 1, 1), {}, ValueError, r"\(2\), got 3"),
    ("scale", "0.5", {}, TypeError, "got str"),
    ("scale", torch.tensor(0.5), {}, TypeError, "got Tensor"),
    ("scale", 0.5, {"logit_scale": torch.ones(HEADS)}, ValueError, "logit_scale exclude"),
    ("bias_table", [[0.0]], {}, TypeError, "got list"),
    ("bias_table", TABLE.int(), {}, TypeError, "got torch.int32"),
    ("bias_table", TABLE.to("meta"), {}, ValueError, "device cpu, got meta"),
    ("bias_table", torch.zeros(36, HEADS), {}, ValueError, r"\(35, 2\), got \(36, 2\)"),
    ("bias_table", torch.zeros(35, 3), {}, ValueError, r"\(35, 2\), got \(35, 3\)"),
    ("bias_table", torch.zeros(35), {}, ValueError, r"got \(35,\)"),
    ("bias_table", torch.zeros(40, 3), {"bias_index": INDEX}, ValueError, r"\(T, 2\), got \(40, 3\)"),
    ("bias_table", torch.zeros(0, HEADS), {"bias_index": INDEX}, ValueError, r"\(T, 2\), got \(0, 2\)"),
    ("bias_table", None, {"bias_index": INDEX}, ValueError, "bias_table=None"),
    ("bias_index", INDEX.tolist(), {}, TypeError, "got list"),
    ("bias_index", INDEX.float(), {}, TypeError, "int64 or int32, got torch.float32"),
    ("bias_index", INDEX.to("meta"), {}, ValueError, "device cpu, got meta"),
    ("bias_index", INDEX[1:], {}, ValueError, r"\(12, 12\) for window_size \(4, 3\), got \(11, 12\)"),
    ("bias_index", INDEX.flatten(), {}, ValueError, r"got \(144,\)"),
    ("bias_index", INDEX + 35, {}, ValueError, r"\[-35, 35\).*got \[35, 35\]"),
    ("bias_index", INDEX - 36, {}, ValueError, r"\[-35, 35\).*got \[-36, -36\]"),
    ("pad_qkv", 0.0, {}, TypeError, "got float"),
    ("pad_qkv", torch.zeros(DIM, dtype=torch.int32), {}, TypeError, "got torch.int32"),
    ("pad_qkv", torch.zeros(DIM, device="meta"), {}, ValueError, "device cpu, got meta"),
    ("pad_qkv", torch.zeros(DIM // 3), {}, ValueError, r"\(96,\), got \(32,\)"),
    ("pad_qkv", torch.zeros(1, DIM), {}, ValueError, r"got \(1, 96\)"),
    ("pad_order", "pad", {}, ValueError, "pad_then_roll.*roll_then_pad.*got 'pad'"),
    ("pad_order", None, {}, ValueError, "got None"),
    ("mask", torch.zeros(6, N, N, dtype=torch.bool), {}, TypeError, "torch.bool.*-inf"),
    ("mask", torch.zeros(6, N, N, dtype=torch.int64), {}, TypeError, "got torch.int64"),
    ("mask", [0.0], {}, TypeError, "got list"),
    ("mask", torch.zeros(6, N, N, device="meta"), {}, ValueError, "device cpu, got meta"),
    ("mask", torch.zeros(N, N), {}, ValueError, r"\(M, 12, 12\).*12 windows, got \(12, 12\)"),
    ("mask", torch.zeros(5, N, N), {}, ValueError, r"dividing the 12 windows, got \(5, 12, 12\)"),
    ("mask", torch.zeros(24, N, N), {}, ValueError, r"got \(24, 12, 12\)"),
    ("mask", torch.zeros(0, N, N), {}, ValueError, r"got \(0, 12, 12\)"),
    ("mask", torch.zeros(6, N, N + 1), {}, ValueError, r"got \(6, 12, 13\)"),
    ("mask_value", 1.0, {}, ValueError, "<= 0.*got 1.0"),
    ("mask_value", float("nan"), {}, ValueError, "got nan"),
    ("mask_value", None, {}, ValueError, "got None"),
    ("logit_scale", 10.0, {}, TypeError, "got float"),
    ("logit_scale", torch.ones(HEADS, 1, 1), {}, ValueError, r"\(2,\), got \(2, 1, 1\)"),
    ("logit_scale", torch.ones(HEADS, dtype=torch.int64), {}, TypeError, "got torch.int64"),
    ("logit_scale", torch.ones(HEADS, device="meta"), {}, ValueError, "device cpu, got meta"),
    ("dropout_p", 1.0, {}, ValueError, r"\[0, 1\), got 1.0"),
    ("dropout_p", -0.1, {}, ValueError, "got -0.1"),
    ("dropout_p", float("nan"), {}, ValueError, "got nan"),
    ("dropout_p", "0.1", {}, ValueError, "got '0.1'"),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name, value, others, error, says", WRONG, ids=[f"{w[0]}{i}" for i, w in enumerate(WRONG)])
def test_wrong_argument(name, value, others, error, says, backend):
    arguments = {"qkv": QKV, "bias_table": TABLE, "num_heads": HEADS, "window_size": (4, 3), "shift_size": (1, 1)}
    with use_backend(backend), pytest.raises(error, match=says) as caught:
        window_attention(**{**arguments, **others, name: value})
    assert name in str(caught.value)


def test_an_index_that_changed_is_read_again():
    """A good index is remembered, until it is written to or meets another table."""
    index, options = INDEX.clone(), {"num_heads": HEADS, "window_size": (4, 3)}
    window_attention(QKV, TABLE, bias_index=index, **options)
    index[3, 4] = 35
    with pytest.raises(ValueError, match="bias_index"):
        window_attention(QKV, TABLE, bias_index=index, **options)
    index[3, 4] = 34
    window_attention(QKV, TABLE, bias_index=index, **options)
    with pytest.raises(ValueError, match="bias_index"):
        window_attention(QKV, TABLE[:34], bias_index=index, **options)


def test_int32_index_and_int_sizes():
    """What else the arguments may be: an int32 index, one int for all axes, a list, an integer as scale."""
    qkv, table = torch.randn(2, 8, 9, DIM), torch.randn(25, HEADS)
    index = torch.randint(-25, 25, (9, 9))
    want = window_attention(
        qkv, table, num_heads=HEADS, window_size=(3, 3), shift_size=(1, 1), bias_index=index, scale=1.0
    )
    out = window_attention(
        qkv, table, num_heads=HEADS, window_size=3, shift_size=[1, 1], bias_index=index.int(), scale=1
    )
    assert torch.equal(out, want)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of.*got 'tpu'"), use_backend("tpu"):
        pass
