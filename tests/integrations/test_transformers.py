"""What is particular to transformers: windows that are kept, attention weights, sizes at which the library raises."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import swin_fast
from swin_fast.geometry import relative_position_index
from swin_fast.integrations import swap
from swin_fast.integrations.attention import packed_projection, shrunk_index

from ..weights import assert_close, distance
from .libraries import MODELS, SIZES
from .stepping import assert_gradients_close, step, tensors

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("seed")

CLAMPING = ("transformers_swin", "transformers_donut")


def pair(name, **options):
    model = MODELS[name].make().eval()
    fused = copy.deepcopy(model)
    swin_fast.accelerate(fused, strict=True, **options)
    return model, fused


def first(model, x):
    with torch.no_grad():
        return next(iter(tensors(model(x)).values()))


def layers(model):
    return [m for m in model.modules() if hasattr(m, "set_shift_and_window_size")]


@pytest.mark.parametrize("name", CLAMPING)
def test_the_window_is_kept_as_in_the_library(name):
    """A map as small as the window ends all shifts of its layers, in the library and here; not so if asked."""
    model, fused = pair(name)
    _, free = pair(name, stateful_window=False)
    large, small = torch.randn(1, 3, 24, 24), torch.randn(1, 3, 16, 8)  # maps of 12x12 and 8x4, then 6x6 and 4x2
    fresh = first(copy.deepcopy(model), large)
    with pytest.raises(RuntimeError, match="must match"):
        first(model, small)  # after it has changed the first stage and one layer of the second
    for m in (fused, free):
        assert first(m, small).isfinite().all()
    assert [(m.window_size, m.shift_size) for m in layers(model)[:2]] == [(4, 0), (4, 0)]
    assert [(m.window_size, m.shift_size) for m in layers(fused)] == [(4, 0), (4, 0), (2, 0), (2, 0)]
    assert [(m.window_size, m.shift_size) for m in layers(free)] == [(4, 0), (4, 2), (4, 0), (4, 2)]
    assert distance(first(free, large), fresh) <= 1e-5
    stages = (
        [m.blocks for m in fused.modules() if hasattr(m, "blocks")],
        [m.blocks for m in model.modules() if hasattr(m, "blocks")],
    )
    x = torch.randn(1, 144, 16)
    with torch.no_grad():
        kept, theirs = (s[0][1](x, (12, 12))[0] for s in stages)
        shifted = [m.blocks for m in free.modules() if hasattr(m, "blocks")][0][1](x, (12, 12))[0]
    assert distance(kept, theirs) <= 1e-5 and distance(shifted, theirs) > 1e-2


@pytest.mark.parametrize("name", CLAMPING)
def test_where_the_library_raises(name):
    """Maps of 3x3 and 2x2 with windows of 4: as a model made with a window of 3, and of 2, whose tables are cut out."""
    model, fused = pair(name)
    x = MODELS[name].image(SIZES["smaller_than_window"])
    with pytest.raises(RuntimeError, match="must match"):
        model(x)
    got, got_grads = step(fused, x)
    config = copy.deepcopy(model.config)
    config.window_size = 3
    want = type(model)(config).eval()
    state = model.state_dict()
    for key, t in want.state_dict().items():
        if key.endswith("relative_position_bias_table"):
            state[key] = cut(state[key], 4, 3)
        elif key.endswith("relative_position_index"):
            state[key] = t
    want.load_state_dict(state)
    for layer in layers(want)[2:]:  # 2x2 maps: the library raises again unless the table is for 2x2 windows
        replace_table(layer, 3, 2)
    (want, want_grads) = step(want, x)
    assert_close(got, want, 1e-5)
    for key, g in got_grads.items():
        if key.endswith("relative_position_bias_table"):
            side = int((want_grads[key].shape[0] ** 0.5 + 1) / 2)
            assert g.abs().sum() > 0
            got_grads[key] = cut(g, 4, side)
    assert_gradients_close(got_grads, want_grads, 1e-4)


def cut(table, window, smaller):
    """The rows of a bias table for the offsets inside a smaller window."""
    side, margin = 2 * window - 1, window - smaller
    return table.view(side, side, -1)[margin : side - margin, margin : side - margin].reshape(-1, table.shape[-1])


def replace_table(layer, window, smaller):
    holder = getattr(layer.attention, "relative_position_bias", None) or layer.attention.self
    table = torch.nn.Parameter(cut(holder.relative_position_bias_table.detach(), window, smaller))
    holder.relative_position_bias_table = table
    index = relative_position_index((smaller, smaller))
    flat = holder.relative_position_index.dim() == 1
    holder.relative_position_index = index.view(-1) if flat else index
    holder.window_size = (smaller, smaller)
    holder.window_area = smaller * smaller


@pytest.mark.parametrize("window, smaller", [((4, 4), (3, 3)), ((3, 5), (2, 4)), ((2, 3, 4), (1, 3, 2))])
def test_shrunk_index(window, smaller):
    """The same rows as the positions of the smaller window have in the whole one."""
    inside = torch.zeros(window, dtype=torch.bool)
    inside[tuple(slice(n) for n in smaller)] = True
    keep = inside.flatten().nonzero().squeeze(1)
    want = relative_position_index(window)[keep][:, keep]
    assert torch.equal(shrunk_index(window, smaller, torch.device("cpu")), want)


@pytest.mark.parametrize("name", ["transformers_swin_eager", "transformers_swinv2", "transformers_maskformer"])
def test_attention_weights_take_the_librarys_road_and_it_is_said_once(name):
    model, fused = pair(name, fuse="attention")  # with the library's GELU, results are equal
    swap._said.clear()
    x = MODELS[name].image(SIZES["not_square"])
    options = {"output_attentions": True}
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, want = tensors(fused(x, **options)), tensors(model(x, **options))
        fused(x, **options)
    assert any("attentions" in key for key in want) and got.keys() == want.keys()
    assert all(torch.equal(t, want[k]) for k, t in got.items())
    texts = [str(w.message) for w in said if "swin_fast" in str(w.message)]
    assert len(texts) == 1 and "attention weights are asked for" in texts[0]
    with torch.no_grad():  # the next call is ours again
        assert not all(torch.equal(t, want[k]) for k, t in tensors(fused(x)).items() if k in want)


def test_eager_weights_reach_a_hook():
    model, fused = pair("transformers_swin_eager")
    x, seen = torch.randn(1, 3, 16, 16), []
    for m in (fused, model):
        layers(m)[1].register_forward_hook(lambda module, args, out: seen.append(out[1]))
        with (
            pytest.warns(UserWarning, match="eager attention gives its weights")
            if m is fused
            else warnings.catch_warnings()
        ):
            first(m, x)
    assert seen[0].shape == (4, 2, 16, 16) and distance(*seen) < 1e-5


def test_other_attention_implementations_are_left_to_the_library():
    from transformers.models.swin.modeling_swin import ALL_ATTENTION_FUNCTIONS

    model, fused = pair("transformers_swin")
    called = []

    def mine(module, query, key, value, mask, scaling, dropout=0.0, **kwargs):
        called.append(module)
        weights = (query @ key.transpose(2, 3) * scaling + mask).softmax(-1)
        return (weights @ value).transpose(1, 2), weights

    ALL_ATTENTION_FUNCTIONS.register("somebodys", mine)
    fused.set_attn_implementation("somebodys")
    x = torch.randn(1, 3, 16, 16)
    with pytest.warns(UserWarning, match="'somebodys'"):
        got = first(fused, x)
    assert len(called) == 4 and distance(got, first(model, x)) < 1e-5


@pytest.mark.parametrize(
    "name, path", [("swinv2", "swinv2.encoder.layers.0.blocks.1"), ("swin2sr", "swin2sr.encoder.stages.0.layers.1")]
)
def test_the_mask_is_added_twice(name, path):
    """A query whose own region is opposite to it: at -100 the masked keys take all weight, at -200 half of it."""
    both = []
    x = torch.ones(64, 1).index_fill(0, torch.arange(32), -1.0) * torch.rand(2, 1, 16).add(0.5)  # a sign for each half
    for model in pair(f"transformers_{name}"):
        layer = model.get_submodule(path)
        attn = layer.attention.self
        torch.nn.init.eye_(attn.query.weight)
        attn.key.weight.data = -attn.query.weight.data  # every token is opposite to those of its own half
        torch.nn.init.zeros_(attn.query.bias)
        torch.nn.init.constant_(attn.logit_scale, 5.0)
        torch.nn.init.zeros_(attn.continuous_position_bias_mlp[2].weight)
        with torch.no_grad():
            both.append(layer(x, (8, 8))[0])
    assert distance(*both) < 1e-4


@pytest.mark.parametrize("k_bias", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_three_linears_as_one(k_bias, gradients):
    q, k, v = (torch.nn.Linear(6, 6, bias=b) for b in (True, k_bias, True))
    x = torch.randn(2, 3, 6)
    with torch.set_grad_enabled(gradients):
        got = packed_projection(q, k, v, x)
        assert got.is_contiguous() and distance(got, torch.cat([m(x) for m in (q, k, v)], -1)) < 1e-6
        q.weight.data.mul_(2)  # `data` is what optimizers and averages write to; nobody is told
        assert distance(packed_projection(q, k, v, x)[..., :6], q(x)) < 1e-6
    seen = []
    k.register_forward_hook(lambda *args: seen.append(1))
    packed_projection(q, k, v, x)
    assert seen


def test_lora_on_separate_linears():
    model, fused = pair("transformers_swin")

    class Lora(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.down, self.up = torch.randn(2, base.in_features), torch.randn(base.out_features, 2)

        def forward(self, x):
            return self.base(x) + x @ self.down.T @ self.up.T

    for m in (model, fused):
        torch.manual_seed(5)
        for layer in layers(m):
            layer.attention.q_proj, layer.attention.o_proj = Lora(layer.attention.q_proj), Lora(layer.attention.o_proj)
    x = MODELS["transformers_swin"].image(SIZES["not_divisible"])
    assert distance(first(fused, x), first(model, x)) < 1e-5
