"""The kernels run in Triton's interpreter here, on CPU tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from triton.runtime import interpreter

from swin_fast.triton_kernels import tuning, window_attention
from swin_fast.triton_kernels.config import Config

torch.set_num_threads(1)  # the interpreter is one thread of NumPy, and the tensors are small
# Integer arithmetic is checked for overflow otherwise, which takes half of the time.
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)


@pytest.fixture(autouse=True)
def the_kernels_are_interpreted():
    assert isinstance(window_attention.window_attention_forward, interpreter.InterpretedFunction)


@pytest.fixture
def tiled(monkeypatch):
    """Windows of more than 16 tokens are walked in tiles, as large ones are."""
    monkeypatch.setattr(tuning, "config", lambda *_: Config(16, 16, 1, 1, 2))
