"""Metadata is in pyproject.toml, the compiling in csrc/setup/native_build.py; this names the two libraries."""

import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc" / "setup"))

from native_build import CUDA, BuildNative  # noqa: E402


def files(*patterns: str) -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for pattern in patterns for file in ROOT.glob(pattern))


# what a source distribution needs beside the sources, the build's own code included
depends = files("csrc/**/*.h", "csrc/**/*.cuh", "csrc/**/*.py")
sources = {
    "swin_fast._C": files("csrc/module.cpp", "csrc/cpu/*.cpp"),
    CUDA: files("csrc/module.cpp", "csrc/cuda/*.cpp", "csrc/cuda/*.cu"),  # left out where there is no nvcc
}
setup(
    ext_modules=[Extension(name, sources[name], depends=depends, py_limited_api=True) for name in sources],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
