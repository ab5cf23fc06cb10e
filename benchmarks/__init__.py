"""What is measured, and how: `python -m benchmarks.run`, and `pytest benchmarks`."""

import os
import sys
from pathlib import Path

BASE_VARIABLE = "SWIN_FAST_BENCHMARK_BASE"  # a folder with the swin_fast to time, instead of this tree's: see base.py
_ROOT = Path(__file__).resolve().parents[1]

if BASE_VARIABLE in os.environ:
    sys.path.insert(0, os.environ[BASE_VARIABLE])
    import swin_fast  # noqa: F401

    del sys.path[0]  # its tests and benchmarks are not meant
elif not list((_ROOT / "swin_fast").glob("_C.*")):
    # `python -m` puts the source tree first, where nothing is built; so the installed package is imported before it
    _path = sys.path[:]
    sys.path[:] = [entry for entry in _path if Path(entry).resolve() != _ROOT]
    try:
        import swin_fast  # noqa: F401
    except ModuleNotFoundError:
        pass  # the source tree's own import then says what is missing
    finally:
        sys.path[:] = _path
