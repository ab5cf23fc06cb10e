"""Where a library is wrong by its own standards, and what its model does after accelerate().

That transformers' Swin raises on small maps and keeps their window is in test_transformers.py.
"""

from __future__ import annotations

import copy

import pytest
import torch

import swin_fast

from ..weights import assert_close, distance
from .libraries import MODELS, SIZES
from .stepping import tensors

pytestmark = pytest.mark.usefixtures("seed")


def outputs(name, model, x):
    with torch.no_grad():
        return tensors(MODELS[name].call(model.eval(), x))


@pytest.mark.parametrize("name", ["timm_v2", "torchvision_v2", "transformers_swinv2"])
def test_cosine_attention_in_float16_on_a_padded_map(name):
    """Padded keys are zeros, whose norm underflows in float16: the libraries give NaN, ours is right."""
    model = MODELS[name].make()
    x = MODELS[name].image(SIZES["not_divisible"])
    truth = outputs(name, copy.deepcopy(model).double(), x.double())
    allowed = outputs(name, copy.deepcopy(model).bfloat16(), x.bfloat16())  # three bits fewer, no underflow
    model = model.half()
    assert any(t.isnan().any() for t in outputs(name, model, x.half()).values())
    swin_fast.accelerate(model, strict=True)
    for key, got in outputs(name, model, x.half()).items():
        assert got.dtype == torch.float16 and got.isfinite().all()
        assert distance(got, truth[key]) <= distance(allowed[key], truth[key])


@pytest.mark.parametrize("name", ["timm_v1", "torchvision_v1", "torchvision_3d", "monai_3d"])
def test_one_size_does_not_change_the_next(name):
    """As in the library itself; transformers keeps what a small map did."""
    model = MODELS[name].make()
    swin_fast.accelerate(model, strict=True)
    large, small = (MODELS[name].image(SIZES[size]) for size in ("not_divisible", "divisible"))
    first = outputs(name, model, large)
    outputs(name, model, small)
    assert_close(outputs(name, model, large), first, 0)
