"""What `info` says, and the doors of the command line."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys

import pytest
import torch

import swin_fast
from swin_fast import dispatch, native
from swin_fast.cli import main


@pytest.fixture
def built(monkeypatch):
    """An installation whose library loaded."""
    monkeypatch.setattr(native, "loaded", True)
    monkeypatch.setattr(native, "reason", "")
    monkeypatch.setattr(native, "cpu_capability", lambda: "avx2", raising=False)
    monkeypatch.setattr(native, "build_info", lambda: {"version": "9", "cpu": ["portable", "avx2"], "cuda": None})


@pytest.fixture
def bare(monkeypatch):
    """A source tree."""
    monkeypatch.setattr(native, "loaded", False)
    monkeypatch.setattr(native, "reason", "the library is on holiday")
    monkeypatch.setattr(native, "build_info", dict)


def facts(call) -> dict:
    code, out, err = call("info", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("triton", [True, False])
def test_json_built(call, built, monkeypatch, triton):
    monkeypatch.setenv("SWIN_FAST_CPU_CAPABILITY", "avx2")
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(dispatch, "triton_reason", lambda: "" if triton else "the package triton is not installed")
    monkeypatch.setattr(native, "cuda_reason", "no CUDA library")
    monkeypatch.setattr(dispatch, "describe", lambda device: dispatch.Device(device.type))
    found = facts(call)
    assert found["version"] == swin_fast.__version__
    assert (found["torch"], found["python"]) == (torch.__version__, platform.python_version())
    assert found["cpu"]["capability"] == "avx2" and found["cpu"]["library"] == {"loaded": True, "reason": ""}
    assert found["build"]["cpu"] == ["portable", "avx2"]
    assert list(found["backends"]["cpu"]) == ["cpu", "triton", "cuda", "reference"]
    assert found["backends"]["cpu"]["cpu"] == "" and found["backends"]["cpu"]["reference"] == "cpu comes first"
    assert "for cuda tensors" in found["backends"]["cuda"]["cpu"]
    assert [name for name, why in found["backends"]["cuda"].items() if not why] == ["triton" if triton else "reference"]
    assert found["environment"]["SWIN_FAST_CPU_CAPABILITY"] == "avx2" and found["environment"]["MAX_JOBS"] is None
    assert found["cuda_library"]["reason"] == "no CUDA library"
    assert len(found["gpu"]) == torch.cuda.device_count()


def test_json_bare(call, bare):
    found = facts(call)
    assert found["cpu"]["capability"] is None and found["build"] == {}
    assert (
        found["backends"]["cpu"]["cpu"] == "the library is on holiday" and found["backends"]["cpu"]["reference"] == ""
    )


def test_text(call, built, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    code, out, _ = call("info")
    assert code == 0
    assert re.search(r"\nCPU library +loaded, runs the avx2 path\n", out)
    assert re.search(r"\n  cpu +portable, avx2\n  cuda +None\n", out)
    assert re.search(
        r"\na cpu tensor\n  cpu +runs\n  triton +not.+\n  cuda +not.+\n  reference +not used: cpu comes", out
    )
    assert re.search(r"\n  OMP_NUM_THREADS +'3' +CPU threads", out)


def test_text_bare(call, bare):
    out = call("info").out
    assert re.search(r"\nCPU library +the library is on holiday\n", out)
    assert re.search(r"\n  cpu +not used: the library is on holiday\n  triton .+\n  cuda .+\n  reference +runs\n", out)


def test_forced_backend_is_the_reason(call, built):
    with dispatch.use_backend("reference"):
        reasons = facts(call)["backends"]["cpu"]
    assert reasons["cpu"] == "the backend is set to 'reference'" and reasons["reference"] == ""


def test_wrong_knobs_are_one_line(refused, built, monkeypatch):
    def unknown():
        raise RuntimeError("f, x.cpp:5, SWIN_FAST_CPU_CAPABILITY must be another, got mmx\nException raised from f")

    monkeypatch.setattr(native, "cpu_capability", unknown)
    assert refused("info") == "SWIN_FAST_CPU_CAPABILITY must be another, got mmx"
    monkeypatch.setattr(dispatch, "_backend", "quantum")
    assert "SWIN_FAST_BACKEND" in refused("verify") and "'quantum'" in refused("verify")


def test_no_command_and_wrong_command(refused):
    assert "required" in refused()
    assert "'frobnicate'" in refused("frobnicate")


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"], ["info", "--help"], ["verify", "--help"]])
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: swin-fast")


def test_module_runs_and_importing_the_package_is_light():
    heavy = "{'matplotlib', 'PIL', 'safetensors', 'swin_fast.cli'}"
    light = f"import sys, swin_fast; assert not {heavy} & set(sys.modules); from swin_fast import __main__"
    result = subprocess.run([sys.executable, "-c", light, "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"swin-fast {swin_fast.__version__}\n", "")


@pytest.mark.parametrize(
    ("module", "package"), [("PIL", "pillow"), ("matplotlib", "matplotlib"), ("safetensors", "safetensors")]
)
def test_missing_package_names_the_way_out(refused, tmp_path, monkeypatch, module, package):
    pytest.importorskip("matplotlib.pyplot")  # whole, or the half that loads without PIL would stay behind
    (tmp_path / "w.safetensors").write_bytes(b"")
    for name in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    message = refused("demo", "--weights", "w.safetensors")
    assert message == f"this needs the package {package}: pip install 'swin_fast[cli]'"


def test_package_that_is_there_but_broken_is_told_apart(refused, tmp_path, monkeypatch):
    (tmp_path / "matplotlib.py").write_text("import no_such_dependency")
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert refused("demo") == "matplotlib is installed but does not load: No module named 'no_such_dependency'"
