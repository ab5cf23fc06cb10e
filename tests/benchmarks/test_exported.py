"""ONNX Runtime and OpenVINO compute what the exported model does."""

import pytest
import torch
from torch import nn

from benchmarks import exported


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, 5))


@pytest.fixture
def image():
    return torch.randn(2, 3, 16, 16)


@pytest.fixture
def file(model, image, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv(exported.FOLDER_VARIABLE, str(tmp_path))
    return exported.export("small", model, image)


@pytest.mark.parametrize("engine", exported.ENGINES)
def test_an_export_is_the_model(engine, file, model, image):
    pytest.importorskip(engine)
    extra = (torch.float32,) if engine == "openvino" else ()
    call = getattr(exported, f"{engine}_call")(file, image, 1, *extra)
    with torch.no_grad():
        assert (call() - model(image)).abs().max() < 1e-5
    assert file.name == "small-2x3x16x16.onnx"
    assert exported.export("small", None, image) == file  # made once


def test_bfloat16_is_bfloat16(file, model, image):
    """Products in bfloat16 err by about 2 ** -9 of their size, where the processor has them."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has no bfloat16 on this processor")
    call = exported.openvino_call(file, image, 1, torch.bfloat16)
    with torch.no_grad():
        assert 1e-4 < (call() - model(image)).abs().max() < 5e-2
