"""The gate runs its tests once for a tree, and names those that fail."""

from pathlib import Path

import pytest

from benchmarks import gate


@pytest.fixture
def tree(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "kernel.cpp"
    source.write_text("1")
    monkeypatch.setattr(gate, "sources", lambda: [source])
    return source


def test_green_is_remembered_for_the_very_tree(tree, monkeypatch):
    ran, failing = [], []
    monkeypatch.setattr(gate, "run", lambda tests: ran.append(tests) or failing)
    assert gate.red() == [] and gate.red() == [] and len(ran) == 1
    tree.write_text("2")
    failing.append("tests/x.py::test_y")
    assert gate.red() == failing and gate.red() == failing and len(ran) == 3  # red is not remembered
    tree.write_text("1")
    assert gate.red() == [] and len(ran) == 3
    gate.cache_file().write_text("{half a file")
    failing.clear()
    assert gate.red() == [] and len(ran) == 4


def test_failing_tests_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    (tmp_path / "test_x.py").write_text(
        """
import pytest

@pytest.mark.parametrize("what", ["a b", "c"])
def test_one(what):
    assert what == "c"

def test_two():
    pass
"""
    )
    (tmp_path / "test_y.py").write_text("import no_such_module")
    assert gate.run(["test_x.py"]) == ["test_x.py::test_one[a b]"]
    assert gate.run(["test_x.py::test_two"]) == []
    assert gate.run(["test_y.py"]) == ["test_y.py"]
    (no_file,) = gate.run(["test_z.py"])
    assert "file or directory not found: test_z.py" in no_file


def test_the_list_exists_and_what_it_depends_on_is_hashed():
    files = gate.sources()
    tests = [gate.ROOT / name for name in gate.TESTS + gate.GPU_TESTS]
    assert all(test in files for test in tests)
    names = {Path(file).name for file in files}
    assert {"functional.py", "window_attention.cpp", "window_attention_kernel.h", "cases.py", "weights.py"} <= names
    assert any(name.startswith("_C.") for name in names)


def test_a_fingerprint_has_names_and_contents(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_text("1")
    two.write_text("2")
    first = gate.fingerprint([one, two], tmp_path)
    one.write_text("2")
    second = gate.fingerprint([one, two], tmp_path)
    two.write_text("1")
    assert len({first, second, gate.fingerprint([one, two], tmp_path), gate.fingerprint([two], tmp_path)}) == 4
