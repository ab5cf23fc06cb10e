"""What can be timed is known by name, before anything is built."""

import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.group import COMPILED, OUR_BACKENDS, REFERENCE, is_ours
from benchmarks.suites.core import CASES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_group_names_its_candidates(device, compiled):
    for group in registry.GROUPS.values():
        names = group.names(device, compiled)
        assert names[: len(OUR_BACKENDS[device])] == list(OUR_BACKENDS[device]), group.name
        assert len(set(names)) == len(names)
        assert any(not is_ours(name) for name in names), group.name
        assert any(name.endswith(COMPILED) for name in names) == compiled
        assert group.name.startswith(f"{group.suite}/")


def test_listing_imports_no_library():
    code = (
        "import sys; from benchmarks import run; status = run.main(['*', '--list', '--compiled']); "
        "print(status, sorted({'timm', 'torchvision', 'transformers', 'monai', 'onnx', 'openvino'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, last = result.stdout.splitlines()
    assert last == "0 []"
    here = [name for name, group in registry.GROUPS.items() if "cpu" in group.devices]
    assert [line.split()[0] for line in lines] == here
    assert "swin_fast, eager, sdpa" in lines[0]


def test_patterns_choose():
    def chosen(*patterns, device="cpu"):
        return [group.name for group in registry.select(patterns, device)]

    stage = "core/swin_t-stage1/b8/float32"
    assert chosen(f"{stage}/forward") == [f"{stage}/forward"]
    assert chosen(f"{stage}/forward*", stage) == [f"{stage}/forward", f"{stage}/forward+backward"]
    assert chosen("layer") == [name for name in chosen("*") if name.startswith("layer/")]
    assert chosen("*", device="cuda") == list(registry.GROUPS)
    assert all(fnmatchcase(name, "*/b64/*") or "float16" in name for name in set(registry.GROUPS) - set(chosen("*")))
    with pytest.raises(ValueError, match="no group matches 'cor'"):
        chosen("core/*", "cor")
    with pytest.raises(ValueError, match="no group of this device matches '.*b64"):
        chosen("core/swin_t-stage1/b64/*")


def test_the_first_look_has_every_size_of_work():
    assert {group.suite for group in registry.select(registry.DEFAULT)} == {"core", "layer", "block", "model"}


def test_shapes_are_those_of_the_models():
    """Swin-T to L at 224 (paper, table 7), V2-T at 256 with windows of 8, Video Swin-T on 32 frames, and two others."""
    for name, channels in (("swin_t", 96), ("swin_b", 128), ("swin_l", 192)):
        for n, side in enumerate((56, 28, 14, 7)):
            case = CASES[f"{name}-stage{n + 1}"]
            assert (case.grid, case.num_heads * case.head_dim) == ((side, side), channels * 2**n)
            assert (case.window_size, case.shift_size) == ((7, 7), (3, 3) if side > 7 else (0, 0))
    v2, video = CASES["swin_v2_t-stage2"], CASES["swin3d_t-stage4"]
    assert (v2.grid, v2.window_size, v2.shift_size, v2.num_heads, v2.cosine) == ((32, 32), (8, 8), (4, 4), 6, True)
    assert (video.grid, video.window_size, video.shift_size) == ((16, 7, 7), (8, 7, 7), (4, 0, 0))
    assert (CASES["swinir"].num_heads, CASES["swinir"].head_dim) == (6, 30)
    assert (CASES["swin_unetr"].num_heads, CASES["swin_unetr"].head_dim) == (3, 16)


def test_whose_a_candidate_is():
    assert all(map(is_ours, ("swin_fast", "swin_fast compiled", "swin_fast cuda", "swin_fast triton compiled")))
    assert not any(map(is_ours, (REFERENCE, f"{REFERENCE} compiled", "eager", "timm fused_attn")))
