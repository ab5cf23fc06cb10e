"""The stand-in's ptx.cuh has what the kernels' own has: the same functions, with the same parameters."""

from __future__ import annotations

import re

import pytest

from .compiler import HERE

CUDA = HERE.parents[1] / "csrc" / "cuda"


def functions(text: str) -> dict[str, tuple[str, ...]]:
    """name -> (result, parameters...) of each function; the stand-in's `Where` is left out."""
    found = re.findall(r"^(?:__device__ __forceinline__|inline)\s+([\w *]*?)(\w+)\((.*?)\)\s*\{", text, re.S | re.M)
    parameters = {name: [" ".join(p.split()) for p in given.split(",")] for _, name, given in found}
    results = {name: result.strip() for result, name, _ in found}
    return {n: (results[n], *(p for p in ps if not p.startswith("Where "))) for n, ps in parameters.items()}


def test_the_same_functions():
    kernels, standin = (
        functions(p.read_text(encoding="utf-8")) for p in (CUDA / "ptx.cuh", HERE / "include" / "ptx.cuh")
    )
    kernels.pop("shared_address")  # an address as PTX wants it: used in that file alone
    assert len(kernels) > 10 and standin == kernels


@pytest.mark.parametrize("path", sorted(CUDA.glob("*.cuh")), ids=lambda p: p.name)
def test_only_ptx_cuh_has_assembly_and_static_shared_memory(path):
    text = path.read_text(encoding="utf-8")
    assert (re.search(r"\basm\b|__shared__", text) is not None) == (path.name == "ptx.cuh")
    assert "torch" not in re.findall(r'#include [<"](\w+)', text)
