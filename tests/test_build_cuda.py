"""The build's decisions about CUDA: which toolkit, which architectures, and what happens where there is none."""

import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from setuptools.errors import SetupError

ROOT = Path(__file__).parents[1]
KNOWN = ("80", "86", "89", "90", "90a", "100")


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "csrc" / "setup")
    for name in ("CUDA_HOME", "SWIN_FAST_CUDA", "TORCH_CUDA_ARCH_LIST", "CXX", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    import cuda_toolkit

    monkeypatch.setattr(cuda_toolkit.sys, "platform", "linux")


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def fake_nvcc(home: Path, version="13.0", known=KNOWN) -> Path:
    """A compiler driver that answers what the build asks one, like the real thing, on stderr where that does."""
    patterns = "|".join(f"*arch=compute_{name},code={kind}_{name}\\ *" for name in known for kind in ("sm", "compute"))
    return script(
        home / "bin" / "nvcc",
        f"""case "$*" in
*--version*) echo "Cuda compilation tools, release {version}, V{version}.88";;
*-gencode*) case "$*" in {patterns}) ;; *) echo "nvcc fatal   : Unsupported gpu architecture" >&2; exit 1;; esac;;
*--dryrun*) echo '#$ _SPACE_= ' >&2; echo '#$ TOP={home}/bin/..' >&2; : > "$TMPDIR/tmpxft_left_behind";;
esac""",
    )


@pytest.fixture
def bare_path(tmp_path, monkeypatch):
    """A PATH with a shell and nothing of CUDA."""
    folder = tmp_path / "path"
    folder.mkdir()
    for tool in ("sh", "env"):
        (folder / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_cuda_home_names_the_toolkit(tmp_path, bare_path, monkeypatch):
    from cuda_toolkit import find_toolkit

    fake_nvcc(tmp_path / "on path").rename(bare_path / "nvcc")
    nvcc = fake_nvcc(tmp_path / "named", "12.8")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "named"))
    assert find_toolkit() == (str(nvcc), tmp_path / "named", (12, 8))


def test_a_script_around_nvcc_is_asked_where_the_toolkit_is(tmp_path, bare_path):
    from cuda_toolkit import find_toolkit

    nvcc = fake_nvcc(tmp_path / "toolkit")
    wrapper = script(bare_path / "nvcc", f'exec "{nvcc}" "$@"')
    assert find_toolkit() == (str(wrapper), tmp_path / "toolkit", (13, 0))


def test_a_dry_run_leaves_no_files_behind(tmp_path, bare_path, monkeypatch):
    import tempfile

    from cuda_toolkit import find_toolkit

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    fake_nvcc(tmp_path / "toolkit").rename(bare_path / "nvcc")
    find_toolkit()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: None, "there is no nvcc on PATH and CUDA_HOME is not set"),
        (lambda path: os.environ.update(CUDA_HOME="/nowhere"), "CUDA_HOME is set, but .* has no nvcc: /nowhere"),
        (lambda path: fake_nvcc(path.parent, "11.8").rename(path / "nvcc"), "nvcc is of CUDA 11.8, and 12.0 or newer"),
        (lambda path: script(path / "nvcc", "echo broken >&2; exit 1"), "nvcc does not run: broken"),
        (lambda path: script(path / "nvcc", "echo release 13.0, V13"), r"did not print .*TOP=.*release 13\.0"),
        (lambda path: os.environ.update(SWIN_FAST_CUDA="0"), "SWIN_FAST_CUDA=0 was set"),
    ],
    ids=["nothing", "cuda_home", "old", "broken", "silent", "refused"],
)
def test_no_toolkit_is_a_reason(bare_path, monkeypatch, make, reason):
    from cuda_toolkit import NoCuda, find_toolkit

    monkeypatch.setenv("SWIN_FAST_CUDA", "")
    monkeypatch.setenv("CUDA_HOME", "")
    make(bare_path)
    with pytest.raises(NoCuda, match=reason):
        find_toolkit()


def test_another_system_is_a_reason(monkeypatch):
    import cuda_toolkit

    monkeypatch.setattr(cuda_toolkit.sys, "platform", "darwin")
    with pytest.raises(cuda_toolkit.NoCuda, match="on Linux only"):
        cuda_toolkit.find_toolkit()


def toolkit(tmp_path, **nvcc):
    from cuda_toolkit import Toolkit

    version = nvcc.get("version", "13.0")
    return Toolkit(str(fake_nvcc(tmp_path, **nvcc)), tmp_path, tuple(map(int, version.split("."))))


def test_the_default_architectures(tmp_path):
    from cuda_toolkit import architectures

    found, left_out = architectures(toolkit(tmp_path))
    assert list(found) == ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "compute_100"]
    assert found["sm_90a"] == ["-gencode", "arch=compute_90a,code=sm_90a"]
    assert found["compute_100"] == ["-gencode", "arch=compute_100,code=compute_100"]
    assert left_out == {}


def test_targets_of_one_generation_share_the_ptx_that_they_are_made_from(tmp_path, monkeypatch):
    from cuda_toolkit import architectures

    found, _ = architectures(toolkit(tmp_path))
    for name in ("sm_80", "sm_86", "sm_89"):
        assert found[name] == ["-gencode", f"arch=compute_80,code={name}"]
    assert found["sm_100"] == ["-gencode", "arch=compute_100,code=sm_100"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.9;8.6+PTX;9.0;10.0")
    found, _ = architectures(toolkit(tmp_path))
    assert found == {
        "sm_89": ["-gencode", "arch=compute_86,code=sm_89"],
        "sm_86": ["-gencode", "arch=compute_86,code=sm_86"],
        "compute_86": ["-gencode", "arch=compute_86,code=compute_86"],
        "sm_90a": ["-gencode", "arch=compute_90a,code=sm_90a"],
        "sm_100": ["-gencode", "arch=compute_100,code=sm_100"],
    }


def test_an_older_nvcc_leaves_out_what_it_does_not_know_but_never_the_ptx(tmp_path):
    from cuda_toolkit import architectures

    found, left_out = architectures(toolkit(tmp_path, version="12.4", known=KNOWN[:-1]))
    assert list(found) == ["sm_80", "sm_86", "sm_89", "sm_90a", "compute_90"]
    assert left_out == dict.fromkeys(["sm_100", "compute_100"], "nvcc of CUDA 12.4 does not know it")


def test_torchs_arch_list_overrides(tmp_path, monkeypatch):
    from cuda_toolkit import NoCuda, architectures

    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.6;9.0+PTX")
    found, left_out = architectures(toolkit(tmp_path))
    assert list(found) == ["sm_86", "sm_90a", "compute_90"]
    assert left_out == {"sm_75": "the kernels need sm_80 or newer"}
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;13.0")
    reason = (
        "TORCH_CUDA_ARCH_LIST .* sm_75: the kernels need sm_80 or newer; sm_130: nvcc of CUDA 13.0 does not know it"
    )
    with pytest.raises(NoCuda, match=reason):
        architectures(toolkit(tmp_path))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("8.0", [(80, "", False)]),
        ("8.0;9.0a+PTX;", [(80, "", False), (90, "a", True)]),
        ("8.0, 8.6  12.0f", [(80, "", False), (86, "", False), (120, "f", False)]),
        ("Ampere;Hopper", [(80, "", False), (86, "", True), (90, "", True)]),
        ("8.0;8.0", [(80, "", False)]),
    ],
)
def test_arch_list_syntax(text, expected):
    from cuda_toolkit import parse_arch_list

    assert parse_arch_list(text) == expected


@pytest.mark.parametrize("word", ["sm_80", "80", "8.0+PTY", "Kepler", "8.0b", ";"])
def test_arch_list_errors_name_the_word(word):
    from cuda_toolkit import parse_arch_list

    with pytest.raises(SetupError, match=r"TORCH_CUDA_ARCH_LIST must hold .* like 8\.0, 9\.0a or 10\.0\+PTX.*got '"):
        parse_arch_list(f"{word};9.0" if word != ";" else word)


@pytest.mark.parametrize("value", ["2", "yes", "on"])
def test_the_switch_is_0_or_1(monkeypatch, value):
    from cuda_toolkit import find_toolkit

    monkeypatch.setenv("SWIN_FAST_CUDA", value)
    with pytest.raises(SetupError, match=f"SWIN_FAST_CUDA must be 0 or 1, got '{value}'"):
        find_toolkit()


def test_a_toolkit_that_cannot_compile_says_what_the_compiler_said(tmp_path):
    from cuda_toolkit import NoCuda, Toolkit, check_works

    nvcc = script(tmp_path / "nvcc", "echo 'In file included from x'; echo 'host_config.h: error: too new' >&2; exit 1")
    with pytest.raises(NoCuda, match="cannot build an empty kernel here: host_config.h: error: too new"):
        check_works(Toolkit(str(nvcc), tmp_path, (13, 0)), [])


def test_host_compiler_and_flags_reach_nvcc(monkeypatch):
    from cuda_toolkit import host_compiler_flags

    assert host_compiler_flags() == []
    monkeypatch.setenv("CXX", "g++-14 -m64")
    monkeypatch.setenv("CXXFLAGS", "-g -Wa,--noexecstack")
    assert host_compiler_flags() == [
        "-ccbin",
        "g++-14",
        "-Xcompiler=-m64",
        "-Xcompiler=-g",
        r"-Xcompiler=-Wa\,--noexecstack",
    ]


@pytest.fixture
def command(tmp_path):
    """The build command on a distribution of both libraries, before anything runs."""
    from native_build import CUDA, BuildNative
    from setuptools import Distribution, Extension

    names = ("swin_fast._C", CUDA)
    extensions = [Extension(name, ["csrc/module.cpp"], py_limited_api=True) for name in names]
    command = BuildNative(Distribution({"name": "swin_fast", "version": "1.2.3", "ext_modules": extensions}))
    command.build_lib = str(tmp_path / "lib")
    command.ensure_finalized()
    command.facts = {"version": "1.2.3"}
    return command


def test_without_cuda_one_library_is_built_and_an_older_one_is_removed(command):
    from native_build import CUDA, summary

    stale = Path(command.build_lib, command.get_ext_filename(CUDA))
    stale.parent.mkdir(parents=True)
    stale.touch()
    command.leave_cuda_out("there is no nvcc")
    assert [ext.name for ext in command.extensions] == ["swin_fast._C"]
    assert not stale.exists()
    assert command.cuda_facts["cuda"] is None and command.cuda_facts["cuda_reason"] == "there is no nvcc"
    cpu = {"cpu": ["portable"], "cpu_left_out": {}, "torch_headers": "2.15.0", "torch_minimum": "2.10", "compiler": "c"}
    text = summary({**command.facts, **cpu, **command.cuda_facts})
    assert re.search(r"\n  CUDA library  no: there is no nvcc\n", text)


def test_cuda_asked_for_and_missing_is_an_error_with_the_way_out(command, monkeypatch):
    monkeypatch.setenv("SWIN_FAST_CUDA", "1")
    with pytest.raises(
        SetupError, match="but there is no nvcc. Put a toolkit's nvcc .* or name its folder in CUDA_HOME"
    ):
        command.leave_cuda_out("there is no nvcc")


def test_the_real_toolkit_is_found_and_compiles():
    from cuda_toolkit import NoCuda, architectures, check_works, find_toolkit
    from native_build import cuda_flags

    try:
        found = find_toolkit()
        flags, _ = architectures(found)
    except NoCuda as why:
        pytest.skip(f"no CUDA library can be built here: {why}")
    assert (found.home / "bin" / "nvcc").is_file()
    assert {"sm_80", "sm_90a"} <= set(flags)
    check_works(found, cuda_flags(flags))
