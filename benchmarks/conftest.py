"""`pytest benchmarks --benchmark-only`: which groups are timed, and with what."""

from __future__ import annotations

import pytest

from . import child, registry


def pytest_addoption(parser):
    options = parser.getgroup("swin_fast benchmarks")
    options.addoption("--groups", action="append", metavar="PATTERN", help="groups to time, as shell patterns")
    options.addoption("--device", choices=("cpu", "cuda"), default="cpu")
    options.addoption("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options.addoption("--rounds", type=int, default=15, help="samples of each candidate (default: 15)")
    options.addoption("--compiled", action="store_true", help="every candidate under torch.compile, too")


@pytest.fixture(scope="session")
def settings(request) -> child.Settings:
    option = request.config.getoption
    return child.Settings(option("--threads"), "default", option("--rounds"), option("--compiled"), option("--device"))


def pytest_generate_tests(metafunc):
    """A test for each candidate of each chosen group, a group's together."""
    if "candidate" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    device = option("--device")
    groups = registry.select(option("--groups") or registry.DEFAULT, device)
    pairs = [(group, name) for group in groups for name in group.names(device, option("--compiled"))]
    ids = [f"{group.name}-{name}".replace(" ", "_") for group, name in pairs]
    metafunc.parametrize(("group", "candidate"), pairs, ids=ids)
