"""Metadata is in pyproject.toml, the compiling in csrc/setup/native_build.py; this names the extension."""

import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc" / "setup"))

from native_build import BuildNative  # noqa: E402

sources = [ROOT / "csrc" / "module.cpp", *ROOT.glob("csrc/cpu/*.cpp")]
extension = Extension(
    "swin_fast._C",
    sources=sorted(str(source.relative_to(ROOT)) for source in sources),
    # what a source distribution needs beside the sources, the build's own code included
    depends=sorted(str(file.relative_to(ROOT)) for end in ("h", "py") for file in ROOT.glob(f"csrc/**/*.{end}")),
    py_limited_api=True,
)
setup(
    ext_modules=[extension],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
