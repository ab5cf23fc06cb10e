"""The copied families, recognised by structure: stand-ins held to the originals' stored values, before and after."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import swin_fast
from swin_fast.integrations import structure

from ..golden import Golden
from ..weights import assert_close, distance, gradients, randomize
from .doubles import classifiers, openmmlab, parts, restoration
from .stepping import assert_gradients_close, step, step_beside

pytestmark = pytest.mark.usefixtures("seed")

STORED = {
    "v1_square": (classifiers.SwinTransformer, 4),
    "v1_window_clamped_both_axes": (classifiers.SwinTransformer, 4),
    "v1_rect_noqkvbias_scale": (classifiers.SwinTransformer, 4),
    "v1_last_map_is_window_ape": (classifiers.SwinTransformer, 4),
    "v2_square": (classifiers.SwinTransformer, 3),
    "v2_rect_pretrained_ape": (classifiers.SwinTransformer, 3),
    "det_28x30_ape": (classifiers.DetectionSwin, 4),
    "det_45x37": (classifiers.DetectionSwin, 4),
    "video_w277": (classifiers.VideoSwin, 4),
    "video_w877_short_clip": (classifiers.VideoSwin, 3),
    "swinir_lightweight_x2": (restoration.SwinIR, 3),
    "hat_hab_shifted": (restoration.HAB, 1),
    "hat_tiny": (restoration.HAT, 2),
}


def run(model, golden) -> dict[str, torch.Tensor]:
    """Outputs and all gradients of the stored loss."""
    leaf = golden["x"].clone().requires_grad_()
    names = {"x": leaf} | {f"arg/{k}": t for k, t in golden.under("arg/").items()}
    arguments = [names[a] if isinstance(a, str) else tuple(a) for a in golden.call]
    model.zero_grad()
    outputs = model(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((y * golden[f"g/{i}"]).sum() for i, y in enumerate(outputs)).backward()
    result = {f"y/{i}": y.detach() for i, y in enumerate(outputs)} | {"grad_x": leaf.grad}
    return result | {f"grad/{k}": g.clone() for k, g in gradients(model).items()}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.usefixtures("one_thread")
def test_stored_values_before_and_after(name):
    golden, (double, blocks) = Golden(name), STORED[name]
    model = double(**golden.init).eval()
    model.load_state_dict(golden.under("sd/"), strict=True)
    stored = {k: golden[k] for k in golden.tensors if k.startswith(("y/", "grad/")) or k == "grad_x"}
    bounds = {k: golden.bound("grad" if "/" in k and k[0] == "g" else k.partition("/")[0]) for k in stored}

    def far(got):
        assert got.keys() == stored.keys()
        return {k: (d, bounds[k]) for k in stored if (d := distance(got[k], stored[k])) > bounds[k]}

    before = run(model, golden)
    assert not far(before), "the stand-in is not the original"
    report = swin_fast.accelerate(model)
    assert len(report.replaced) == 2 * blocks  # each block and its MLP
    assert [e.reason for e in report.left] == ["overlapping cross attention is left to the library"] * (
        name == "hat_tiny"
    )
    assert not far(run(model, golden))
    assert model.state_dict().keys() == golden.under("sd/").keys()
    assert all(torch.equal(t, golden["sd/" + k]) for k, t in model.state_dict().items())
    swin_fast.restore(model)
    again = run(model, golden)
    assert all(torch.equal(again[k], before[k]) for k in before)


SMALL = {"patch_size": 2, "in_chans": 3, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "mlp_ratio": 2.0}
CLASSIFIER = SMALL | {"window_size": 4, "num_classes": 5, "drop_path_rate": 0.3}


def msa(**options):
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(openmmlab.SwinBlock(16, 2, 4, i % 2, 0.3, **options) for i in range(2))

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            for block in self.blocks:
                tokens = block(tokens, tuple(x.shape[2:]))
            return tokens

    return lambda: Stage()


TRAINED = {
    "v1": (lambda: classifiers.SwinTransformer(img_size=(16, 32), **CLASSIFIER), [(3, 16, 32)]),
    "v1_map_is_window": (lambda: classifiers.SwinTransformer(img_size=(8, 16), **CLASSIFIER), [(3, 8, 16)]),
    "v2": (
        lambda: classifiers.SwinTransformer(img_size=(16, 32), pretrained_window_sizes=(6, 3), **CLASSIFIER),
        [(3, 16, 32)],
    ),
    "detection": (
        lambda: classifiers.DetectionSwin(
            pretrain_img_size=16, window_size=4, out_indices=(0, 1), drop_path_rate=0.3, **SMALL
        ),
        [(3, 16, 16), (3, 18, 22), (3, 16, 28), (3, 6, 6)],
    ),
    "video": (
        lambda: classifiers.VideoSwin(**SMALL | {"patch_size": (2, 2, 2)}, window_size=(2, 4, 4), drop_path_rate=0.3),
        [(3, 8, 16, 16), (3, 5, 18, 22), (3, 3, 16, 28), (3, 2, 6, 6)],
    ),
    "swinir": (
        lambda: restoration.SwinIR(
            upscale=2, img_size=8, window_size=4, img_range=1.0, depths=(2,), embed_dim=20, num_heads=(2,),
            mlp_ratio=2.0, drop_path_rate=0.3, upsampler="pixelshuffledirect",
        ),
        [(3, 8, 8), (3, 10, 14), (3, 3, 3)],
    ),
    "hat": (
        lambda: restoration.HAT(
            upscale=1, img_size=8, window_size=4, compress_ratio=3, squeeze_factor=4, conv_scale=0.1, overlap_ratio=0.5,
            img_range=1.0, depths=(2,), embed_dim=12, num_heads=(2,), mlp_ratio=2.0, drop_path_rate=0.3,
            upsampler="pixelshuffle",
        ),
        [(3, 8, 8), (3, 12, 16)],
    ),
    "mmdet": (msa(), [(16, 8, 8), (16, 11, 9), (16, 4, 12), (16, 3, 3)]),
    "mmpretrain": (msa(pad_small_map=False), [(16, 8, 8), (16, 11, 9), (16, 4, 12)]),
    "mmpretrain_pad_small_map": (msa(pad_small_map=True), [(16, 4, 12), (16, 3, 3)]),
    "mmpretrain_v2": (msa(pad_small_map=False, v2=True), [(16, 8, 8), (16, 11, 9), (16, 4, 12)]),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_training_with_drop_path(name):
    build, sizes = TRAINED[name]
    model = randomize(build())
    fused = copy.deepcopy(model)
    report = swin_fast.accelerate(fused, strict=name != "hat")
    # each block and its MLP; of OpenMMLab's the attention alone is known
    assert len(report.replaced) == (2 if name.startswith("mm") else 4 if name in ("swinir", "hat") else 8)
    for size in sizes:
        x = torch.randn(3, *size)
        with torch.no_grad():
            assert_close(*({str(i): t for i, t in enumerate(flat(m.eval()(x)))} for m in (fused, model)), 1e-5)
        (got, got_grads), (want, want_grads) = (step(m.train(), x) for m in (fused, model))
        assert_close(got, want, 1e-5)
        assert_gradients_close(got_grads, want_grads, 1e-4, partial(step_beside, model, x))


def test_a_cancelled_gradient_is_held_to_what_one_rounding_does():
    want, moved = ({"weight": torch.tensor([1e-4 + d])} for d in (0.0, 1e-7))
    assert_gradients_close({"weight": torch.tensor([1e-4 + 1.5e-7])}, want, 1e-4, lambda: moved)
    with pytest.raises(AssertionError, match="further than"):
        assert_gradients_close({"weight": torch.tensor([1e-4 + 3e-7])}, want, 1e-4, lambda: moved)
    with pytest.raises(AssertionError, match="further than"):
        assert_gradients_close({"weight": torch.tensor([1e-4 + 1.5e-7])}, want, 1e-4)


def flat(out):
    return out if isinstance(out, tuple) else (out,)


def test_a_map_that_the_original_refuses_is_refused_in_its_words():
    model = randomize(classifiers.SwinTransformer(img_size=16, **CLASSIFIER))
    swin_fast.accelerate(model)
    with pytest.raises(RuntimeError, match="shape"):
        model.layers[0].blocks[0](torch.zeros(1, 65, 16))


class OtherBias(parts.WindowAttention):
    """Somebody's idea: the bias is halved."""

    def finish(self, attn, v, mask):
        return super().finish(attn * 0.5, v, mask)


class TwoOutputs(classifiers.SwinTransformerBlock):
    def forward(self, x):
        return super().forward(x), 0.0


class NoNorm(classifiers.SwinTransformerV2Block):
    def forward(self, x):
        x = x + self.windows(x)
        return x + self.norm2(self.mlp(x))


def edited_attention():
    block = classifiers.SwinTransformerBlock(16, (8, 8), 2, 4, 2, 2.0)
    block.attn = OtherBias(16, (4, 4), 2)
    return block


def edited_mask():
    block = classifiers.SwinTransformerBlock(16, (8, 8), 2, 4, 2, 2.0)
    block.attn_mask[0, 0, 1] = -100.0
    return block


@pytest.mark.parametrize(
    "build, reason",
    [
        (edited_attention, "computes something else than a Swin block"),
        (edited_mask, "computes something else than a Swin block"),
        (lambda: TwoOutputs(16, (8, 8), 2, 4, 2, 2.0), "does not return what a Swin block returns"),
        (lambda: NoNorm(16, (8, 8), 2, 4, 2, 2.0), "computes something else than a Swin V2 block"),
        (lambda: classifiers.SwinTransformerBlock(6, (8, 8), 2, 4, 2, 2.0), "head_dim 3 is not an even number"),
        (lambda: classifiers.SwinTransformerBlock(4, (33, 66), 2, 33, 2, 2.0), "more than 1024 tokens"),
        (lambda: classifiers.SwinTransformerBlock(16, (8, 8), 2, 4, 2, 2.0).to("meta"), "meta device"),
    ],
)
def test_a_copy_that_was_edited_is_left_alone(build, reason):
    block = build()
    kind = type(block)
    report = swin_fast.accelerate(block)
    (entry,) = report.left
    assert reason in entry.reason and type(block) is kind and not report.replaced
    with pytest.raises(RuntimeError, match="strict"):
        swin_fast.accelerate(block, strict=True)


def test_looking_changes_nothing():
    block = classifiers.DetectionBlock(16, 2, 4, 2, 2.0, rate=0.5).train()
    called = []
    block.norm1.register_forward_hook(lambda *_: called.append(1))
    before, state = {k: t.clone() for k, t in block.state_dict().items()}, torch.get_rng_state()
    shape, reason = structure.recognise(block)
    assert shape is not None and not reason
    assert not called and block.training and block.H is None and all(p.grad is None for p in block.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[k]) for k, t in block.state_dict().items())


def test_our_own_modules_are_not_touched():
    model = swin_fast.SwinTransformer(img_size=16, **{**SMALL, "window_size": 4})
    assert not swin_fast.accelerate(model).entries
