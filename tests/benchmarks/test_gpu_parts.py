"""The parts of benchmarks/gpu.sh as far as they need no GPU: commands, resumption, and what other tools print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks import run as runner
from benchmarks.gpu import build, counters, info, profiler, sanitizer, small_calls, suites, tests, tuner
from benchmarks.gpu import state as states
from benchmarks.gpu.state import State
from swin_fast.triton_kernels import tune, tuning

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def state(tmp_path, monkeypatch) -> State:
    monkeypatch.setattr(states, "gpu", lambda: GPU)
    states.key.cache_clear()
    yield State(tmp_path / "state")
    states.key.cache_clear()


@pytest.fixture
def bin(tmp_path, monkeypatch):
    """A folder that is all of PATH, and a way to put programs into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def program(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return program


@pytest.fixture
def ran(monkeypatch):
    """The commands that parts start; none of them runs, and `statuses` has what they exit with by a word in them."""
    commands = []

    def run(command, **_):
        commands.append(list(map(str, command)))
        found = [status for word, status in run.statuses.items() if word in commands[-1]]
        return subprocess.CompletedProcess(command, found[0] if found else 0, run.said, "")

    run.statuses, run.said, run.commands = {}, "", commands
    monkeypatch.setattr(subprocess, "run", run)
    return run


CLEAN = "========= COMPUTE-SANITIZER\ntriton: 17 calls, 0 wrong\n========= ERROR SUMMARY: 0 errors\n"
BROKEN = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 2 bytes
=========     at window_attention_forward+0x1f0
=========     by thread (3,0,0) in block (0,0,0)
=========     Address 0x7f0000000200 is out of bounds
=========
========= ERROR SUMMARY: 3 errors
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at window_attention_backward+0x8a0
=========     and Read access at window_attention_backward+0x9b0 [16 hazards]
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""


@pytest.mark.parametrize(
    ("text", "errors", "warnings", "first"),
    [
        (CLEAN, 0, 0, None),
        (BROKEN, 3, 0, "Invalid __global__ read of size 2 bytes"),
        (RACE, 1, 1, "Error: Race reported between Write access at window_attention_backward+0x8a0"),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, 0, None),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (0 errors, 0 warnings)\n", 0, 3, None),
        (CLEAN + BROKEN, 3, 0, "Invalid __global__ read of size 2 bytes"),
        ("========= Error: Device not supported. Please refer to the documentation\n", None, 0, "Error: Device not"),
        ("Segmentation fault\n", None, 0, None),
    ],
)
def test_what_the_sanitizer_found(text, errors, warnings, first):
    verdict = sanitizer.read(text)
    assert (verdict.errors, verdict.warnings) == (errors, warnings)
    assert verdict.said[0].startswith(first) if first else verdict.said == ()


def test_each_tool_with_each_backend_until_it_is_clean(state, bin, ran, monkeypatch, capsys):
    bin("compute-sanitizer", "")
    monkeypatch.setattr(sanitizer.native, "cuda_loaded", True)
    monkeypatch.setattr(sanitizer, "version", lambda name: "3.6.0")
    ran.said, ran.statuses = CLEAN, {"racecheck": 99}
    assert sanitizer.main(state, "sanitizer") == 1
    assert [(c[c.index("--tool") + 1], c[-1]) for c in ran.commands] == [
        (tool, backend) for backend in ("triton", "cuda") for tool in ("memcheck", "racecheck", "synccheck")
    ]
    assert all(command[0] == "compute-sanitizer" and "99" in command for command in ran.commands)
    assert not state.found("sanitizer")["racecheck, triton"]["passed"], "an exit status is an error, too"
    ran.commands.clear()
    ran.statuses, ran.said = {}, BROKEN
    assert sanitizer.main(state, "sanitizer") == 1 and len(ran.commands) == 2
    assert "Invalid __global__ read" in capsys.readouterr().out
    ran.said = CLEAN
    assert sanitizer.main(state, "sanitizer") == 0
    assert all(entry["passed"] for entry in state.found("sanitizer").values()) and len(state.found("sanitizer")) == 6


def test_no_sanitizer_is_a_failure(state, bin, capsys):
    assert sanitizer.main(state, "sanitizer") == 1 and "compute-sanitizer is not on PATH" in capsys.readouterr().out


@pytest.mark.parametrize(("case", "mode"), [small_calls.work()[0], small_calls.work()[2], small_calls.work()[-1]])
def test_small_calls_tell_right_from_wrong(case, mode, monkeypatch):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        assert small_calls.wrong(case, mode, "cpu", "cpu") == ""
        run = small_calls.testing.run

        def off(tensors, options, backend):
            found = run(tensors, options, backend)
            return {**found, "grad q": found["grad q"].roll(1, 1) / 0} if backend == "cpu" else found

        monkeypatch.setattr(small_calls.testing, "run", off)
        assert "grad q" in small_calls.wrong(case, mode, "cpu", "cpu")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


HEAD = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device",'
    '"CC","Section Name","Metric Name","Metric Unit","Metric Value"\n'
)


def ncu(launch: int, kernel: str, **values: str) -> str:
    names = dict(zip(("time", "read", "written", "active", "possible", "registers"), counters.METRICS, strict=True))
    place = f'"{launch}","42","python3.12","localhost","{kernel}","1","7","(128, 1, 1)","(396, 1, 1)","0","9.0",""'
    return "".join(f'{place},"{names[k]}",{v}\n' for k, v in values.items())


def test_what_ncu_counted():
    text = "==PROF== Connected to process 42\ntriton said\n" + HEAD
    text += ncu(
        0, "window_attention_forward", time='"ns","61,440"', read='"byte","115,605,504"', written='"byte","38,535,168"',
        active='"%","33.5"', possible='"%","37.5"', registers='"register/thread","168"',
    ) + ncu(
        1, "void swin_fast::window_attention_backward<(Mode)2, 32>(CudaParams)", time='"us","0.25"',
        read='"Mbyte","1.5"', written='"Kbyte","2"', active='"%","n/a"', possible='"%","50"', registers='"","255"',
    )  # fmt: skip
    (first,) = counters.parse(text + "==PROF== Disconnected from process 42\n")
    assert first == counters.Kernel("window_attention_forward", pytest.approx(61.44e-6), 154140672, 33.5, 37.5, 168)
    (_, second) = counters.parse(text.replace('"n/a"', '"25"'))
    assert (second.seconds, second.bytes, second.occupancy) == (pytest.approx(0.25e-6), 1502000, 25)
    assert second.name == "window_attention_backward"


@pytest.mark.parametrize("text", ["", "==ERROR== ERR_NVGPUCTRPERM - no permission\n", HEAD])
def test_ncu_that_counted_nothing(text):
    assert counters.parse(text) == []


def test_ncu_that_may_not_count_is_a_remark(state, bin, monkeypatch, capsys):
    assert profiler.kernels(["cuda"], 3e12) == [] and "note: ncu is missing" in capsys.readouterr().out
    bin("ncu", "echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1")
    assert profiler.kernels(["cuda"], 3e12) == [] and "note: ncu counted nothing of" in capsys.readouterr().out


def test_kernels_of_each_stage(bin, tmp_path):
    kernel = ncu(
        0, "window_attention_backward", time='"ns","1000"', read='"byte","1000000"', written='"byte","500000"',
        active='"%","30"', possible='"%","40"', registers='"","128"',
    )  # fmt: skip
    (tmp_path / "said").write_text(HEAD + kernel)
    bin("ncu", f'/bin/echo "$@" >>{tmp_path}/asked; /bin/cat {tmp_path}/said')
    lines = profiler.kernels(["cuda", "triton"], 3e12)
    assert [(line.stage[-1], line.backend) for line in lines] == [(n, b) for n in "1234" for b in ("cuda", "triton")]
    assert {line.direction for line in lines} == {"backward"}
    assert (lines[0].gbytes, lines[0].share) == (pytest.approx(1500), pytest.approx(0.5))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 8 and all("--clock-control none" in line for line in asked), "the clocks are others' too"
    file = tmp_path / "profile.csv"
    profiler.write(file, lines[:1])
    assert len(file.read_text().splitlines()) == 2


def test_bytes_that_must_move():
    case = profiler.STAGES["Swin-B stage 2"]
    tokens = 64 * 28 * 28
    assert profiler.least_bytes(case, False) == 8 * tokens * 256
    assert profiler.least_bytes(case, True) == 14 * tokens * 256


def test_bytes_that_the_triton_kernels_ask_for(monkeypatch):
    """At the stages of Swin-T they are the floor, and the partial sums of the table's gradient."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    device = profiler.dispatch.Device("cuda", 0, GPU, (9, 0))
    monkeypatch.setattr(profiler.dispatch, "describe", lambda _: device)
    for case in profiler.STAGES.values():
        assert profiler.asked_bytes(case, False) == profiler.least_bytes(case, False)
        assert 1 < profiler.asked_bytes(case, True) / profiler.least_bytes(case, True) < 1.02


@pytest.mark.parametrize("backward", [False, True])
def test_what_is_profiled_is_the_op(backward):
    """On the CPU it is the same op: outputs and gradients of the formula."""
    case = replace(profiler.STAGES["Swin-T stage 3"], batch=1)
    given, grad = profiler.arguments(case, "cpu")
    found = profiler.call_of(case, backward, "cpu")()
    tensors = {"qkv": given[0].double().requires_grad_(), "bias_table": given[1].double().requires_grad_()}
    options = {"num_heads": 12, "window_size": 7, "shift_size": 3}
    with small_calls.dispatch.use_backend("reference"):
        out = small_calls.testing.window_attention(**tensors, **options)
    want = torch.autograd.grad(out, list(tensors.values()), grad.double()) if backward else (out,)
    for got, exact in zip(found, want, strict=False):
        assert got.shape == exact.shape and (got - exact).abs().max() < 0.02 * exact.abs().max()


def test_what_this_machine_is(bin, monkeypatch):
    values = "NVIDIA X, 580.1, 9.0, 80 GiB, 345 MHz, 1980 MHz, 2619 MHz, 2619 MHz, 700 W, 31, Enabled"
    bin("nvidia-smi", f'echo "{values}"')
    bin("nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("SWIN_FAST_COMMIT", "abc1234")
    card = SimpleNamespace(
        name="NVIDIA X", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, L2_cache_size=50 << 20
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    info.rows.commit.cache_clear()
    facts = info.collect()
    info.rows.commit.cache_clear()
    assert facts["gpu"] == "NVIDIA X" and facts["capability"] == "9.0" and facts["L2"] == "50 MiB"
    assert facts["nvidia-smi driver_version"] == "580.1" and facts["nvidia-smi clocks.max.sm"] == "1980 MHz"
    assert facts["nvcc"] == "13.0, V13.0.88" and facts["commit"] == "abc1234", "there is no git on this PATH"
    lines = info.missing()
    assert any("compute-sanitizer is missing" in line for line in lines) and not any(
        "nvcc is" in line for line in lines
    )


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, {"TORCH_CUDA_ARCH_LIST": "8.0;9.0", "SWIN_FAST_CUDA": "1", "MAX_JOBS": "3"}),
        (
            {"TORCH_CUDA_ARCH_LIST": "9.0a", "SWIN_FAST_CUDA": "0", "MAX_JOBS": "2"},
            {"TORCH_CUDA_ARCH_LIST": "9.0a", "SWIN_FAST_CUDA": "0", "MAX_JOBS": "2"},
        ),
    ],
)
def test_the_build_is_for_the_gpus_that_are_here(monkeypatch, given, want):
    monkeypatch.setattr(build, "nvcc", lambda: "13.0")
    monkeypatch.setattr(build, "memory_gib", lambda: 11)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: [(9, 0), (8, 0), (9, 0)][i])
    assert build.settings(dict(given)) == want


def test_without_nvcc_the_build_asks_for_no_cuda(monkeypatch):
    monkeypatch.setattr(build, "nvcc", lambda: "")
    assert set(build.settings({})) == {"MAX_JOBS"}


@pytest.mark.parametrize("why", ["", "there is no nvcc"])
@pytest.mark.parametrize("fails", ["", "setup.py", "-c"])
def test_a_build_that_does_not_load_has_failed(state, ran, monkeypatch, tmp_path, capsys, why, fails):
    (tmp_path / "swin_fast").mkdir()
    (tmp_path / "swin_fast" / "_build.json").write_text(json.dumps({"cuda_reason": why}))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "settings", lambda environment: environment)
    ran.statuses = {fails: 1} if fails else {}
    assert build.main(state, "build") == bool(fails)
    assert ran.commands[0][1:] == ["setup.py", "build_ext", "--inplace"]
    if fails != "setup.py":
        assert ("cuda_loaded)" in ran.commands[1][2]) == (not why), "a library that was built must load"
        assert ("note: no CUDA library: there is no nvcc" in capsys.readouterr().out) == bool(why)


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.ops.test_gpu" name="test_cuda_graph[cuda]"/>
<testcase classname="tests.ops.test_gpu" name="test_autocast"><failure message="off">trace</failure></testcase>
<testcase classname="tests.ops.test_gpu" name="test_broken"><error message="no module">trace</error></testcase>
<testcase classname="tests.ops.test_gpu" name="test_two"><skipped message="needs a second GPU"/></testcase>
<testcase classname="tests.ops.test_gpu" name="test_three"><skipped message="needs a second GPU"/></testcase>
</testsuite></testsuites>"""


def test_what_pytest_reports(tmp_path):
    (tmp_path / "tests.xml").write_text(JUNIT)
    found = tests.read(tmp_path / "tests.xml")
    assert found["passed"] == 1 and found["skipped"] == {"needs a second GPU": 2}
    assert found["failed"] == ["tests.ops.test_gpu::test_autocast", "tests.ops.test_gpu::test_broken"]
    assert tests.skipped({"a": found, "b": found}) == {"needs a second GPU": 4}


def test_the_files_that_need_a_gpu(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("@pytest.mark.gpu\ndef test(): pass\n")
    (tmp_path / "tests" / "test_b.py").write_text("def test(): pass  # no pytest.mark.gpu\n")
    (tmp_path / "tests" / "test_c.py").write_text("pytestmark = [pytest.mark.gpu]\n@pytest.mark.slow\n")
    assert tests.steps(tmp_path / "tests") == [
        ("tests/test_a.py", "tests/test_a.py", False),
        ("tests/test_c.py", "tests/test_c.py", False),
        ("tests/test_c.py, slow", "tests/test_c.py", True),
    ]
    here = {file for _, file, _ in tests.steps()}
    assert here >= {"tests/ops/test_gpu.py", "tests/cli/test_measure.py", "tests/cuda/test_boundary.py"}
    assert __name__.rpartition(".")[2] not in {file.rpartition("/")[2].removesuffix(".py") for file in here}


def test_each_file_of_tests_until_it_passes(state, ran, monkeypatch):
    monkeypatch.setattr(tests, "version", lambda name: "8.0")
    monkeypatch.setattr(tests, "steps", lambda: [("a", "a.py", False), ("a, slow", "a.py", True), ("b", "b.py", False)])
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    ran.statuses = {"gpu and slow": 1}
    assert tests.main(state, "tests") == 1 and [c[-1] for c in ran.commands] == ["a.py", "a.py", "b.py"]
    assert [c[1:5] for c in ran.commands[:2]] == [["-m", "pytest", "-m", f"gpu and {n}slow"] for n in ("not ", "")]
    assert ["-n" in command for command in ran.commands] == [True, False, True], "huge maps one at a time"
    ran.commands.clear()
    ran.statuses = {}
    assert tests.main(state, "tests") == 0 and [c[4] for c in ran.commands] == ["gpu and slow"]


@pytest.mark.parametrize("status", [0, 1])
def test_without_pytest_verify_runs(state, ran, monkeypatch, capsys, status):
    monkeypatch.setattr(tests, "version", lambda name: "")
    monkeypatch.setattr(tests.native, "cuda_loaded", True)
    ran.statuses = {"verify": status}
    assert tests.main(state, "tests") == status
    assert [command[1:] for command in ran.commands] == 2 * [["-m", "swin_fast", "verify", "--device", "cuda"]]
    assert "note: the package pytest is missing" in capsys.readouterr().out


class Clock(ModuleType):
    """Plays the tuner's timing module: two warps are best, and one kind of call does not run."""

    def __init__(self):
        super().__init__("timing")
        self.timed = []

    def on_this_gpu(self):
        return self.time, GPU, {"torch": "2.11.0", "triton": "3.6.0"}

    def time(self, variant, backward, config) -> float:
        self.timed.append((variant.tokens, backward))
        if variant.tokens == self.broken:
            raise tuning.CannotRun("out of shared memory")
        return 1e-4 if config.num_warps == 2 else 2e-4

    broken = 144


def test_the_tuner_goes_on_where_it_was_stopped(state, monkeypatch, tmp_path, capsys):
    clock = Clock()
    monkeypatch.setitem(sys.modules, "swin_fast.triton_kernels.timing", clock)
    monkeypatch.setattr(sys.modules["swin_fast.triton_kernels"], "timing", clock, raising=False)
    monkeypatch.setattr(tuning, "FOLDER", tmp_path / "configs")
    monkeypatch.setattr(tuner, "KINDS", [("7x7", 32, "bf16"), ("12x12", 32, "bf16"), ("8x8", 32, "bf16")])
    assert tuner.main(state, "tuner") == 1 and "out of shared memory" in capsys.readouterr().out
    rows = tuning.read(state.tuned, GPU)
    assert {key.tokens for key in rows} == {49, 64} and len(rows) == 4
    assert not tuning.FOLDER.exists(), "the package stays what its commit is"
    assert state.found("tuner")["forward, 7x7, head_dim 32, bf16"] == 2.0
    clock.timed.clear()
    Clock.broken = None
    try:
        assert tuner.main(state, "tuner") == 0 and {tokens for tokens, _ in clock.timed} == {144}
    finally:
        Clock.broken = 144
    assert len(tuning.read(state.tuned, GPU)) == 6


def test_the_tuner_knows_its_kinds():
    for window, head_dim, dtype in tuner.KINDS:
        assert window in tune.WINDOWS and head_dim in tune.HEAD_DIMS and dtype in tuning.DTYPES
    assert len(set(tuner.KINDS)) == len(tuner.KINDS)


def test_groups_until_each_is_timed(state, ran, monkeypatch):
    monkeypatch.setitem(suites.PATTERNS, "core", ("core/swin_t-*/b64/bfloat16/*",))
    ran.statuses = {"core/swin_t-stage2/b64/bfloat16/forward": 1}
    assert suites.main(state, "core") == 1
    groups = [command[3] for command in ran.commands]
    assert len(groups) == 8 and all(name.startswith("core/swin_t-stage") for name in groups)
    ran.commands.clear()
    ran.statuses = {}
    assert suites.main(state, "core") == 0
    (command,) = ran.commands
    assert command[1:4] == ["-m", "benchmarks.run", "core/swin_t-stage2/b64/bfloat16/forward"]
    args = runner.parser().parse_args(command[3:])
    assert (args.device, args.csv, args.compiled) == ("cuda", state.rows, True)


@pytest.mark.parametrize("part", suites.PATTERNS)
def test_every_pattern_finds_groups_for_a_gpu(part):
    steps = suites.steps_of(part)
    assert len(set(steps)) == len(steps) and all("float16" in name for name, _ in steps)
    assert any(compiled for _, compiled in steps)


def test_the_table_of_both_issues_is_timed():
    """Four stages of two models, each way at batch 64, and forward at batch 1."""
    assert len(suites.steps_of("core")) == 16 and len(suites.steps_of("latency")) == 8


def test_the_gate(state, monkeypatch, capsys):
    for failing in ([], ["tests/ops/test_gpu.py::test_cuda_graph"]):
        monkeypatch.setattr(suites.gate, "red", lambda failing=failing: failing)
        assert suites.run_gate(state, "gate") == len(failing)
    assert "fails: tests/ops/test_gpu.py::test_cuda_graph" in capsys.readouterr().out


def test_unknown_groups_are_a_failure(state, monkeypatch, capsys):
    monkeypatch.setitem(suites.PATTERNS, "core", ("nothing/*",))
    assert suites.main(state, "core") == 1 and "nothing/*" in capsys.readouterr().out
