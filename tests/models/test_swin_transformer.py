"""SwinTransformer against the original's tensors, other sizes, the sizes' table, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import swin_fast
from swin_fast import SwinTransformer

from ..weights import distance, randomize
from . import stored

CASES = ["v1_square", "v1_rect_noqkvbias_scale", "v1_last_map_is_window_ape", "v1_window_clamped_both_axes"]
SMALL = {"img_size": 28, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original(one_thread, name):
    stored.assert_equals_float32(name, SwinTransformer)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_original_in_float64(name):
    stored.assert_equals_float64(name, SwinTransformer)


@pytest.mark.parametrize("ape", [False, True])
def test_any_size_and_no_call_changes_a_later_one(ape):
    model = randomize(SwinTransformer(**SMALL, window_size=7, ape=ape)).eval()
    images = [torch.randn(2, 3, *size) for size in [(28, 28), (56, 56), (24, 24), (8, 8), (33, 43), (3, 50), (1, 1)]]
    with torch.no_grad():
        alone = [randomize(SwinTransformer(**SMALL, window_size=7, ape=ape)).eval()(image) for image in images]
        for image, want in zip([*images, *reversed(images)], [*alone, *reversed(alone)], strict=True):
            got = model(image)
            assert torch.equal(got, want) and got.isfinite().all()


def test_448_then_224_then_448():
    """Of 224 pixels and less the last maps fit in a window; after those, transformers' later results are others."""
    model = randomize(SwinTransformer(img_size=224, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4))).eval()
    large = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        first = model(large)
        for size in (224, 64, 112, 192):
            assert model(torch.randn(1, 3, size, size)).isfinite().all()
        assert torch.equal(model(large), first)


def test_a_model_built_for_another_size_gives_the_same():
    image = torch.randn(1, 3, 56, 42)
    models = [SwinTransformer(**{**SMALL, "img_size": size}) for size in (56, (56, 42), (33, 90), 224)]
    with torch.no_grad():
        outputs = [randomize(model).eval()(image) for model in models]
    assert all(torch.equal(out, outputs[0]) for out in outputs)


def test_the_position_embedding_belongs_to_its_place():
    model = randomize(SwinTransformer(**{**SMALL, "img_size": (28, 42)}, ape=True)).eval()
    bare = randomize(SwinTransformer(**{**SMALL, "img_size": (28, 42)})).eval()
    bare.load_state_dict({k: t for k, t in model.state_dict().items() if k != "absolute_pos_embed"})
    for size in [(28, 42), (42, 28), (57, 31), (28, 31), (57, 42)]:
        image, grid = torch.randn(1, 3, *size), bare.patch_embed.output_size(size)
        table = model.absolute_pos_embed.detach().unflatten(1, (14, 21)).permute(0, 3, 1, 2)
        table = F.interpolate(table, grid, mode="bicubic") if grid != (14, 21) else table
        hook = bare.patch_embed.register_forward_hook(lambda m, i, out, t=table: out + t.flatten(2).transpose(1, 2))
        assert distance(model(image), bare(image)) < 1e-6
        hook.remove()


@pytest.mark.parametrize(
    ("build", "dim", "blocks", "rate", "parameters"),
    [
        (swin_fast.swin_t, 96, (2, 2, 6, 2), 0.2, 28_288_354),
        (swin_fast.swin_s, 96, (2, 2, 18, 2), 0.3, 49_606_258),
        (swin_fast.swin_b, 128, (2, 2, 18, 2), 0.5, 87_768_224),
        (swin_fast.swin_l, 192, (2, 2, 18, 2), 0.2, 196_532_476),
    ],
)
def test_the_sizes_of_the_paper(build, dim, blocks, rate, parameters):
    with torch.device("meta"):
        model = build()
    assert tuple(len(layer.blocks) for layer in model.layers) == blocks
    assert sum(p.numel() for p in model.parameters()) == parameters  # the paper says 28M, 50M (50), 88M, 197M
    for i, layer in enumerate(model.layers):
        attention = layer.blocks[0].attn
        assert (layer.dim, attention.dim // attention.num_heads, attention.window_size) == (dim * 2**i, 32, (7, 7))
        assert layer.blocks[0].mlp.fc1.out_features == 4 * layer.dim
    rates = [getattr(block.drop_path, "drop_prob", 0) for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([rate * i / (sum(blocks) - 1) for i in range(sum(blocks))])
    assert [block.shift_size for block in model.layers[2].blocks] == [0, 3] * (blocks[2] // 2)
    assert [block.shift_size for block in model.layers[3].blocks] == [0, 0]


def test_every_rate_reaches_its_dropout():
    model = SwinTransformer(**SMALL, drop_rate=0.25, attn_drop_rate=0.5)
    rates = {k: m.p for k, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert len(rates) == 1 + 4 * 3 and all(p == (0.5 if k.endswith("attn_drop") else 0.25) for k, p in rates.items())
    model.pos_drop.p = 1.0  # no token is left
    torch.manual_seed(1)
    first = model(torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(2)))
    torch.manual_seed(1)
    assert torch.equal(first, model(torch.zeros(1, 3, 28, 28)))


def test_builders_take_keywords():
    model = swin_fast.swin_t(
        img_size=32, depths=(1, 1), num_heads=(3, 6), num_classes=0, drop_path_rate=0.0, window_size=4
    )
    assert isinstance(model.head, torch.nn.Identity)
    image = torch.randn(2, 3, 32, 32)
    model.eval()
    assert model(image).shape == (2, 192) and torch.equal(model(image), model.forward_features(image))


def test_what_is_not_decayed():
    model = SwinTransformer(**SMALL, ape=True)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    assert all(any(part in name for name in names) for part in model.no_weight_decay_keywords())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_heads": (2,)}, ValueError, r"num_heads must have one entry per stage of depths \(2, 2\), got \(2,\)"),
        ({"num_heads": (3, 4)}, ValueError, "dim must be a multiple of num_heads, got dim=16 and num_heads=3"),
        ({"depths": (2, 0)}, ValueError, "depth must be at least 1, got 0"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0, got -1"),
        ({"embed_dim": 0}, ValueError, "embed_dim must be at least 1, got 0"),
        ({"window_size": 0}, ValueError, "window_size must be at least 1, got 0"),
        ({"img_size": (28, 28, 3)}, ValueError, "img_size must have one entry per grid axis"),
        ({"drop_path_rate": 1.0}, ValueError, r"drop_prob must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_constructor_arguments(options, error, message):
    with pytest.raises(error, match=message):
        SwinTransformer(**{**SMALL, **options})


@pytest.mark.parametrize("image", [torch.zeros(3, 28, 28), torch.zeros(1, 1, 28, 28)])
def test_bad_images(image):
    with pytest.raises(ValueError, match=r"x must be an image \(B, 3, H, W\), got "):
        SwinTransformer(**SMALL)(image)


def test_a_state_dict_of_another_architecture():
    model = SwinTransformer(**SMALL)
    other = SwinTransformer(**{**SMALL, "embed_dim": 32})
    with pytest.raises(RuntimeError, match="size mismatch for patch_embed.proj.weight"):
        model.load_state_dict(other.state_dict())
