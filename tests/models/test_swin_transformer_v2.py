"""SwinTransformerV2 against the original's tensors, other sizes, float16 on padded maps, the sizes' table, errors."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import swin_fast
from swin_fast import SwinTransformerV2, WindowAttentionV2, use_backend
from swin_fast.modules import SwinTransformerBlockV2

from ..weights import assert_close, distance, gradients, randomize
from . import stored

SMALL = {"img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}
CASES = ["v2_square", "v2_rect_pretrained_ape"]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original(one_thread, name):
    stored.assert_equals_float32(name, SwinTransformerV2)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original_in_float64(name):
    stored.assert_equals_float64(name, SwinTransformerV2)


@pytest.mark.parametrize("name", ["v2_attention_mask_clamp", "v2_attention_mask_leak"])
def test_attention_equals_the_original(one_thread, name):
    stored.assert_equals_float32(name, WindowAttentionV2)
    stored.assert_equals_float64(name, WindowAttentionV2)


def formula(attention: WindowAttentionV2, x: torch.Tensor, shift: int) -> torch.Tensor:
    """Pad with zeros, roll, attend in each window as equation 2 of the paper says, roll back, crop; one loop a window.

    In float32 at least, with the mask of the seam.
    """
    (height, width), window = x.shape[1:3], attention.window_size[0]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = x.shape[1:3]
    region = (torch.arange(rows)[:, None] // window * columns + torch.arange(columns) // window) * 4
    region = region + 2 * (torch.arange(rows)[:, None] >= rows - shift) + (torch.arange(columns) >= columns - shift)
    x = x.roll((-shift, -shift), (1, 2))
    coords = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
    pretrained = attention.pretrained_window_size[0] or window
    out = torch.zeros_like(x).flatten(1, 2)
    tokens = x.flatten(1, 2)
    for cell in (region // 4).unique():
        inside = (region.flatten() // 4 == cell).nonzero().squeeze(1)
        offsets = (coords[inside][:, None] - coords[inside][None]).to(x.dtype) * 8 / (pretrained - 1)
        offsets = torch.sign(offsets) * torch.log2(1 + offsets.abs()) / 3
        bias = 16 * torch.sigmoid(attention.cpb_mlp(offsets)).permute(2, 0, 1)
        across = region.flatten()[inside][:, None] != region.flatten()[inside][None]
        part = tokens[:, inside]
        q, k, v = (part @ w.T for w in attention.qkv.weight.chunk(3))
        q, v = q + attention.q_bias, v + attention.v_bias
        q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        scale = attention.logit_scale.clamp(max=4.605170249938965).exp()
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale + bias - 100.0 * across
        out[:, inside] = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    out = attention.proj(out).unflatten(1, (rows, columns)).roll((shift, shift), (1, 2))
    return out[:, :height, :width]


@pytest.mark.parametrize("pretrained", [0, 6])
@pytest.mark.parametrize(("size", "shift"), [((8, 12), 0), ((8, 12), 2), ((5, 10), 2), ((3, 2), 0)])
def test_a_map_equals_the_formula(size, shift, pretrained):
    attention = WindowAttentionV2(16, 4, 2, pretrained_window_size=(pretrained,) * 2)
    randomize(attention).double()
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    grad = torch.randn_like(x)

    def run(road):
        leaf = x.clone().requires_grad_()
        attention.zero_grad()
        y = road(leaf)
        y.backward(grad)
        return {"y": y.detach(), "x": leaf.grad} | {k: g.clone() for k, g in gradients(attention).items()}

    # the buffer of offsets is float32, as the original's
    want = run(lambda v: formula(attention, v, shift))
    assert_close(run(lambda v: attention(v, shift_size=shift)), want, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_half_types_on_a_padded_map(dtype, backend):
    """Keys of padded tokens are zeros, whose norm float16 cannot hold an epsilon for: others give NaN there."""
    attention = randomize(WindowAttentionV2(16, 8, 2)).to(dtype)
    x, grad = torch.randn(2, 10, 10, 16).to(dtype), torch.randn(2, 10, 10, 16).to(dtype)

    def run(module, x, grad):
        leaf = x.clone().requires_grad_()
        module.zero_grad()
        y = module(leaf, shift_size=4)
        y.backward(grad)
        return {"y": y.detach(), "x": leaf.grad} | {k: g.clone() for k, g in gradients(module).items()}

    with use_backend(backend):
        got = run(attention, x, grad)
    assert all(t.isfinite().all() for t in got.values()) and got["y"].dtype == dtype
    truth = run(copy.deepcopy(attention).double(), x.double(), grad.double())
    # 1/64 and 1/8 of the largest value: some roundings of 2**-11 and 2**-8 in logits as large as 30
    assert_close(got, truth, {torch.float16: 2**-6, torch.bfloat16: 2**-3}[dtype])


def test_a_whole_model_in_float16_on_padded_maps():
    model = randomize(SwinTransformerV2(**SMALL, window_size=8, drop_path_rate=0.0)).half()
    image = torch.randn(2, 3, 42, 38).half()  # maps 21 x 19 and 11 x 10
    y = model(image)
    y.float().square().sum().backward()
    assert y.isfinite().all() and all(g.isfinite().all() for g in gradients(model).values())
    assert distance(y, copy.deepcopy(model).double()(image.double())) < 2**-6


def test_windows_of_one_token_and_of_one_row():
    for window in (1, (1, 4), (4, 1)):
        attention = randomize(WindowAttentionV2(8, window, 2))
        assert attention.relative_coords_table.isfinite().all()
        assert attention(torch.randn(1, 4, 4, 8)).isfinite().all()


def test_another_coordinate_table_is_taken():
    """A checkpoint's table says which windows it was trained with."""
    trained, attention = (WindowAttentionV2(8, 4, 2, pretrained_window_size=(p, p)) for p in (12, 0))
    randomize(trained)
    x = torch.randn(1, 8, 8, 8)
    attention.load_state_dict(trained.state_dict())
    assert torch.equal(attention(x), trained(x))


@pytest.mark.parametrize("ape", [False, True])
def test_any_size_and_no_call_changes_a_later_one(ape):
    def new():
        return randomize(SwinTransformerV2(**SMALL, window_size=8, ape=ape)).eval()

    model = new()
    images = [torch.randn(2, 3, *size) for size in [(32, 32), (64, 64), (24, 24), (8, 8), (33, 43), (3, 50), (1, 1)]]
    with torch.no_grad():
        alone = [new()(image) for image in images]
        for image, want in zip([*images, *reversed(images)], [*alone, *reversed(alone)], strict=True):
            got = model(image)
            assert torch.equal(got, want) and got.isfinite().all()


@pytest.mark.parametrize(
    ("build", "dim", "blocks", "rate", "head_dim", "parameters"),
    [
        (swin_fast.swin_v2_t, 96, (2, 2, 6, 2), 0.2, 32, 28_347_154),
        (swin_fast.swin_v2_s, 96, (2, 2, 18, 2), 0.3, 32, 49_728_418),
        (swin_fast.swin_v2_b, 128, (2, 2, 18, 2), 0.5, 32, 87_918_816),
        (swin_fast.swin_v2_l, 192, (2, 2, 18, 2), 0.2, 32, 196_739_932),
        (swin_fast.swin_v2_g, 512, (2, 2, 42, 4), 0.4, 32, 3_001_940_680),
    ],
)
def test_the_sizes_of_the_paper(build, dim, blocks, rate, head_dim, parameters):
    with torch.device("meta"):
        model = build()
    assert tuple(len(layer.blocks) for layer in model.layers) == blocks
    # the paper says 28M, 50M, 88M, 197M and 3.0B; timm's models of these names have the same numbers up to L
    assert sum(p.numel() for p in model.parameters()) == parameters
    for i, layer in enumerate(model.layers):
        attention = layer.blocks[0].attn
        assert (layer.dim, attention.dim // attention.num_heads) == (dim * 2**i, head_dim)
    assert model.layers[-1].blocks[-1].drop_path.drop_prob == pytest.approx(rate)
    norms = [(i, j) for i, layer in enumerate(model.layers) for j, b in enumerate(layer.blocks) if b.norm3 is not None]
    assert norms == ([(2, j) for j in range(5, 42, 6)] if blocks[2] == 42 else [])


def test_the_extra_norm_is_on_the_main_branch():
    block = randomize(SwinTransformerBlockV2(8, (4, 4), 2, window_size=4, extra_norm=True))
    x, plain = torch.randn(1, 16, 8), copy.deepcopy(block)
    plain.norm3 = None
    assert torch.equal(block(x), block.norm3(plain(x)))


def test_a_new_model_is_the_identity_in_each_block():
    model = SwinTransformerV2(**SMALL, window_size=8)
    x = torch.randn(1, 256, 16)
    for block in model.layers[0].blocks:
        assert torch.equal(block(x), x)
    assert model.layers[0].downsample.norm.weight.eq(1).all()


def test_what_is_not_decayed():
    model = SwinTransformerV2(**SMALL, window_size=8, ape=True)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    assert all(any(part in name for name in names) for part in model.no_weight_decay_keywords())


def test_every_rate_reaches_its_dropout():
    model = SwinTransformerV2(**SMALL, window_size=8, drop_rate=0.25, attn_drop_rate=0.5, drop_path_rate=0.3)
    rates = {k: m.p for k, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert len(rates) == 1 + 4 * 3 and all(p == (0.5 if k.endswith("attn_drop") else 0.25) for k, p in rates.items())
    paths = [getattr(b.drop_path, "drop_prob", 0) for layer in model.layers for b in layer.blocks]
    assert paths == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_bias_for_q_and_v_only():
    attention = WindowAttentionV2(8, 4, 2)
    assert {"q_bias", "v_bias", "qkv.weight"} <= attention.state_dict().keys()
    assert "qkv.bias" not in attention.state_dict()
    assert not {"q_bias", "v_bias"} & WindowAttentionV2(8, 4, 2, qkv_bias=False).state_dict().keys()
    assert WindowAttentionV2(8, 4, 2, qkv_bias=False)(torch.randn(1, 5, 6, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_heads": (2,)}, ValueError, r"num_heads must have one entry per stage of depths \(2, 2\), got \(2,\)"),
        ({"pretrained_window_sizes": (8,)}, ValueError, "pretrained_window_sizes must have one entry per stage"),
        ({"pretrained_window_sizes": (8, -1)}, ValueError, "pretrained_window_size must be at least 0"),
        ({"extra_norm_period": -1}, ValueError, "extra_norm_period must be at least 0, got -1"),
        ({"qk_scale": 0.5}, TypeError, "qk_scale"),
        ({"depths": (2, 0)}, ValueError, "depth must be at least 1, got 0"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        SwinTransformerV2(**{**SMALL, **options})


def test_bad_images():
    with pytest.raises(ValueError, match=r"x must be an image \(B, 3, H, W\), got "):
        SwinTransformerV2(**SMALL)(torch.zeros(1, 1, 32, 32))
