"""The CUDA toolkit: where nvcc is, which GPU architectures it is asked for, and why there is none."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from setuptools.errors import SetupError

MINIMUM = (12, 0)  # the first with sm_90a
# sm_86 and sm_89 have less shared memory than sm_80 and other clocks of the tensor cores, 9.0a is Hopper with its own
# instructions; the PTX at the end is what a GPU newer than all of them compiles when it loads the library
DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0a;10.0+PTX"
OLDEST = 80
# the family names that torch's own builds take, too
FAMILIES = {"Ampere": "8.0;8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX", "Blackwell": "10.0;12.0+PTX"}


class NoCuda(Exception):
    """Why no CUDA library is built here, as the end of a sentence that began with "no"."""


class Toolkit(NamedTuple):
    """One CUDA toolkit: ``nvcc`` as a command, ``home`` the folder that holds its bin, ``version`` as (13, 0)."""

    nvcc: str
    home: Path
    version: tuple[int, int]


def wanted() -> bool:
    """Whether SWIN_FAST_CUDA lets a CUDA library be built at all; SetupError where it is neither 0, 1 nor unset."""
    value = os.environ.get("SWIN_FAST_CUDA", "").strip()
    if value not in ("", "0", "1"):
        raise SetupError(f"SWIN_FAST_CUDA must be 0 or 1, got {value!r}")
    return value != "0"


def required() -> bool:
    return os.environ.get("SWIN_FAST_CUDA", "").strip() == "1"


def find_toolkit() -> Toolkit:
    """The toolkit that CUDA_HOME names, else that of the nvcc on PATH, which may be a script around the real one."""
    if not wanted():
        raise NoCuda("SWIN_FAST_CUDA=0 was set when it was built")
    if sys.platform != "linux":
        raise NoCuda("the CUDA library is built on Linux only")
    named = os.environ.get("CUDA_HOME", "").strip()
    nvcc = shutil.which("nvcc", path=str(Path(named, "bin"))) if named else shutil.which("nvcc")
    if nvcc is None:
        raise NoCuda(
            f"CUDA_HOME is set, but the folder bin in it has no nvcc: {named}"
            if named
            else "there is no nvcc on PATH and CUDA_HOME is not set"
        )
    version = _version(nvcc)
    if version < MINIMUM:
        raise NoCuda(f"nvcc is of CUDA {_dotted(version)}, and {_dotted(MINIMUM)} or newer is needed: {nvcc}")
    return Toolkit(nvcc, _home(nvcc), version)


def _run(*command: str) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:  # nvcc leaves temporary files behind, even from a dry run
        environment = {**os.environ, "TMPDIR": folder}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def _version(nvcc: str) -> tuple[int, int]:
    result = _run(nvcc, "--version")
    found = re.search(r"release (\d+)\.(\d+)", result.stdout)
    if found is None:
        raise NoCuda(f"nvcc does not run: {_last_line(result)}")
    return int(found[1]), int(found[2])


def _home(nvcc: str) -> Path:
    result = _run(nvcc, "--dryrun", "-x", "cu", os.devnull)
    found = re.search(r"^#\$ TOP=(.+)$", result.stderr, re.MULTILINE)
    if found is None:
        raise NoCuda(f"`nvcc --dryrun` did not print where its toolkit is (TOP=): {_last_line(result)}")
    return Path(found[1].strip()).resolve()


def _last_line(result: subprocess.CompletedProcess) -> str:
    return ((result.stderr or result.stdout).strip().splitlines() or [f"exit status {result.returncode}"])[-1]


def architectures(toolkit: Toolkit) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What to compile for: name -> flags of nvcc ("sm_90a", "compute_100" for PTX), and what is left out -> why.

    TORCH_CUDA_ARCH_LIST is read as torch reads it: "8.0;9.0a+PTX". 9.0 is built as 9.0a, whose code every 9.0 GPU runs.
    """
    text = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    asked = parse_arch_list(text or DEFAULT_ARCHITECTURES)
    found: list[str] = []
    left_out: dict[str, str] = {}
    names = []
    for number, letter, ptx in asked:
        if number < OLDEST:
            left_out[f"sm_{number}"] = "the kernels need sm_80 or newer"
            continue
        names.append(f"sm_{number}{'a' if number == 90 else letter}")
        names += [f"compute_{number}{letter}"] if ptx else []
    if not text:
        names.append("compute_90")  # taken only where the newer PTX of the default is not known to this nvcc
    for name in names:
        if not text and name == "compute_90" and "compute_100" in found:
            continue
        if _run(toolkit.nvcc, "--dryrun", *_gencode(name, [name]), "-x", "cu", os.devnull).returncode:
            left_out[name] = f"nvcc of CUDA {_dotted(toolkit.version)} does not know it"
        else:
            found.append(name)
    if not found:
        raise NoCuda(
            f"none of the architectures {'of TORCH_CUDA_ARCH_LIST' if text else 'asked for'} can be built: "
            + "; ".join(map(": ".join, left_out.items()))
        )
    return {name: _gencode(name, found) for name in found}, left_out


def _gencode(name: str, names: Iterable[str]) -> list[str]:
    """The flags of one target. Targets of one generation come from its lowest one's PTX: nvcc's front end runs once."""
    number = name.partition("_")[2]
    if name.startswith("sm_") and number.isdigit():
        number = min((n[3:] for n in names if re.fullmatch(rf"sm_{number[:-1]}\d", n)), key=int)
    return ["-gencode", f"arch=compute_{number},code={name}"]


def parse_arch_list(text: str) -> list[tuple[int, str, bool]]:
    """(80, "", False) for each entry of a TORCH_CUDA_ARCH_LIST: number, letter, whether its PTX is kept as well."""
    for family, numbers in FAMILIES.items():
        text = re.sub(rf"\b{family}\b", numbers, text)
    entries = []
    for word in re.split(r"[;,\s]+", text.strip("; ,\t")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)((?:\+PTX)*)", word)
        if match is None:
            raise SetupError(
                "TORCH_CUDA_ARCH_LIST must hold architectures like 8.0, 9.0a or 10.0+PTX, separated by ';', or one of "
                f"{', '.join(FAMILIES)}; got {word!r}"
            )
        entries.append((int(match[1] + match[2]), match[3], bool(match[4])))
    return list(dict.fromkeys(entries))


def check_works(toolkit: Toolkit, flags: list[str]) -> None:
    """NoCuda with the compiler's words where it cannot build an empty kernel: the headers or a fitting C++ compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.cu")
        source.write_text("#include <cuda_runtime.h>\n__global__ void empty() {}\n", encoding="utf-8")
        result = _run(toolkit.nvcc, *flags, str(source), "-o", str(Path(folder, "empty.so")))
    if result.returncode:
        errors = [line for line in (result.stderr + result.stdout).splitlines() if "error" in line or "fatal" in line]
        raise NoCuda(f"nvcc cannot build an empty kernel here: {(errors or [_last_line(result)])[0].strip()}")


def host_compiler_flags() -> list[str]:
    """CXX and CXXFLAGS for nvcc, which else takes the g++ on PATH."""
    compiler, *arguments = shlex.split(os.environ.get("CXX", "")) or [""]
    flags = arguments + shlex.split(os.environ.get("CXXFLAGS", ""))
    escaped = [flag.replace(",", r"\,") for flag in flags]  # nvcc takes a comma for the end of a flag
    return (["-ccbin", compiler] if compiler else []) + [f"-Xcompiler={flag}" for flag in escaped]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
