"""Each library's Swin-T is timed beside its accelerated copy, and one that is not the same is never timed."""

import pytest
import torch

from benchmarks import accelerate


@pytest.mark.parametrize("name", accelerate.LIBRARIES)
def test_the_copy_is_the_same_function(name):
    pytest.importorskip(name)
    found = accelerate.candidates(name, 1, torch.float32, train=False, compiled=False)
    assert list(found) == [accelerate.OURS, name]
    accelerate.check(found, name, torch.float32)


def test_a_difference_is_refused():
    pytest.importorskip("torchvision")
    found = accelerate.candidates("torchvision", 1, torch.float32, train=True, compiled=False)
    accelerate.check(found, "torchvision", torch.float32)
    with torch.no_grad():
        found[accelerate.OURS].model.features[7][1].attn.qkv.bias[0] += 1.0
    with pytest.raises(RuntimeError, match="its accelerated model is wrong in torch.float32"):
        accelerate.check(found, "torchvision", torch.float32)
