"""`swin-fast accelerate-check`: what it prints, its exit status, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swin_fast.cli import accelerate_check
from swin_fast.integrations import timm as timm_integration

from ..integrations.libraries import MODELS


@pytest.fixture
def small(monkeypatch):
    """timm:small is a model of two stages."""
    pytest.importorskip("timm")

    def build(name):
        model = MODELS["timm_v1"].make()
        model.pretrained_cfg = {"input_size": (3, 16, 16)}
        return {"small": model, "linear": nn.Sequential(nn.Linear(2, 2))}[name]

    monkeypatch.setitem(accelerate_check.BUILDERS, "timm", build)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_report_parity_and_speed_up(small, call, dtype):
    code, out, err = call(
        "accelerate-check", "timm:small", "--dtype", dtype, "--batch", 2, "--repeat", 2, "--threads", 1
    )
    assert code == 0 and not err
    assert out.count("swin_fast window attention") == 4 and out.count("swin_fast GELU") == 4 and "8 replaced" in out
    assert f"timm:small, batch 2, {dtype}, backend " in out and "ok: " in out and " ms before, " in out


def test_a_wrong_result_is_exit_status_1(small, call, monkeypatch):
    monkeypatch.setattr(timm_integration, "cosine_attention", None)
    real = timm_integration.softmax_attention
    monkeypatch.setattr(timm_integration, "softmax_attention", lambda *args: real(*args) * 1.01)
    code, out, _ = call("accelerate-check", "timm:small", "--repeat", 1, "--threads", 1)
    assert code == 1 and "FAILED: relative difference at most 1e-4" in out


def test_refusals(small, refused):
    assert "must be LIB:MODEL with LIB one of timm, torchvision" in refused("accelerate-check", "swin_t")
    assert "must be LIB:MODEL" in refused("accelerate-check", "jax:swin")
    assert "timm makes no model 'other'" in refused("accelerate-check", "timm:other")
    assert "the size of the input is not known" in refused("accelerate-check", "timm:linear")


@pytest.mark.parametrize("library, name", [("torchvision", "nothing"), ("transformers", "nothing"), ("monai", "UNet")])
def test_names_that_a_library_does_not_have(refused, library, name):
    pytest.importorskip(library)
    assert f"{library} makes no model '{name}'" in refused("accelerate-check", f"{library}:{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timm:swinv2_cr_tiny_ns_224", "torchvision:swin_v2_t", "transformers:swinv2", "transformers:swin2sr"]
)
def test_real_models(call, name):
    pytest.importorskip(name.partition(":")[0])
    code, out, _ = call("accelerate-check", name, "--repeat", 1)
    assert code == 0 and " 0 left alone" in out
    assert torch.get_num_threads() >= 1
