"""`verify`: the differences in the report, inputs of every kind, and a wrong result that is found."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import swin_fast
from swin_fast.integrations import timm as timm_integration
from swin_fast.integrations.swap import Fused
from swin_fast.integrations.verify import example_input

from .libraries import MODELS, SIZES

pytestmark = pytest.mark.usefixtures("seed")


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_3d", "transformers_swin", "transformers_donut", "monai_2d"])
def test_the_report_has_the_difference_of_each_block(name):
    model = MODELS[name].make(0.3).train()
    before = [(m.training, vars(m).get("window_size"), vars(m).get("shift_size")) for m in model.modules()]
    state = torch.get_rng_state()
    report = swin_fast.accelerate(model, verify=MODELS[name].image(SIZES["divisible"]))
    assert 0 < report.difference < 1e-5
    assert len(report.replaced) == MODELS[name].blocks and all(0 <= e.difference < 1e-5 for e in report.replaced)
    assert "the output differs by" in str(report) and len(str(report).splitlines()) == MODELS[name].blocks + 2
    assert before == [(m.training, vars(m).get("window_size"), vars(m).get("shift_size")) for m in model.modules()]
    torch.set_rng_state(state)
    assert not any(m._forward_hooks for m in model.modules())


def test_inputs():
    model = MODELS["transformers_swin"].make()
    x = torch.randn(1, 3, 16, 16)
    for given in (True, x, (x,), [x], {"pixel_values": x}):
        fused = copy.deepcopy(model)
        assert 0 < swin_fast.accelerate(fused, verify=given).difference < 1e-5
    report = swin_fast.accelerate(fused, verify=x)  # a second time: the library's road first, then ours
    assert 0 < report.difference < 1e-5
    with pytest.raises(ValueError, match="found no input size"):
        swin_fast.accelerate(nn.Sequential(nn.Linear(2, 2)), verify=True)


def test_example_inputs():
    shapes = {"timm_v1": (1, 3, 16, 16), "torchvision_v1": (1, 3, 224, 224), "torchvision_3d": (1, 3, 8, 112, 112)}
    for name, shape in shapes.items():
        model = MODELS[name].make()
        if name == "timm_v1":
            model.pretrained_cfg = {"input_size": (3, 224, 224)}  # what a registered model has
        assert example_input(model)[0].shape == shape
    found = example_input(MODELS["transformers_swinv2"].make().bfloat16())
    assert found["pixel_values"].shape == (1, 3, 16, 16) and found["pixel_values"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_result_is_found_and_undone(monkeypatch, dtype):
    monkeypatch.setattr(timm_integration, "ORDER", "pad_then_roll")  # another library's policy
    model = MODELS["timm_v1"].make().to(dtype)
    x = MODELS["timm_v1"].image(SIZES["not_divisible"]).to(dtype)
    with pytest.raises(RuntimeError, match=r"layers\.0\.blocks\.1 differs by"):
        swin_fast.accelerate(model, verify=x)
    assert not any(isinstance(m, Fused) for m in model.modules())
    assert swin_fast.accelerate(model).replaced  # nobody looked


def test_a_nan_is_a_difference():
    model = MODELS["timm_v1"].make()
    x = torch.full((1, 3, 16, 16), torch.nan)
    with pytest.raises(RuntimeError, match="differs by (nan|inf)"):
        swin_fast.accelerate(model, verify=x)
