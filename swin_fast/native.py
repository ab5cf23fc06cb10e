"""Loads the compiled library. Importing this never fails: the reason for a missing library is kept and shown on use."""

from __future__ import annotations

loaded = False
reason = "the compiled library swin_fast._C is missing from this installation"

try:
    from . import _C  # noqa: F401
except ImportError as error:
    reason = f"the compiled library swin_fast._C did not load: {error}"
else:
    loaded, reason = True, ""
