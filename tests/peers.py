"""Lets torchvision import beside a torch that its compiled operators were not built for."""

from __future__ import annotations

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")
_OPERATORS = ("nms", "qnms")  # torchvision's Python registers formulas for these at import; its C++ would define them


def define_torchvision_operators() -> None:
    """Define what torchvision's import needs, where torchvision (timm and transformers import it too) fails without."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return  # the test that needs it skips by itself
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in _OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
