"""What is measured, and how: `python -m benchmarks.attention | memory | models`, and `pytest benchmarks`."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

if not list((_ROOT / "swin_fast").glob("_C.*")):
    # `python -m` puts the source tree first, where nothing is built; so the installed package is imported before it
    _path = sys.path[:]
    sys.path[:] = [entry for entry in _path if Path(entry).resolve() != _ROOT]
    try:
        import swin_fast  # noqa: F401
    except ModuleNotFoundError:
        pass  # the source tree's own import then says what is missing
    finally:
        sys.path[:] = _path
