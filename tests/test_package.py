"""What was installed loads, says how it was built, and works (slowly) where the library is missing or broken."""

import re
import shutil
import struct
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import torch

import swin_fast
from swin_fast import native

ROOT = Path(__file__).parents[1]
PACKAGE = Path(swin_fast.__file__).parent
LIBRARY, CUDA_LIBRARY = PACKAGE / "_C.abi3.so", PACKAGE / "_C_cuda.abi3.so"


def test_library_is_loaded():
    assert native.loaded, native.reason
    assert native.reason == ""
    assert Path(sys.modules["swin_fast._C"].__file__) == LIBRARY


def test_build_info():
    info = native.build_info()
    assert info["version"] == swin_fast.__version__
    assert info["cpu"][0] == "portable"
    assert set(info["cpu"]) | set(info["cpu_left_out"]) == {"portable", "avx2", "avx512", "avx512_bf16"}
    assert not set(info["cpu"]) & set(info["cpu_left_out"])
    assert [int(part) for part in info["torch_headers"].split(".")] >= [2, 10]
    assert info["compiler"] and str(Path.home()) not in str(info)
    assert bool(info["cuda"]) != bool(info["cuda_reason"])
    assert all(re.fullmatch(r"(sm|compute)_\d+[af]?", name) for name in [*(info["cuda"] or []), *info["cuda_left_out"]])


def test_one_version_everywhere():
    assert version("swin_fast") == swin_fast.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", swin_fast.__version__)


def test_installed_files():
    (photograph,) = (PACKAGE / "data").glob("*.jpg")
    assert photograph.read_bytes()[:2] == b"\xff\xd8"
    assert len((PACKAGE / "data" / "imagenet1k_labels.txt").read_text(encoding="utf-8").split("\n")) >= 1000


def test_command_is_an_entry_point():
    (command,) = entry_points(group="console_scripts", name="swin-fast")
    assert callable(command.load())


# a float32 call whose result is known: one token in a window attends to itself alone, so out is v
CALL = """
import warnings, torch, swin_fast
from swin_fast import native
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    qkv = torch.arange(24.0).reshape(1, 2, 2, 6)
    for _ in range(2):
        out = swin_fast.functional.window_attention(qkv, num_heads=1, window_size=1)
assert torch.equal(out, qkv[..., 4:]), out
print(native.loaded, native.build_info() == {}, len(caught))
print(native.reason)
print(*(str(w.message) for w in caught))
"""


def call_in(folder: Path) -> list[str]:
    result = subprocess.run([sys.executable, "-c", CALL], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def bare_copy(tmp_path):
    """The package without what the build made; run with this folder as the working one, it is the one imported."""
    ignore = shutil.ignore_patterns("*.so", "_build.json", "__pycache__", "data")
    shutil.copytree(PACKAGE, tmp_path / "swin_fast", ignore=ignore)
    return tmp_path


def test_missing_library_is_said_once_and_does_not_stop_the_op(bare_copy):
    state, reason, warning = call_in(bare_copy)
    assert state == "False True 1"
    assert reason == f"the compiled library swin_fast._C is missing from {bare_copy / 'swin_fast'}"
    assert warning == f"swin_fast: window attention runs as plain PyTorch, because {reason}"


def test_broken_library_is_told_from_a_missing_one(bare_copy):
    (bare_copy / "swin_fast" / "_C.abi3.so").write_bytes(b"no library")
    state, reason, warning = call_in(bare_copy)
    assert state == "False True 1"
    assert reason.startswith("the compiled library swin_fast._C did not load with torch 2.") and "_C.abi3.so" in reason
    assert reason in warning


def test_installed_library_runs_without_a_warning(tmp_path):
    (tmp_path / "swin_fast").symlink_to(PACKAGE)
    assert call_in(tmp_path)[:2] == ["True False 0", ""]


def test_cuda_library_is_loaded_where_it_was_built_and_torch_has_cuda():
    built, reason = native.build_info()["cuda"], native.cuda_reason
    assert native.cuda_loaded == (reason == "") == bool(built and torch.version.cuda)
    if native.cuda_loaded:
        assert Path(sys.modules["swin_fast._C_cuda"].__file__) == CUDA_LIBRARY
    elif torch.version.cuda:
        assert reason == f"the CUDA library was not built: {native.build_info()['cuda_reason']}"
    else:
        assert reason == f"torch {torch.__version__} is built without CUDA"


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
@pytest.mark.parametrize("library", [LIBRARY, CUDA_LIBRARY], ids=lambda p: p.name)
def test_library_needs_only_the_stable_abi(library):
    if library == CUDA_LIBRARY and not library.is_file():
        pytest.skip(f"there is no CUDA library: {native.build_info()['cuda_reason']}")
    undefined = undefined_symbols(library.read_bytes())
    a_few = {LIBRARY: "torch_parallel_for", CUDA_LIBRARY: "aoti_torch_get_current_cuda_stream"}
    assert {"torch_library_impl", a_few[library]} <= undefined  # the reading works
    assert not [s for s in undefined if s.startswith("cuda") or re.match("cu[A-Z]", s)]  # the runtime is inside
    unstable = [s for s in undefined if re.match(r"_Z\w*?(3c10|2at|5torch|5caffe)", s)]
    assert not unstable
    assert {s for s in undefined if s.startswith("Py")} <= {"PyModule_Create2", "PyModuleDef_Init"}


def undefined_symbols(elf: bytes) -> set[str]:
    """The dynamic symbols that a 64-bit little-endian ELF file takes from elsewhere."""
    assert elf[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    # name, type, flags, address, offset, size, link, info, alignment, entry size
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)]
    (symbols,) = (s for s in sections if s[1] == 11)  # SHT_DYNSYM
    strings = sections[symbols[6]][4]
    found = set()
    for offset in range(symbols[4], symbols[4] + symbols[5], symbols[9]):
        name, _, _, section = struct.unpack_from("<IBBH", elf, offset)
        if section == 0 and name:
            start = strings + name
            found.add(elf[start : elf.index(b"\0", start)].decode())
    return found


def test_no_machine_paths_in_the_sources():
    text = re.compile(r"(?<![\w.])/" + r"(?:home|root|work|Users|opt)/\w|\b[A-Z]:\\\\?Users")
    suffixes = {".py", ".cpp", ".c", ".h", ".cu", ".cuh", ".md", ".toml", ".txt", ".json", ".csv", ".in", ""}
    folders = [ROOT / name for name in ("swin_fast", "csrc", "tests", "benchmarks", ".ci")]
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and p.suffix in suffixes]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in suffixes and p.name != ".git"]
    assert len(files) > 20
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in files for m in text.finditer(p.read_text(encoding="utf-8"))]
    assert not found


def test_ci_runs_the_command_of_the_readme():
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    assert command.endswith("pytest")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
