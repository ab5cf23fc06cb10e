"""The build's decisions: which torch, compiler, instruction sets, CUDA toolkit, and the errors that name a way out."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from setuptools.errors import SetupError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "csrc" / "setup")


def make_torch(folder: Path, version: str) -> Path:
    """A folder that looks like an installed torch of that version."""
    stable = folder / "include" / "torch" / "csrc" / "stable"
    headeronly = folder / "include" / "torch" / "headeronly"
    stable.mkdir(parents=True)
    headeronly.mkdir(parents=True)
    (stable / "library.h").touch()
    names = ("MAJOR", "MINOR", "PATCH")
    lines = [f"#define TORCH_VERSION_{name} {part}" for name, part in zip(names, version.split("."), strict=True)]
    (headeronly / "version.h").write_text("\n".join(lines))
    return folder


def test_a_torch_too_old_is_passed_over(tmp_path, monkeypatch):
    import torch_headers

    old, new = make_torch(tmp_path / "old", "2.9.1"), make_torch(tmp_path / "new", "2.10.0")
    monkeypatch.setattr(torch_headers, "_package_dirs", lambda: [tmp_path / "none", old, new])
    found = torch_headers.find_torch()
    assert found == ((2, 10, 0), new / "include", new / "lib")
    monkeypatch.setattr(torch_headers, "_package_dirs", lambda: [old])
    assert torch_headers.find_torch() is None


def test_torch_is_found_where_this_python_installs_packages(tmp_path, monkeypatch):
    import torch_headers

    monkeypatch.setattr(torch_headers.importlib.util, "find_spec", lambda name: None)  # as in an isolated build
    monkeypatch.setattr(torch_headers.sysconfig, "get_path", lambda *_, **__: str(tmp_path))
    expected = make_torch(tmp_path / "torch", "2.12.0")
    assert torch_headers.find_torch().include == expected / "include"


def test_torch_is_a_build_requirement_only_where_none_is_installed(monkeypatch):
    import backend

    monkeypatch.setattr(backend, "find_torch", lambda: None)
    monkeypatch.setattr(backend.build_meta, "get_requires_for_build_wheel", lambda settings: ["wheel"])
    assert backend.get_requires_for_build_wheel() == ["wheel", "torch>=2.10"]
    monkeypatch.setattr(backend, "find_torch", lambda: object())
    assert backend.get_requires_for_build_wheel() == ["wheel"]


def fake_compiler(folder: Path, line: str) -> list[str]:
    """A compiler that runs ``line`` of shell before it hands over to the real one."""
    script = folder / "fake-c++"
    script.write_text(f'#!/bin/sh\n{line}\nexec {shutil.which("c++")} "$@"\n')
    script.chmod(0o755)
    return [str(script)]


def test_an_unknown_flag_leaves_that_instruction_set_out(tmp_path):
    from compilers import instruction_sets

    # an old x86-64 compiler on any machine: it takes every -m flag but one
    script = tmp_path / "old-c++"
    script.write_text('#!/bin/sh\ncase "$*" in *-mavx512bf16*) exit 1;; esac\nexit 0\n')
    script.chmod(0o755)
    sets, left_out = instruction_sets([str(script)])
    assert sets == ["avx2", "avx512"]
    assert list(left_out) == ["avx512_bf16"]
    assert re.fullmatch("the compiler does not know .* -mavx512bf16", left_out["avx512_bf16"])


def test_another_machine_gets_the_portable_kernel_alone(tmp_path):
    from compilers import instruction_sets

    sets, left_out = instruction_sets(fake_compiler(tmp_path, 'set -- -U__x86_64__ "$@"'))
    assert sets == []
    assert left_out == dict.fromkeys(["avx2", "avx512", "avx512_bf16"], "the compiler's target is not x86-64")


def test_file_names_say_the_instruction_set():
    from compilers import isa_of

    names = ["window_attention.cpp", "gelu_portable.cpp", "gelu_avx512.cpp", "window_attention_avx512_bf16.cpp"]
    assert [isa_of(Path("csrc/cpu", name)) for name in names] == [None, None, "avx512", "avx512_bf16"]


@pytest.mark.parametrize("cxx, problem", [("", "no C++ compiler"), ("nowhere-c++ -m64", "CXX names 'nowhere-c++'")])
def test_no_compiler_names_the_way_out(monkeypatch, tmp_path, cxx, problem):
    from compilers import find_compiler

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(SetupError, match="install one .*apt-get install g\\+\\+.*or set CXX") as error:
        find_compiler()
    assert str(error.value).startswith(problem)


def test_cxx_may_hold_arguments(monkeypatch, tmp_path):
    from compilers import find_compiler

    (compiler,) = fake_compiler(tmp_path, "")
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    assert find_compiler() == [compiler, "-m64"]


@pytest.mark.parametrize("jobs", ["0", "-1", "all"])
def test_max_jobs_must_be_a_number(monkeypatch, tmp_path, jobs):
    from ninja_file import run_ninja

    monkeypatch.setenv("MAX_JOBS", jobs)
    with pytest.raises(SetupError, match=f"MAX_JOBS must be a number of at least 1, got '{jobs}'"):
        run_ninja(tmp_path / "build.ninja", tmp_path)


def test_ninja_rebuilds_what_a_header_changes_and_nothing_else(monkeypatch, tmp_path):
    from compilers import find_compiler
    from ninja_file import Library, Unit, ninja_text, run_ninja

    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    folder = tmp_path / "a $folder: with spaces"
    folder.mkdir()
    (folder / "one.h").write_text("int one();\n")
    (folder / "one.cpp").write_text('#include "one.h"\nint one() { return 1; }\n')
    (folder / "two.cpp").write_text("int two() { return 2; }\n")
    (folder / "other.cpp").write_text("int other() { return VALUE; }\n")
    compile = [*find_compiler(), "-fPIC"]
    units = [Unit(folder / f"{name}.cpp", folder / f"{name}.o", compile, []) for name in ("one", "two")]
    other = Unit(folder / "other.cpp", folder / "other.o", [*compile, "-O1"], ["-DVALUE=1"])
    link = [*find_compiler(), "-shared"]
    libraries = [Library(folder / "library.so", units, link, []), Library(folder / "second.so", [other], link, [])]
    ninja_file = folder / "build.ninja"
    ninja_file.write_text(ninja_text(libraries, folder))

    def built() -> list[int]:
        run_ninja(ninja_file, folder)
        files = (libraries[0].target, units[0].object, units[1].object, libraries[1].target, other.object)
        return [p.stat().st_mtime_ns for p in files]

    first = built()
    assert built() == first
    (folder / "one.h").write_text("int one();\nint three();\n")
    second = built()
    assert [a != b for a, b in zip(first, second, strict=True)] == [True, True, False, False, False]


def test_a_compile_error_is_one_line_after_the_compilers_own(monkeypatch, tmp_path):
    from compilers import find_compiler
    from ninja_file import Library, Unit, ninja_text, run_ninja

    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    (tmp_path / "bad.cpp").write_text("int f( {\n")
    unit = Unit(tmp_path / "bad.cpp", tmp_path / "bad.o", find_compiler(), [])
    library = Library(tmp_path / "bad.so", [unit], [*find_compiler(), "-shared"], [])
    (tmp_path / "build.ninja").write_text(ninja_text([library], tmp_path))
    with pytest.raises(SetupError, match="the libraries did not compile"):
        run_ninja(tmp_path / "build.ninja", tmp_path)
