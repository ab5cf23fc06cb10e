"""Which block shapes a call gets: tuned rows, the rule, broken files; and the tuner with a clock that needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec

import pytest

from swin_fast.triton_kernels import tune, tuning
from swin_fast.triton_kernels.config import Config, Variant, candidates, default_config
from swin_fast.triton_kernels.tuning import Key

VARIANT = Variant("bf16", (1, 7, 7), (1, 56, 56), (0, 3, 3), 64, 6, 32, table="bf16", rows=169)
KEY = Key("forward", 49, 32, "bf16")
TUNED = Config(64, 64, 2, 3, 5)
ROW = {**KEY._asdict(), **asdict(TUNED)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder in the place of the committed rows."""
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.delenv(tuning.KNOB, raising=False)
    tuning.tuned.cache_clear()
    yield tmp_path
    tuning.tuned.cache_clear()


def save(folder, rows, device="NVIDIA H100 80GB HBM3", name="nvidia-h100-80gb-hbm3.json"):
    (folder / name).write_text(json.dumps({"device": device, "rows": rows}))
    return folder / name


def test_a_tuned_row_is_taken_for_its_kind_alone(folder):
    save(folder, [ROW])
    gpu = "NVIDIA H100 80GB HBM3"
    assert tuning.config(VARIANT, False, gpu) == TUNED
    for other, backward in (
        (VARIANT, True),
        (replace(VARIANT, dtype="fp16"), False),
        (replace(VARIANT, head_dim=30), False),
        (replace(VARIANT, window=(1, 6, 8)), False),
    ):
        assert tuning.config(other, backward, gpu) == default_config(other, backward)
    # the same number of tokens in another shape, and another map, are the same kind
    assert tuning.config(replace(VARIANT, window=(1, 1, 49), grid=(1, 9, 98)), False, gpu) == TUNED


def test_other_gpus_take_the_rule_and_say_why(folder):
    save(folder, [ROW])
    rule, kind = "block shapes by the default rule, because", (49, 32, "bf16")
    for name, why in (("NVIDIA L4", f"{rule} nobody has tuned for 'NVIDIA L4'"), ("", f"{rule} there is no GPU")):
        assert tuning.config(VARIANT, False, name) == default_config(VARIANT, False)
        assert tuning.why(*kind, name) == why
    h100 = "NVIDIA H100 80GB HBM3"
    without = f"{rule} nvidia-h100-80gb-hbm3.json has no row for the backward of 49 tokens, head_dim 32, bf16"
    assert tuning.why(*kind, h100) == without
    save(folder, [ROW, {**ROW, "direction": "backward"}])
    tuning.tuned.cache_clear()
    assert tuning.why(*kind, h100) == "block shapes tuned in nvidia-h100-80gb-hbm3.json"


def test_a_file_named_by_the_environment(folder, monkeypatch):
    file = save(folder, [ROW], device="NVIDIA L4", name="mine.json")
    monkeypatch.setenv(tuning.KNOB, str(file))
    assert tuning.config(VARIANT, False, "NVIDIA L4") == TUNED
    with pytest.raises(ValueError, match="mine.json was tuned for 'NVIDIA L4', this is 'NVIDIA A100'"):
        tuning.config(VARIANT, False, "NVIDIA A100")
    monkeypatch.setenv(tuning.KNOB, str(folder / "gone.json"))
    tuning.tuned.cache_clear()
    with pytest.raises(ValueError, match="gone.json cannot be read: No such file"):
        tuning.config(VARIANT, False, "NVIDIA L4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_m": 48}, "block_m must be a power of two and at least 16, got 48"),
        ({"block_n": 8}, "block_n must be a power of two and at least 16, got 8"),
        ({"num_warps": 3}, "num_warps must be a power of two and at least 1, got 3"),
        ({"num_stages": 0}, "num_stages must be an integer of at least 1, got 0"),
        ({"tokens": "49"}, "tokens must be an integer of at least 1, got '49'"),
        ({"programs_per_sm": True}, "programs_per_sm must be an integer of at least 1, got True"),
        ({"max_registers": -1}, "max_registers must be an integer of at least 0, got -1"),
        ({"direction": "sideways"}, 'direction must be "forward" or "backward", got \'sideways\''),
        ({"dtype": "fp64"}, "dtype must be one of .*, got 'fp64'"),
    ],
)
def test_wrong_rows_are_named(folder, change, message):
    save(folder, [{**ROW, "tokens": 64}, {**ROW, **change}])
    with pytest.raises(ValueError, match=f"nvidia-h100-80gb-hbm3.json, row 1: {message}"):
        tuning.config(VARIANT, False, "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", 'must hold an object with "device" and a list of "rows"'),
        ('{"device": "gpu"}', 'must hold an object with "device" and a list of "rows"'),
        ('{"device": "gpu", "rows": [7]}', "row 0: must be an object, got int"),
        ('{"device": "gpu", "rows": [{"tokens": 49}]}', "row 0: lacks direction, head_dim, dtype, block_m"),
        (json.dumps({"device": "gpu", "rows": [ROW, ROW]}), "row 1: there is a row for .* already"),
    ],
)
def test_broken_files_are_named(folder, text, message):
    (folder / "gpu.json").write_text(text)
    with pytest.raises(ValueError, match=f"gpu.json.*{message}"):
        tuning.config(VARIANT, False, "gpu")


def test_what_is_written_is_read(folder):
    rows = [ROW, {**ROW, "tokens": 64, "microseconds": 1.5}]
    file = folder / "new" / "gpu.json"
    tuning.write(file, "gpu", {"triton": "3.9.0"}, rows)
    assert tuning.read(file, "gpu") == {KEY: TUNED, KEY._replace(tokens=64): TUNED}
    assert json.loads(file.read_text())["triton"] == "3.9.0"


def test_the_committed_rows_are_valid():
    for file in (tuning.Path(tuning.__file__).parent / "configs").glob("*.json"):
        device = json.loads(file.read_text())["device"]
        assert tuning.file_for(device).name == file.name and tuning.read(file, device)


class Clock:
    """Times by a function of the config; `wrong` configs are refused. Remembers what it timed."""

    def __init__(self, seconds, wrong=()):
        self.seconds, self.wrong, self.timed = seconds, wrong, []

    def __call__(self, variant, backward, config):
        if config in self.wrong:
            raise tuning.CannotRun("no room")
        self.timed.append(config)
        return self.seconds(config)


DEFAULT = default_config(VARIANT, False)
OTHERS = [c for c in candidates(VARIANT, False) if c != DEFAULT]


def test_the_fastest_is_chosen():
    best = OTHERS[3]
    choice = tune.choose(VARIANT, False, Clock(lambda c: 1e-3 if c == best else 2e-3))
    assert (choice.config, choice.time, choice.default_time) == (best, 1e-3, 2e-3)
    assert choice.key == KEY and choice.refused == []


def test_the_default_stays_where_the_gain_is_small():
    choice = tune.choose(VARIANT, False, Clock(lambda c: 1.99e-3 if c == OTHERS[0] else 2e-3))
    assert (choice.config, choice.time) == (DEFAULT, 2e-3)


def test_one_lucky_timing_does_not_win():
    times = iter([2e-3] * len(OTHERS) + [1e-3] + [2e-3] * 2)  # the last candidate is lucky, once
    assert tune.choose(VARIANT, False, Clock(lambda c: next(times))).config == DEFAULT


def test_a_refused_candidate_is_left_out_and_counted():
    choice = tune.choose(VARIANT, False, Clock(lambda c: 1 / c.num_stages, wrong=OTHERS[:2]))
    assert choice.config not in OTHERS[:2] and len(choice.refused) == 2 and "no room" in choice.refused[0]
    with pytest.raises(tuning.CannotRun, match="default of .*'forward', 49, 32, 'bf16'.* does not run"):
        tune.choose(VARIANT, False, Clock(lambda c: 1.0, wrong=[DEFAULT]))


def test_command_writes_rows_that_are_then_used(folder, capsys):
    def seconds(config):
        return 1e-3 / config.num_stages

    arguments = ["--window", "7x7", "--window", "8x7x7", "--head-dim", "32", "--dtype", "bf16"]
    assert tune.main(arguments, Clock(seconds), "NVIDIA L4") == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and said[0].startswith("forward     49 tokens  head_dim  32  bf16")
    assert said[-1] == f"4 rows written to {folder / 'nvidia-l4.json'}"
    tuning.tuned.cache_clear()
    stages = max(c.num_stages for c in candidates(VARIANT, False))
    assert tuning.config(VARIANT, False, "NVIDIA L4").num_stages == stages > default_config(VARIANT, False).num_stages
    # another run keeps the rows of kinds that it does not time
    assert tune.main(["--window", "7x7", "--head-dim", "64", "--dtype", "bf16"], Clock(seconds), "NVIDIA L4") == 0
    rows = tuning.read(folder / "nvidia-l4.json", "NVIDIA L4")
    assert sorted({(key.tokens, key.head_dim) for key in rows}) == [(49, 32), (49, 64), (392, 32)]


def test_timed_calls_fill_a_large_gpu_and_have_whole_windows():
    for variant in tune.variants(tune.WINDOWS, tune.HEAD_DIMS, ["bf16"]):
        assert not variant.padded and variant.shifted and variant.windows * variant.heads >= 1000, variant
        assert 1e5 < variant.batch * variant.grid[0] * variant.grid[1] * variant.grid[2] < 4e5, variant


def test_without_a_gpu_the_command_says_so():
    command = [sys.executable, "-m", "swin_fast.triton_kernels.tune"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    wanted = "sees no GPU, and only a GPU can be tuned for" if find_spec("triton") else "No module named 'triton'"
    assert run.returncode == 2 and run.stderr.startswith("tune: ") and wanted in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1
