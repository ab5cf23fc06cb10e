"""Which backend runs: asked for by name, missing library, other devices."""

import warnings

import pytest
import torch

import swin_fast
from swin_fast import dispatch, native
from swin_fast.functional import window_attention


def attend(device="cpu"):
    qkv = torch.ones(1, 4, 4, 12, device=device)
    return window_attention(qkv, num_heads=2, window_size=2)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(native, "reason", "the library was taken away")
    monkeypatch.setattr(dispatch, "_said", set())


def test_missing_library_takes_plain_pytorch_and_says_so_once(no_library):
    with pytest.warns(UserWarning, match="plain PyTorch, because the library was taken away"):
        first = attend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = attend()
    assert torch.equal(first, again) and torch.equal(first, torch.ones(1, 4, 4, 4))


def test_missing_library_trains(no_library):
    qkv = torch.randn(1, 4, 4, 12, requires_grad=True)
    with pytest.warns(UserWarning, match="plain PyTorch"):
        window_attention(qkv, num_heads=2, window_size=2).sum().backward()
    assert qkv.grad is not None and qkv.grad.abs().sum() > 0


def test_asking_for_a_missing_library_raises(no_library):
    with swin_fast.use_backend("cpu"), pytest.raises(RuntimeError, match="'cpu' was asked for.*taken away"):
        attend()


def test_asked_for_by_name_runs_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("cpu", "reference"):
            with swin_fast.use_backend(name):
                assert torch.allclose(attend(), torch.ones(1, 4, 4, 4))


def test_meta_tensors_take_the_shape_function():
    with swin_fast.use_backend("cpu"):
        assert attend("meta").shape == (1, 4, 4, 4)


def test_unknown_backend(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of"), swin_fast.use_backend("gpu"):
        pass
    monkeypatch.setattr(dispatch, "_backend", "gpu")
    with pytest.raises(ValueError, match="SWIN_FAST_BACKEND must be one of"):
        attend()


def test_device_without_a_kernel_is_named():
    assert dispatch.why_not_cpu("cuda") == "there is no kernel for cuda tensors"
    with swin_fast.use_backend("cpu"), pytest.raises(RuntimeError, match="no kernel for cuda tensors"):
        dispatch.choose("cuda")
