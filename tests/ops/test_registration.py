"""The op as the rest of PyTorch sees it: derivatives, schema and shapes, torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swin_fast.functional import window_attention

from ..weights import assert_close
from .cases import DIFFERENTIABLE, Case, run

W = (2, 3)
GRADCHECK = [
    Case(W, (4, 6), shift=1, head_dim=2, batch=1),
    Case(W, (3, 5), shift=(1, 2), head_dim=2, batch=1, scale=0.9),
    Case(W, (3, 5), shift=(1, 2), head_dim=2, batch=1, pad="attended"),
    Case(W, (3, 5), shift=(1, 2), head_dim=2, batch=1, pad="attended", pad_order="roll_then_pad", bias="index"),
    Case(W, (3, 5), shift=1, head_dim=2, batch=1, bias="none", mask="image", mask_value=-torch.inf),
    Case(W, (3, 4), shift=(0, 2), head_dim=4, batch=1, cosine=True, pad="attended"),
    Case(W, (3, 4), shift=1, head_dim=4, batch=1, dropout=0.4, pad="attended", mask="batch"),
    Case((2, 1, 2), (3, 2, 3), shift=(1, 0, 1), heads=1, head_dim=2, batch=1, pad="attended", cosine=True),
    Case((1, 1), (2, 2), heads=1, head_dim=2, batch=1),
]
OPCHECK = [
    Case((4, 3), (9, 7), shift=(2, 1), pad="attended", mask="one", bias="index", cosine=True),
    Case((4, 3), (8, 6), bias="none", pad_order="roll_then_pad"),
    Case((2, 2, 2), (3, 4, 2), shift=1, dropout=0.3),
]


def op_arguments(case: Case, tensors: dict) -> tuple[list, list]:
    """What the dispatcher's op takes: the tensors, and the options before the last."""
    shift = [case.shift] * len(case.grid) if isinstance(case.shift, int) else list(case.shift)
    scale = 1.0 if case.cosine else case.head_dim**-0.5
    names = ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")
    seed = torch.tensor([5]) if case.dropout else None
    options = [case.heads, list(case.window), shift, scale, case.pad_order == "roll_then_pad", -100.0, case.dropout]
    return [*(tensors[k] for k in names), seed], options


@pytest.mark.parametrize("case", GRADCHECK, ids=str)
def test_gradcheck(case):
    tensors = case.tensors(torch.float64)
    names = [k for k in DIFFERENTIABLE if tensors[k] is not None]
    rest = {k: t for k, t in tensors.items() if k not in (*names, "grad")}

    def function(*leaves):
        torch.manual_seed(0)
        return window_attention(**dict(zip(names, leaves, strict=True)), **rest, **case.options)

    assert torch.autograd.gradcheck(function, [tensors[k].requires_grad_() for k in names], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("case", OPCHECK, ids=str)
def test_opcheck_forward(case):
    tensors = case.tensors(torch.float32)
    for k in DIFFERENTIABLE:
        if tensors[k] is not None:
            tensors[k].requires_grad_()
    arguments, options = op_arguments(case, tensors)
    torch.library.opcheck(torch.ops.swin_fast.window_attention.default, (*arguments, *options, True))
    with torch.no_grad():
        torch.library.opcheck(torch.ops.swin_fast.window_attention.default, (*arguments, *options, False))


@pytest.mark.parametrize("case", OPCHECK, ids=str)
@pytest.mark.parametrize("needs", [15, 5, 2])
def test_opcheck_backward(case, needs):
    tensors = case.tensors(torch.float32)
    needs = sum(1 << i for i, k in enumerate(DIFFERENTIABLE) if needs >> i & 1 and tensors[k] is not None)
    arguments, options = op_arguments(case, tensors)
    _, lse = torch.ops.swin_fast.window_attention(*arguments, *options, True)
    backward = (tensors["grad"], lse, *arguments, *options, needs)
    torch.library.opcheck(torch.ops.swin_fast.window_attention_backward.default, backward)


class Attention(nn.Module):
    """A qkv Linear and the op, as a block has them."""

    def __init__(self, **options):
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.bias_table = nn.Parameter(torch.randn(35, 2))
        self.options = {"num_heads": 2, "window_size": (4, 3), "shift_size": (2, 1), **options}

    def forward(self, x):
        return window_attention(self.qkv(x), self.bias_table, pad_qkv=self.qkv.bias, **self.options)


def results(function, module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and gradients of every parameter and of `x`."""
    x = x.detach().requires_grad_()
    torch.manual_seed(1)
    out = function(x)
    leaves = {"x": x, **dict(module.named_parameters())}
    return {"out": out.detach(), **dict(zip(leaves, torch.autograd.grad(out.sum(), leaves.values()), strict=True))}


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_one_graph_once(backend):
    module, x = Attention(), torch.randn(2, 9, 7, 32)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    assert_close(results(compiled, module, x), results(module, module, x), 1e-6)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            x = torch.randn(2, 9, 7, 32, generator=torch.Generator().manual_seed(seed))
            assert_close(results(compiled, module, x), results(module, module, x), 1e-6)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_every_option():
    index = torch.randint(-40, 40, (12, 12))
    options = {"bias_index": index, "mask": torch.randn(9, 12, 12), "mask_value": -torch.inf}
    module, x = Attention(**options, logit_scale=torch.tensor([3.0, 9.0])), torch.randn(2, 9, 7, 32)
    module.bias_table = nn.Parameter(torch.randn(40, 2))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_close(results(compiled, module, x), results(module, module, x), 1e-6)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_with_dropout():
    """Two calls draw two masks, in one graph."""
    module, x = Attention(dropout_p=0.5), torch.randn(2, 9, 7, 32)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        first, second = compiled(x), compiled(x)
    assert torch.isfinite(first).all() and not torch.equal(first, second)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_any_size_once():
    """Sizes that the window divides and not, in one graph for all."""
    module = Attention()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, height, width in ((2, 9, 7), (3, 8, 12), (4, 5, 16), (2, 14, 14), (2, 3, 2)):
            x = torch.randn(batch, height, width, 32)
            assert_close(results(compiled, module, x), results(module, module, x), 1e-6)


def test_export_any_size():
    """One node for the op in the graph, and a map of any size through it."""
    module = Attention().eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    with torch.no_grad():
        program = torch.export.export(module, (torch.randn(2, 9, 7, 32),), dynamic_shapes=(sizes,))
        nodes = [n for n in program.graph.nodes if "swin_fast" in str(n.target)]
        assert [n.target for n in nodes] == [torch.ops.swin_fast.window_attention.default]
        for shape in ((2, 9, 7, 32), (3, 8, 12, 32), (5, 4, 3, 32)):
            x = torch.randn(shape)
            torch.testing.assert_close(program.module()(x), module(x), rtol=0, atol=0)


def test_shapes_without_data():
    """On the meta device: (B, *grid, C), contiguous, whatever the strides of qkv."""
    qkv = torch.empty(2, 96, 9, 7, dtype=torch.bfloat16, device="meta").movedim(1, -1)
    out = window_attention(qkv, num_heads=2, window_size=(4, 3))
    assert out.shape == (2, 9, 7, 32) and out.dtype == torch.bfloat16 and out.is_contiguous()


def test_deterministic_memory_reaches_the_kernels():
    """The tests' NaN-filled memory is in force: without it, an element nobody writes could hold the right number."""
    assert torch.empty(7).isnan().all() and torch.ops.aten.empty.memory_format([7]).isnan().all()
    case = Case((4, 3), (9, 7), shift=1, pad="attended")
    assert all(torch.isfinite(t).all() for t in run(case, case.tensors(torch.float32)).values())
