"""accelerate() on a GPU: the models of each library, outputs and gradients before and after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import swin_fast

from ..weights import assert_close, gradients
from .libraries import MODELS, SIZES
from .stepping import assert_gradients_close, tensors

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("seed", "exact_products")]

DEVICE = "cuda"
NAMES = (
    "timm_v1",
    "timm_v2",
    "torchvision_v1",
    "torchvision_v2",
    "transformers_swin",
    "transformers_swinv2",
    "monai_3d",
)


@pytest.fixture
def exact_products():
    """cuDNN's convolutions without TF32; where an operation of PyTorch has no deterministic kernel, it may run."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # put back by the fixture that all tests have
    yield
    torch.backends.cudnn.allow_tf32 = before


def step(model: nn.Module, x: Tensor, call) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and the gradient of every parameter and of x, for one fixed loss."""
    torch.manual_seed(1)
    model.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    out = {k: t for k, t in tensors(call(model, leaf)).items() if t.requires_grad}
    drawn = torch.Generator().manual_seed(2)
    sum((t.float() * torch.randn(t.shape, generator=drawn).to(t.device)).sum() for t in out.values()).backward()
    grads = {k: g.clone() for k, g in gradients(model).items() if g is not None}
    return {k: t.detach() for k, t in out.items()}, grads | {"x": leaf.grad}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["divisible", "not_square"])
def test_outputs_and_gradients(name, size):
    library = MODELS[name]
    if size not in library.sizes or size in library.crashes:
        pytest.skip(f"{name} takes no such size")
    model = library.make().to(DEVICE).train()
    fused, x = copy.deepcopy(model), library.image(SIZES[size]).to(DEVICE)
    report = swin_fast.accelerate(fused, strict=True)
    assert len(report.replaced) == library.blocks
    (got, got_grads), (want, want_grads) = (step(m, x, library.call) for m in (fused, model))
    assert_close(got, want, 1e-4)
    assert_gradients_close(got_grads, want_grads, 1e-3)


def test_verify_on_the_gpu():
    """The comparison that `verify` makes runs where the model is."""
    library = MODELS["timm_v1"]
    model = library.make().to(DEVICE)
    report = swin_fast.accelerate(model, verify=library.image(SIZES["divisible"]).to(DEVICE))
    assert len(report.replaced) == library.blocks
