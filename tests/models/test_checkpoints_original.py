"""Files as the original code, its detection backbone, Video Swin and mmdet write them give their stored outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from swin_fast.models import Swin3DConfig, SwinConfig, SwinV2Config, from_config
from swin_fast.models.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint
from swin_fast.modules import PatchMerging

from ..golden import Golden
from ..weights import assert_close, distance, randomize

# what no file says: the scale, and a picture that is not square
CASES = {
    "v1_square": {},
    "v1_rect_noqkvbias_scale": {"qk_scale": 0.7},
    "v1_last_map_is_window_ape": {},
    "v1_window_clamped_both_axes": {"img_size": (16, 32)},
    "v2_square": {},
    "v2_rect_pretrained_ape": {"img_size": (32, 64)},
    "det_28x30_ape": {},
    "det_45x37": {},
    "video_w277": {},
    "video_w877_short_clip": {},
}


def wrapped(name: str, state: dict) -> dict:
    if name.startswith("v"):
        prefix = "backbone." if name.startswith("video") else ""
        wrapper = "state_dict" if prefix else "model"
        return {wrapper: {prefix + k: v for k, v in state.items()} | extra(name), "epoch": 300, "lr": 1e-3}
    return {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | extra(name), "meta": {"epoch": 12}}


def extra(name: str) -> dict:
    """Heads of the larger models."""
    key = {"video": "cls_head.fc_cls.weight", "det": "rpn_head.rpn_conv.weight"}.get(name.partition("_")[0])
    return {key: torch.ones(2, 2)} if key else {}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_original_gives_its_outputs(tmp_path, name):
    golden = Golden(name)
    file = tmp_path / "checkpoint.pth"
    torch.save(wrapped(name, golden.under("sd/")), file)
    model = load_checkpoint(file, **CASES[name])
    with torch.inference_mode():
        outputs = model(golden["x"])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert_close({f"{i}": y for i, y in enumerate(outputs)}, golden.under("y/"), min(golden.bound("y"), 1e-5))
    init = {"img_size" if k == "pretrain_img_size" else k: v for k, v in golden.init.items() if k != "drop_path_rate"}
    if "absolute_pos_embed" not in golden.under("sd/") and name.startswith("det"):
        del init["img_size"]  # a backbone is built for no size
    assert {k: getattr(model.config, k) for k in init} == init
    checkpoint = read_checkpoint(file, **{k: v for k, v in CASES[name].items() if k == "img_size"})
    assert checkpoint.format == "original" and set(checkpoint.left_out) == extra(name).keys()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_written_as_the_original_has_it(tmp_path, name, ending):
    """Buffers too, bit for bit: such a file loads strictly into the original."""
    golden = Golden(name)
    state = golden.under("sd/")
    torch.save(wrapped(name, state), tmp_path / "in.pth")
    options = {k: v for k, v in CASES[name].items() if k == "img_size"}
    save_checkpoint(read_checkpoint(tmp_path / "in.pth", **options), tmp_path / f"out.{ending}", "original")
    if ending == "pth":
        content = torch.load(tmp_path / "out.pth", weights_only=True)
        assert list(content) == ["model"]
        written = content["model"]
    else:
        written = pytest.importorskip("safetensors.torch").load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys()
    for key, tensor in state.items():
        if key.endswith("relative_coords_table"):  # log2 rounds in another order
            torch.testing.assert_close(written[key], tensor)
        else:
            assert torch.equal(written[key], tensor), key


class UnfoldMerging(nn.Module):
    """A downsampling as mmdet has it: nn.Unfold puts the four places of each channel side by side."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        """(B, C, H, W) -> (B, H/2 * W/2, 2*C)."""
        return self.reduction(self.norm(F.unfold(x, 2, stride=2).transpose(1, 2)))


def test_mmdet_downsampling_gives_ours(tmp_path):
    model = randomize(from_config(SwinConfig(**SMALL, out_indices=(0, 1))))
    save_checkpoint(model, tmp_path / "mmdet.pth", "mmdet")
    content = torch.load(tmp_path / "mmdet.pth", weights_only=True)["state_dict"]
    theirs, ours = UnfoldMerging(8), PatchMerging((6, 4), 8)
    start = "backbone.stages.0.downsample."
    theirs.load_state_dict({k.removeprefix(start): v for k, v in content.items() if k.startswith(start)}, strict=True)
    ours.load_state_dict(model.layers[0].downsample.state_dict(), strict=True)
    x = torch.randn(2, 8, 6, 4)
    assert distance(theirs(x), ours(x.flatten(2).transpose(1, 2))) < 1e-6


SMALL = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
ATTENTION = ("relative_position_bias_table", "relative_position_index", "qkv.weight", "qkv.bias", "proj.weight",
             "proj.bias")  # fmt: skip
V2_ATTENTION = ("logit_scale", "q_bias", "v_bias", "relative_coords_table", "relative_position_index", "qkv.weight",
                "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight", "proj.weight", "proj.bias")  # fmt: skip


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_mmpretrain_keys(tmp_path, v2):
    """The keys of mmpretrain's ImageClassifier with a SwinTransformer or SwinTransformerV2."""
    config = SwinV2Config(**SMALL, num_classes=3, pretrained_window_sizes=(0, 0)) if v2 else None
    save_checkpoint(from_config(config or SwinConfig(**SMALL, num_classes=3)), tmp_path / "w.pth", "mmdet")
    pair = ("weight", "bias")
    want = {f"head.fc.{p}" for p in pair} | {
        f"backbone.patch_embed.{m}.{p}" for m in ("projection", "norm") for p in pair
    }
    want |= {f"backbone.norm1.{p}" for p in pair}
    merging = f"backbone.stages.{int(v2)}.downsample"
    want |= {f"{merging}.norm.weight", f"{merging}.norm.bias", f"{merging}.reduction.weight"}
    for block in (f"backbone.stages.{i}.blocks.{j}" for i in range(2) for j in range(2)):
        want |= {f"{block}.{m}.{p}" for m in ("norm1", "norm2", "ffn.layers.0.0", "ffn.layers.1") for p in pair}
        want |= {f"{block}.attn.w_msa.{name}" for name in (V2_ATTENTION if v2 else ATTENTION)}
    assert torch.load(tmp_path / "w.pth", weights_only=True)["state_dict"].keys() == want
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert checkpoint.format == "mmdet" and checkpoint.config.num_classes == 3
    assert checkpoint.config.out_indices is None


def test_a_classifier_becomes_a_backbone(tmp_path):
    """As detection starts from ImageNet: norms are new, and a warning says so."""
    model = randomize(from_config(SwinConfig(**SMALL)))
    save_checkpoint(model, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="norm0.weight, norm0.bias, norm1.weight, norm1.bias keep the values"):
        backbone = load_checkpoint(tmp_path / "w.pth", out_indices=(0, 1))
    state = backbone.state_dict()
    assert torch.equal(state["norm1.weight"], torch.ones(16))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items() if k in state)
    assert backbone.config.policy.shift == "always"


def test_video_without_its_index_is_read_as_the_widest_square_window(tmp_path):
    config = Swin3DConfig(patch_size=2, embed_dim=8, depths=(1,), num_heads=(2,), window_size=(8, 7, 7))
    state = {k: v for k, v in from_config(config).state_dict().items() if not k.endswith("relative_position_index")}
    torch.save(state, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").config.window_size == (8, 7, 7)
