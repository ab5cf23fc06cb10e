"""The MLP's GELU: in place behind a plain Linear, and never where somebody else could see it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swin_fast.modules.mlp import Mlp

from ..ops.calls import Calls
from ..weights import distance, randomize

pytestmark = pytest.mark.usefixtures("seed")


def gelus(function):
    """The GELU ops that ran, and the result."""
    with Calls() as calls:
        out = function()
    return [name for name in calls.names if "gelu" in name], out


def mlp(**options) -> Mlp:
    return randomize(Mlp(6, 24, **options)).eval()


def formula(m: Mlp, x: torch.Tensor) -> torch.Tensor:
    return m.fc2(F.gelu(m.fc1(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_it_is_in_place(dtype):
    m, x = mlp().to(dtype), torch.randn(2, 5, 6, dtype=dtype)
    with torch.no_grad():
        names, out = gelus(lambda: m(x))
        assert names == ["swin_fast::gelu_"] and distance(out, formula(m, x)) < torch.finfo(dtype).eps * 4


def test_with_gradients_it_is_pytorchs():
    m, x = mlp().train(), torch.randn(2, 5, 6)
    names, out = gelus(lambda: m(x))
    assert names == ["aten::gelu"]
    leaves = list(m.parameters())
    got, want = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, formula(m, x)))
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


def test_what_somebody_has_kept_is_not_written_over():
    """A hook on the Linear, on every module, on the activation; and a Linear that keeps what it returns."""
    x, kept = torch.randn(2, 5, 6), []

    def keep(module, args, out):
        kept.append((out, out.clone()))

    class Keeping(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            kept.append((self.last, self.last.clone()))
            return self.last

    def hook_linear(m):
        return m.fc1.register_forward_hook(keep)

    def hook_all(m):
        return nn.modules.module.register_module_forward_hook(keep)

    def hook_activation(m):
        return m.act.register_forward_pre_hook(lambda module, args: keep(module, (), args[0]))

    def wrap(m):
        linear = Keeping(6, 24)
        linear.load_state_dict(m.fc1.state_dict())
        m.fc1 = linear

    ours, theirs = "swin_fast::gelu", "aten::gelu"
    for watch, op in ((hook_linear, ours), (hook_all, theirs), (hook_activation, theirs), (wrap, ours)):
        m = mlp()
        with torch.no_grad():
            want = formula(m, x)
            handle = watch(m)
            kept.clear()
            try:
                names, out = gelus(lambda m=m: m(x))
            finally:
                if handle is not None:
                    handle.remove()
        assert names == [op] and distance(out, want) < 1e-6
        assert kept and all(torch.equal(now, then) for now, then in kept), watch


@pytest.mark.parametrize("act", [lambda: nn.GELU(approximate="tanh"), nn.ReLU, nn.SiLU])
def test_another_activation_is_called(act):
    m, x = mlp(act_layer=act), torch.randn(2, 5, 6)
    with torch.no_grad():
        assert torch.equal(m(x), m.fc2(act()(m.fc1(x))))
        m = mlp()
        m.act = act()  # afterwards
        assert torch.equal(m(x), m.fc2(act()(m.fc1(x))))


def test_a_subclass_of_gelu_is_called():
    class Doubled(nn.GELU):
        def forward(self, x):
            return 2 * super().forward(x)

    m, x = mlp(act_layer=Doubled), torch.randn(2, 5, 6)
    with torch.no_grad():
        assert torch.equal(m(x), m.fc2(2 * F.gelu(m.fc1(x))))


def test_compiled_it_is_pytorchs():
    m, x, seen = mlp(), torch.randn(2, 5, 6), []

    def backend(graph, _):
        seen.extend(str(n.target) for n in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        out = torch.compile(m, backend=backend, fullgraph=True)(x)
        assert torch.equal(out, formula(m, x))
    assert not any("swin_fast" in name for name in seen)
