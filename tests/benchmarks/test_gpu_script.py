"""benchmarks/gpu.sh: arguments, records, time limits, and a run that goes on; its parts are played by small scripts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as commands
from benchmarks.gpu import state as states
from benchmarks.gpu.state import PARTS, State

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None or sys.platform != "linux", reason="a script for bash and GNU's timeout")

# plays python: `run PART` is the script of that name, everything else is the real thing, without importing torch
PYTHON = """#!{python}
import os, sys, types
arguments = sys.argv[3:]
assert sys.argv[1:3] == ["-m", "benchmarks.gpu"], sys.argv
if arguments[2] == "run":
    os.execv({bash!r}, [{bash!r}, os.path.join({folder!r}, arguments[3])])
package = types.ModuleType("benchmarks")
package.__path__ = [{benchmarks!r}]
sys.modules["benchmarks"] = package
from benchmarks.gpu.__main__ import main
sys.exit(main(arguments))
"""


class Machine:
    """A machine whose parts are `play`ed by scripts."""

    def __init__(self, folder: Path):
        self.folder, self.state, self.out = folder, folder / "state", folder / "out"
        self.log = folder / "ran"
        (folder / "bin").mkdir()
        names = {"python": sys.executable, "bash": BASH, "folder": str(folder), "benchmarks": str(SCRIPT.parent)}
        self.program("python", PYTHON.format(**names))
        self.program("nvidia-smi", "#!/bin/sh\nexit 9\n")  # whatever this machine has

    def program(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def play(self, **parts: str) -> None:
        for part, text in parts.items():
            (self.folder / part).write_text(f"echo {part} >>{self.log}\n{text}\n")

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PYTHON": "python", "PATH": path} | more

    def command(self, *arguments: str) -> list[str]:
        return [BASH, str(SCRIPT), "--state", str(self.state), *arguments]

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments), env=self.environment(**more), capture_output=True, text=True, timeout=60
        )

    def ran(self) -> list[str]:
        """The parts that ran since the last call."""
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return names

    def status(self, part: str) -> str:
        return State(self.state).recorded(part).status


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def alive(process: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found)


def test_the_shell_can_read_it():
    assert subprocess.run([BASH, "-n", SCRIPT], capture_output=True, text=True).stderr == ""
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck():
    assert subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fast"], "unknown option --fast"),
        (["core", "nothing"], "unknown part nothing"),
        (["--again", "nothing"], "unknown part nothing"),
        (["--out"], "--out needs a value"),
        (["--minutes", "2.5"], "--minutes needs a whole number of at least 1, got 2.5"),
        (["--minutes", "0"], "got 0"),
    ],
)
def test_arguments_it_does_not_take(machine, arguments, said):
    result = machine.run(*arguments)
    assert (result.returncode, result.stdout) == (2, "") and said in result.stderr
    assert not machine.ran() and not machine.state.exists()


def test_all_parts_in_order_unless_some_are_named(machine):
    machine.play(**dict.fromkeys(PARTS, "exit 1"))
    assert machine.run().returncode == 1 and machine.ran() == list(PARTS)


def test_list_names_every_part_and_how_it_ended(machine):
    machine.play(info="")
    machine.run("info")
    lines = machine.run("--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*PARTS, "summary"]
    assert "passed, " in lines[0] and all("not run" in line for line in lines[1:-1])


def test_help(machine):
    result = machine.run("--help")
    assert result.returncode == 0 and all(f"--{name}" in result.stdout for name in ("list", "again", "out", "minutes"))


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(machine):
    machine.play(
        info="echo 'note: no clock'",
        build="echo nvcc is broken; exit 3",
        tests=f"sleep 300 & echo $! >{machine.folder}/pid; wait",
        profile="echo fast",
    )
    result = machine.run("--out", str(machine.out), "info", "build", "tests", "profile", SWIN_FAST_GPU_LIMIT="1")
    assert result.returncode == 1 and machine.ran() == ["info", "build", "tests", "profile"]
    assert [machine.status(p) for p in ("info", "build", "tests", "profile")] == [
        "passed", "failed", "timeout", "passed",
    ]  # fmt: skip
    assert "nvcc is broken" in result.stdout and "after the limit of 1 s; run again to go on" in result.stdout
    assert not alive(int((machine.folder / "pid").read_text()))
    summary = json.loads((machine.out / "summary.json").read_text())
    assert summary["parts"]["build"]["why"] == "nvcc is broken" and summary["parts"]["info"]["notes"] == ["no clock"]
    assert summary["parts"]["core"]["status"] == "not run" and summary["machine"] == {}
    assert "==== build\nnvcc is broken\n" in (machine.out / "logs.txt").read_text()
    assert sorted(f.name for f in machine.out.iterdir()) == ["logs.txt", "summary.json", "summary.md"]


def test_a_later_run_does_what_is_left(machine):
    machine.play(info="", build="exit 1", tests="")
    assert machine.run("info", "build").returncode == 1 and machine.ran() == ["info", "build"]
    machine.play(build="")
    result = machine.run("info", "build", "tests")
    assert result.returncode == 0 and "== info: passed before" in result.stdout
    assert machine.ran() == ["build", "tests"]
    machine.play(info="exit 4")
    assert machine.run("--again", "info").returncode == 1 and machine.ran() == ["info"]
    assert machine.status("info") == "failed" and machine.status("build") == "passed"


def test_no_part_begins_when_the_minutes_are_over(machine):
    machine.play(info="")
    result = machine.run("--minutes", "1", "info", SECONDS="45")  # as if 45 s had passed when the shell started
    assert result.returncode == 1 and "no time left, run again to go on" in result.stdout and not machine.ran()
    assert machine.run("--minutes", "1", "info").returncode == 0


def test_stopped_from_outside_it_ends_the_part_and_keeps_what_is_done(machine):
    machine.play(info="", tests=f"echo $$ >{machine.folder}/pid; sleep 300")
    script = subprocess.Popen(
        machine.command("--out", str(machine.out), "info", "tests"), env=machine.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pid = machine.folder / "pid"
    assert wait_for(lambda: pid.exists() and pid.read_text().strip())
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 130
    assert wait_for(lambda: not alive(int(pid.read_text())))
    parts = json.loads((machine.out / "summary.json").read_text())["parts"]
    assert parts["info"]["status"] == "passed" and parts["tests"]["status"] == "not run"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree of one file, and a GPU by name."""
    (tmp_path / "swin_fast").mkdir()
    (tmp_path / "csrc").mkdir()
    source = tmp_path / "swin_fast" / "op.py"
    source.write_text("one")
    (tmp_path / "setup.py").write_text("")
    monkeypatch.setattr(states, "ROOT", tmp_path)
    monkeypatch.setattr(states, "gpu", lambda: "NVIDIA H100 80GB HBM3")
    states.key.cache_clear()
    yield source
    states.key.cache_clear()


def test_a_pass_holds_for_the_sources_the_torch_and_the_gpu(tree, tmp_path, monkeypatch):
    state = State(tmp_path / "state")
    state.record("core", 0, 5, 600)
    state.mark("core", "one group")
    assert state.passed("core") and state.done("core") == ["one group"]
    for change in (
        lambda: tree.write_text("two"),
        lambda: monkeypatch.setattr(states, "version", lambda package: "9.9"),
        lambda: monkeypatch.setattr(states, "gpu", lambda: "NVIDIA H200"),
    ):
        change()
        states.key.cache_clear()
        assert not state.passed("core") and state.done("core") == []
        state.record("core", 0, 5, 600)
        state.mark("core", "one group")
        assert state.passed("core")
    (tmp_path / "swin_fast" / "notes.json").write_text("{}")  # a tuner's rows are no source
    states.key.cache_clear()
    assert state.passed("core")
    state.forget("core")
    assert not state.passed("core") and state.recorded("core") is None and state.done("core") == []


def test_a_build_holds_as_long_as_the_library_is_there(tree, tmp_path):
    state = State(tmp_path / "state")
    state.record("build", 0, 5, 600)
    assert not state.passed("build")
    (tmp_path / "swin_fast" / "_C.abi3.so").write_text("")
    assert state.passed("build")


@pytest.mark.parametrize(
    ("returncode", "seconds", "status"),
    [(0, 600, "passed"), (1, 600, "failed"), (124, 600, "timeout"), (137, 610, "timeout"), (137, 20, "failed")],
)
def test_out_of_time_is_not_killed_for_memory(tree, tmp_path, returncode, seconds, status):
    assert State(tmp_path / "state").record("core", returncode, seconds, 600).status == status


def test_files_are_named_after_the_gpu(tree, tmp_path):
    state = State(tmp_path / "state")
    assert (
        state.tuned.name == "tuned-nvidia-h100-80gb-hbm3.json" and state.rows.name == "rows-nvidia-h100-80gb-hbm3.csv"
    )


@pytest.mark.parametrize("part", PARTS)
def test_without_a_gpu_every_part_says_so(tmp_path, monkeypatch, capfd, part):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(commands, "import_module", lambda *_: pytest.fail("nothing may begin"))
    assert commands.run(State(tmp_path / "state"), part) == 1
    assert f"no GPU: torch {torch.__version__} sees none" in capfd.readouterr().out


def test_parts_run_with_the_tuned_block_shapes(tree, tmp_path, monkeypatch):
    seen = {}
    module = type("Module", (), {"main": lambda state, part: seen.update({part: os.environ.get(KNOB)}) or 0})
    KNOB = "SWIN_FAST_TRITON_CONFIG"
    monkeypatch.setattr(commands, "why_no_gpu", lambda: "")
    monkeypatch.setattr(commands, "import_module", lambda *_: module)
    monkeypatch.delenv(KNOB, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    state = State(tmp_path / "state")
    commands.run(state, "core")
    state.tuned.write_text("{}")
    for part in ("tuner", "core"):
        commands.run(state, part)
    assert seen == {"tuner": None, "core": str(state.tuned)}
