"""What the backward gives, what the forward keeps for it, and how it meets the rest of autograd."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention
from swin_fast.geometry import relative_position_index

from ..weights import distance
from .cases import DIFFERENTIABLE, DTYPES, Case, assert_identical, run, up

CASE = Case((4, 3), (9, 7), shift=(2, 1), pad="attended", cosine=True, mask="one", head_dim=16, dropout=0.2)
SUBSETS = list(chain.from_iterable(combinations(DIFFERENTIABLE, n) for n in range(1, 5)))


def call(case: Case, tensors: dict, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return window_attention(**{k: t for k, t in tensors.items() if k != "grad"}, **case.options)


@pytest.mark.parametrize("wanted", SUBSETS, ids="+".join)
def test_only_some_inputs_need_a_gradient(wanted):
    tensors = CASE.tensors(torch.float32)
    every = run(CASE, tensors)
    every["d_qkv"] = torch.cat([every.pop(k) for k in ("dq", "dk", "dv")], -1)
    for k in wanted:
        tensors[k].requires_grad_()
    out = call(CASE, tensors)
    out.backward(tensors["grad"])
    for k in DIFFERENTIABLE:
        if k in wanted:
            assert torch.equal(tensors[k].grad, every[f"d_{k}"]), k
        else:
            assert tensors[k].grad is None, k


def test_gradients_accumulate():
    tensors = CASE.tensors(torch.float64)
    tensors["bias_table"].requires_grad_()
    call(CASE, tensors).backward(tensors["grad"])
    once = tensors["bias_table"].grad.clone()
    call(CASE, tensors).backward(tensors["grad"])
    assert torch.equal(tensors["bias_table"].grad, 2 * once)


def test_unused_padding_has_a_gradient_of_zeros():
    """A map that the window divides never reads `pad_qkv`."""
    case = Case((4, 3), (8, 6), shift=1, pad="attended")
    assert torch.count_nonzero(run(case, case.tensors(torch.float32))["d_pad_qkv"]) == 0


@pytest.mark.parametrize("case", [CASE, Case((12, 12), (24, 24), shift=6, heads=3, head_dim=32)], ids=str)
def test_nothing_n_by_n_is_kept(case):
    """Kept: the arguments themselves, and one float a row and head."""
    tensors, kept = case.tensors(torch.float32), []
    for k in DIFFERENTIABLE:
        if tensors[k] is not None:
            tensors[k].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        out = call(case, tensors)
    addresses = {t.data_ptr() for t in tensors.values() if t is not None}
    own = [t for t in kept if t.data_ptr() not in addresses and t.dtype != torch.int64]  # int64: the dropout seed
    assert sum(t.numel() for t in own) <= case.batch * case.heads * out[0, ..., 0].numel()
    assert all(t.dtype == torch.float32 for t in own)


def op(case: Case, tensors: dict, save_lse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The dispatcher's op itself, at scale 0.5 and without dropout: (out, lse)."""
    arguments = [tensors[k] for k in ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")]
    options = [case.heads, case.window, case.shift, 0.5, False, case.mask_value, 0.0]
    return torch.ops.swin_fast.window_attention(*arguments, None, *options, save_lse)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("window", [(4, 3), (7, 7), (20, 20)], ids=str)
def test_log_sum_exp_of_each_row(window, dtype):
    case = Case(window, window, shift=(0, 0), head_dim=16, mask="one")
    tensors = case.tensors(dtype)
    exact = up(tensors)
    q, k, _ = exact["qkv"].flatten(1, 2).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    bias = exact["bias_table"][relative_position_index(window)].permute(2, 0, 1)
    want = torch.logsumexp(0.5 * q @ k.transpose(-1, -2) + bias + exact["mask"], -1)
    lse = op(case, tensors, True)[1]
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert distance(lse.flatten(2), want) < (1e-12 if dtype == torch.float64 else 4e-6)


def test_without_gradients_nothing_is_kept():
    tensors = CASE.tensors(torch.float32)
    out, lse = op(CASE, tensors, False)
    assert lse.shape == (0,) and torch.equal(out, op(CASE, tensors, True)[0])
    tensors["qkv"].requires_grad_()
    with torch.no_grad():
        assert not call(CASE, tensors).requires_grad
    with torch.inference_mode():
        assert torch.equal(call(CASE, tensors), call(CASE, CASE.tensors(torch.float32)))


def test_forward_is_the_same_with_and_without_gradients():
    tensors = CASE.tensors(torch.float32)
    plain = call(CASE, tensors)
    tensors["qkv"].requires_grad_()
    assert torch.equal(call(CASE, tensors), plain)


def test_changed_input_is_noticed():
    """Autograd's version counter guards what the backward reads again."""
    tensors = CASE.tensors(torch.float32)
    tensors["bias_table"].requires_grad_()
    out = call(CASE, tensors)
    tensors["qkv"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_second_derivative_is_refused():
    """There is none, and a silent zero would be a wrong one; the reference road has it."""
    case = Case((2, 2), (4, 4))
    tensors = case.tensors(torch.float64)
    tensors["qkv"].requires_grad_()
    (first,) = torch.autograd.grad(call(case, tensors).square().sum(), tensors["qkv"], create_graph=True)
    with pytest.raises(RuntimeError, match="window_attention_backward has no derivative"):
        torch.autograd.grad(first.square().sum(), tensors["qkv"])
    with use_backend("reference"):
        (first,) = torch.autograd.grad(call(case, tensors).square().sum(), tensors["qkv"], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), tensors["qkv"])
    assert torch.isfinite(second).all() and torch.count_nonzero(second)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_draws_the_same_dropout(reentrant):
    plain, again = CASE.tensors(torch.float32), CASE.tensors(torch.float32)
    for t in (plain, again):
        t["qkv"].requires_grad_()
    call(CASE, plain, seed=3).backward(plain["grad"])
    torch.manual_seed(3)
    rest = {k: t for k, t in again.items() if k not in ("qkv", "grad")}
    out = checkpoint(lambda qkv: window_attention(qkv, **rest, **CASE.options), again["qkv"], use_reentrant=reentrant)
    out.backward(again["grad"])
    assert_identical({"qkv": again["qkv"].grad}, {"qkv": plain["qkv"].grad})


def test_autocast():
    """Linear gives bfloat16, the table and the padding stay float32 parameters and get float32 gradients."""
    linear = torch.nn.Linear(32, 96)
    table = torch.randn(35, 2, requires_grad=True)
    x, grad = torch.randn(2, 9, 7, 32), torch.randn(2, 9, 7, 32)
    case = Case((4, 3), (9, 7), shift=(2, 1), head_dim=16, pad="attended")
    with torch.autocast("cpu", torch.bfloat16):
        qkv = linear(x)
        out = window_attention(qkv, table, pad_qkv=linear.bias, **case.options)
    assert qkv.dtype == out.dtype == torch.bfloat16
    out.backward(grad.bfloat16())
    assert linear.bias.grad.dtype == table.grad.dtype == torch.float32
    tensors = {"qkv": qkv, "bias_table": table, "pad_qkv": linear.bias, "grad": grad.bfloat16()}
    got = run(case, tensors)
    assert torch.equal(got["out"], out) and torch.equal(got["d_bias_table"], table.grad)
    rows = torch.cat([got[k] for k in ("dq", "dk", "dv")], -1).float().sum((0, 1, 2))
    assert distance(linear.bias.grad, rows + got["d_pad_qkv"]) < 0.02


def test_reference_has_a_second_derivative():
    qkv = torch.randn(1, 3, 4, 12, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)

    def attend(qkv, table):
        return window_attention(qkv, table, num_heads=2, window_size=2, shift_size=1)

    with use_backend("reference"):
        assert torch.autograd.gradgradcheck(attend, (qkv, table))
