"""WindowAttention against the original's tensors, its map road against the steps written out, its errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swin_fast import WindowAttention
from swin_fast.geometry import relative_position_index
from swin_fast.reference import shift_regions, window_partition, window_reverse

from ..golden import Golden
from ..weights import assert_close, distance, gradients, randomize


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["v1_attention", "v1_attention_rect_mask"])
def test_equals_the_original(one_thread, name, dtype):
    golden = Golden(name)
    attention = WindowAttention(**golden.init).eval()
    attention.load_state_dict(golden.under("sd/"), strict=True)
    attention.to(dtype)
    x, *rest = (golden[key].to(dtype) for key in golden.call)
    x.requires_grad_()
    y = attention(x, *rest)
    y.backward(golden["g/0"].to(dtype))
    if dtype == torch.float64:
        got = {"y/0": y.detach(), "grad_x": x.grad} | {f"grad/{k}": g for k, g in gradients(attention).items()}
        want = golden.under("f64/")
        assert_close({key: got[key] for key in want}, want, 1e-11)
    else:
        assert distance(y.detach(), golden["y/0"]) <= golden.bound("y")
        assert distance(x.grad, golden["grad_x"]) <= golden.bound("grad_x")
        assert_close(gradients(attention), golden.under("grad/"), golden.bound("grad_attention"))


def steps(attention: WindowAttention, x: torch.Tensor, shift: tuple[int, int]) -> torch.Tensor:
    """Pad, roll, partition, attend in windows with the mask as a tensor, reverse, roll back, crop."""
    window, (height, width) = attention.window_size, x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    size = x.shape[1:3]
    windows = window_partition(x.roll((-shift[0], -shift[1]), (1, 2)), window)
    regions = shift_regions(size, window, shift)
    mask = torch.where(regions[:, :, None] != regions[:, None, :], -100.0, 0.0).to(x.dtype) if any(shift) else None
    return window_reverse(attention(windows, mask), window, size).roll(shift, (1, 2))[:, :height, :width]


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(
    ("window", "size", "shift"),
    [((4, 4), (8, 12), (2, 2)), ((4, 4), (8, 8), (0, 0)), ((4, 6), (10, 13), (1, 3)), ((7, 7), (5, 9), (0, 3))],
)
def test_a_map_equals_its_windows(window, size, shift, qkv_bias):
    attention = randomize(WindowAttention(16, window, 4, qkv_bias=qkv_bias)).double()
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    grad = torch.randn_like(x)

    def run(road):
        leaf = x.clone().requires_grad_()
        attention.zero_grad()
        y = road(leaf)
        y.backward(grad)
        return {"y": y.detach(), "x": leaf.grad} | {k: g.clone() for k, g in gradients(attention).items()}

    assert_close(run(lambda v: attention(v, shift_size=shift)), run(lambda v: steps(attention, v, shift)), 1e-12)


def test_a_map_takes_a_mask_too():
    attention = randomize(WindowAttention(8, 4, 2)).double()
    x, mask = torch.randn(2, 8, 8, 8, dtype=torch.float64), torch.randn(4, 16, 16, dtype=torch.float64)
    want = window_reverse(attention(window_partition(x, (4, 4)), mask), (4, 4), (8, 8))
    assert distance(attention(x, mask).detach(), want.detach()) < 1e-12


def test_a_zero_scale_is_the_default():
    assert WindowAttention(16, 4, 4, qk_scale=0).scale == WindowAttention(16, 4, 4).scale == 0.5
    assert WindowAttention(16, 4, 4, qk_scale=0.7).scale == 0.7


def test_attention_dropout_follows_training_mode():
    attention = randomize(WindowAttention(16, 4, 4, attn_drop=0.5))
    x = torch.randn(1, 8, 8, 16)
    torch.manual_seed(1)
    first = attention(x)
    torch.manual_seed(1)
    assert torch.equal(attention(x), first)
    assert not torch.equal(attention(x), first)
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    assert torch.equal(attention(x), randomize(WindowAttention(16, 4, 4)).eval()(x))


def test_attention_dropout_keeps_the_mean():
    attention = randomize(WindowAttention(8, 4, 2, attn_drop=0.3))
    attention.proj = torch.nn.Identity()
    x = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        mean = attention(x.expand(4000, -1, -1, -1)).mean(0)
        assert distance(mean, attention.eval()(x)[0]) < 0.05


def test_another_index_is_refused():
    attention = WindowAttention(16, (2, 3), 4)
    state = attention.state_dict()
    assert torch.equal(state["relative_position_index"], relative_position_index((2, 3)))
    state["relative_position_index"] = state["relative_position_index"].T.contiguous()
    with pytest.raises(ValueError, match=r"relative_position_index must be the standard index of a window of \(2, 3\)"):
        attention.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^0\.relative_position_index must be"):
        torch.nn.Sequential(attention).load_state_dict({f"0.{k}": v for k, v in state.items()})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 7, 3), ValueError, "dim must be a multiple of num_heads, got dim=10 and num_heads=3"),
        ((0, 7, 3), ValueError, "dim must be at least 1, got 0"),
        ((9.0, 7, 3), TypeError, "dim must be an int, got float"),
        ((9, 7, 0), ValueError, "num_heads must be at least 1, got 0"),
        ((9, (7, 0), 3), ValueError, r"window_size must be at least 1 along both axes, got \(7, 0\)"),
        ((9, (7, 7, 7), 3), ValueError, r"window_size must have one entry per grid axis \(2\), got 3"),
        ((9, 7.0, 3), TypeError, "window_size must be an int or a sequence of 2 ints, got float"),
        ((12, 7, 3, True, None, 1.0), ValueError, r"attn_drop must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_constructor_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        WindowAttention(*arguments)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 48, 16), {}, r"x must hold windows of \(7, 7\) = 49 tokens, got \(2, 48, 16\)"),
        ((2, 49, 12), {}, r"x must be \(num_windows\*B, N, 16\) or \(B, H, W, 16\), got \(2, 49, 12\)"),
        ((49, 16), {}, r"x must be \(num_windows\*B, N, 16\) or \(B, H, W, 16\), got \(49, 16\)"),
        ((2, 49, 16), {"shift_size": 3}, r"shift_size needs x as a map \(B, H, W, 16\)"),
        ((2, 14, 14, 16), {"shift_size": 7}, r"shift_size must be at least 0 and below window_size \(7, 7\)"),
        ((2, 49, 16), {"mask": torch.zeros(3, 49, 49)}, r"mask must have shape .* M dividing the 2 windows"),
        ((2, 49, 16), {"mask": torch.zeros(2, 49, 48)}, r"mask must have shape \(M, 49, 49\)"),
    ],
)
def test_bad_inputs(shape, options, message):
    with pytest.raises(ValueError, match=message):
        WindowAttention(16, 7, 4)(torch.zeros(shape), **options)


def test_an_input_that_is_no_tensor():
    with pytest.raises(TypeError, match="x must be a Tensor, got list"):
        WindowAttention(16, 7, 4)([0.0])
