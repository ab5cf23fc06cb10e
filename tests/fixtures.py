"""Fixtures that the module and model tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    """The same random inputs every run."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """One thread, as for the stored values: more of them add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
