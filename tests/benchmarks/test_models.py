"""The libraries' Swin-T with our weights are the same function, and one that is not is never timed."""

from dataclasses import replace

import pytest
import torch

from benchmarks import models


def test_libraries_agree_and_a_difference_is_refused():
    found = models.candidates(1, torch.float32, train=False)
    assert {models.OURS, models.REFERENCE, "timm", "timm fused_attn", "torchvision", "transformers"} == found.keys()
    models.check(found, torch.float32)
    with torch.no_grad():
        found["timm"].model.layers[3].blocks[1].attn.qkv.bias[0] += 1.0
    with pytest.raises(RuntimeError, match="timm is not timed, because it is wrong in torch.float32"):
        models.check({name: found[name] for name in (models.REFERENCE, "timm")}, torch.float32)


def test_a_training_step_compares_gradients(monkeypatch):
    monkeypatch.setattr(models, "peer_models", dict)
    found = models.candidates(1, torch.float32, train=True)
    models.check(found, torch.float32)
    ours = found[models.OURS]
    assert all(p.grad is not None for p in ours.model.parameters())
    other = replace(ours, labels=(ours.labels + 1) % 1000)  # the same logits, another gradient
    with pytest.raises(RuntimeError, match="grad of the first weight"):
        models.check({models.REFERENCE: found[models.REFERENCE], "other": other}, torch.float32)
