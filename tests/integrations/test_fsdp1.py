"""FSDP1 in two processes: outside a forward a parameter is a piece of itself, on some ranks an empty one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..peers import define_torchvision_operators

define_torchvision_operators()
pytest.importorskip("timm")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("unit", ["block", "attention"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_two_processes(tmp_path, when, unit):
    """Outputs of both, and the norm of all gradients; an attention that is a unit of its own has to be called."""
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, str(script)]
    options = [str(tmp_path / "store"), unit, when]
    ranks = [
        subprocess.Popen([*command, str(rank), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=300)
        assert rank.returncode == 0, err
        replaced, apart, norm = out.split()[-3:]
        assert int(replaced) == (0 if (when, unit) == ("after", "attention") else 4), err
        assert float(apart) <= 1e-5 and float(norm) == pytest.approx(1, rel=1e-4)
        assert ("attn is wrapped" in err) == ((when, unit) == ("before", "attention"))
