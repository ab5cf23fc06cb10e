"""The libraries' Swin-T with our weights are the same function, and one that is not is never timed."""

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
    results = ours.results()
    assert results.keys() == {"logits", "grad of the first weight"}
    assert all(p.grad is not None for p in ours.model.parameters())
    results["grad of the first weight"] *= 1.01
    monkeypatch.setattr(models.Candidate, "results", lambda self: results if self is ours else truth(self))
    truth = type(ours).__call__
    with pytest.raises(KeyError):
        models.check({models.REFERENCE: found[models.REFERENCE]}, torch.float32)
