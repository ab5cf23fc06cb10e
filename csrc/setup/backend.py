"""The PEP 517 backend: setuptools, which asks for torch only where no usable torch is installed already."""

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403
from torch_headers import find_torch


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()


def _torch() -> list[str]:
    return [] if find_torch() else ["torch>=2.10"]
