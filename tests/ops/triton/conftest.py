"""The tests in `interpreted` need TRITON_INTERPRET=1 before Triton is imported; `test_interpreter` runs them so."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
