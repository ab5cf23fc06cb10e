"""Which backend runs and why: by name, by device, with libraries missing; what a tensor on a GPU would take."""

import dataclasses
import os
import re
import subprocess
import sys
import types
import warnings

import pytest
import torch

import swin_fast
from swin_fast import cuda_kernels, dispatch, gpu, native, ops
from swin_fast.dispatch import Call, Device
from swin_fast.functional import window_attention

from .cases import DIFFERENTIABLE, Case

H100 = Device("cuda", 0, "H100", (9, 0))
MI300 = Device("cuda", 0, "MI300X", arch="gfx942")
CALL = Call(H100, torch.bfloat16, 2, (56, 56), (7, 7), 3, 32, bias_table=True)


def attend(device="cpu"):
    qkv = torch.ones(1, 4, 4, 12, device=device)
    return window_attention(qkv, num_heads=2, window_size=2)


@pytest.fixture
def fresh(monkeypatch):
    """No warning said yet, no choice kept, nothing forced, Triton there, no CUDA library."""
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.setattr(dispatch, "_backend", "auto")
    monkeypatch.setattr(dispatch, "triton_reason", lambda: "")
    monkeypatch.setattr(native, "cuda_reason", "there is no CUDA library")
    monkeypatch.setattr(native, "cuda_loaded", False)
    monkeypatch.setattr(dispatch, "which", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch._gpu_backend.cache_clear()
    yield
    dispatch._gpu_backend.cache_clear()


@pytest.fixture
def cuda_library(fresh, monkeypatch):
    """A CUDA library that has window 7x7 compiled in."""
    monkeypatch.setattr(native, "cuda_reason", "")
    only = "only window 7x7 is compiled in"
    monkeypatch.setattr(cuda_kernels, "why_not", lambda call: "" if call.window_size == (7, 7) else only)


@pytest.fixture
def no_library(fresh, monkeypatch):
    monkeypatch.setattr(native, "reason", "the library was taken away")


def test_missing_library_takes_plain_pytorch_and_says_so_once(no_library):
    with pytest.warns(UserWarning, match="plain PyTorch, because the library was taken away"):
        first = attend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = attend()
    assert torch.equal(first, again) and torch.equal(first, torch.ones(1, 4, 4, 4))


def test_missing_library_trains(no_library):
    qkv = torch.randn(1, 4, 4, 12, requires_grad=True)
    with pytest.warns(UserWarning, match="plain PyTorch"):
        window_attention(qkv, num_heads=2, window_size=2).sum().backward()
    assert qkv.grad is not None and qkv.grad.abs().sum() > 0


def test_asking_for_a_missing_library_raises(no_library):
    with swin_fast.use_backend("cpu"), pytest.raises(RuntimeError, match="'cpu' was asked for.*taken away"):
        attend()


def test_asked_for_by_name_runs_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("cpu", "reference"):
            with swin_fast.use_backend(name):
                assert torch.allclose(attend(), torch.ones(1, 4, 4, 4))


@pytest.mark.parametrize("name", ["auto", "cpu", "triton", "cuda"])
def test_meta_tensors_take_the_shape_function(name):
    with swin_fast.use_backend(name):
        assert attend("meta").shape == (1, 4, 4, 4)


def test_unknown_backend(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of"), swin_fast.use_backend("gpu"):
        pass
    monkeypatch.setattr(dispatch, "_backend", "gpu")
    with pytest.raises(ValueError, match="SWIN_FAST_BACKEND must be one of"):
        attend()
    with pytest.raises(ValueError, match="SWIN_FAST_BACKEND must be one of"):
        swin_fast.explain(torch.ones(1, 4, 4, 12), num_heads=2, window_size=2)


def test_environment_is_read_at_import():
    code = "import swin_fast; print(swin_fast.dispatch.forced_backend())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env(SWIN_FAST_BACKEND="CPU"))
    assert run.stdout == "cpu\n", run.stderr


def env(**more) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_gpu_backend_by_name_refuses_a_cpu_tensor(fresh, name):
    reason = {"triton": "TRITON_INTERPRET=1", "cuda": "no CUDA kernel for cpu tensors"}[name]
    with swin_fast.use_backend(name), pytest.raises(RuntimeError, match=f"{name!r} was asked for, but.*{reason}"):
        attend()


def test_cpu_by_name_refuses_other_devices():
    with swin_fast.use_backend("cpu"), pytest.raises(RuntimeError, match="no C.. kernel for mps tensors"):
        dispatch.road("mps")


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({}, "triton"),
        ({"device": MI300}, "triton"),
        ({"dtype": torch.float16}, "triton"),
        ({"dtype": torch.float64}, "reference"),
        ({"device": Device("cuda", 0, "T4", (7, 5))}, "reference"),
        ({"device": Device("cpu")}, "cpu"),
        ({"device": Device("mps")}, "reference"),
        ({"device": Device("meta")}, ""),
    ],
)
def test_order_without_the_cuda_library(fresh, change, want):
    chosen, reasons = dispatch.choose(dataclasses.replace(CALL, **change))
    assert chosen == want
    assert set(reasons) == set(dispatch.BACKENDS[1:]) - {chosen} and all(reasons.values())


@pytest.mark.parametrize(
    ("change", "want", "why"),
    [
        ({}, "cuda", {"triton": "cuda comes first", "reference": "cuda comes first", "cpu": "no C.. kernel for cuda"}),
        ({"window_size": (9, 9)}, "triton", {"cuda": "only window 7x7", "reference": "triton comes first"}),
        ({"device": MI300}, "triton", {"cuda": "NVIDIA"}),
        ({"device": MI300, "dtype": torch.float64}, "reference", {"cuda": "NVIDIA", "triton": "float64"}),
        ({"device": Device("cpu")}, "cpu", {"cuda": "cpu tensors", "triton": "INTERPRET", "reference": "cpu comes"}),
    ],
)
def test_order_with_the_cuda_library(cuda_library, change, want, why):
    chosen, reasons = dispatch.choose(dataclasses.replace(CALL, **change))
    assert chosen == want
    for name, text in why.items():
        assert re.search(text, reasons[name]), reasons


def test_without_triton_a_gpu_takes_plain_pytorch(fresh, monkeypatch):
    monkeypatch.setattr(dispatch, "triton_reason", lambda: "the package triton is not installed")
    chosen, reasons = dispatch.choose(CALL)
    assert chosen == "reference" and reasons["triton"] == "the package triton is not installed"


def test_triton_needs_a_c_compiler(fresh, monkeypatch):
    monkeypatch.setattr(dispatch, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    monkeypatch.delenv("CC", raising=False)
    assert dispatch.can_run_triton(CALL)
    monkeypatch.setattr(dispatch, "which", lambda name: None)
    assert "no CC, gcc or clang" in dispatch.can_run_triton(CALL).reason
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.can_run_triton(dataclasses.replace(CALL, device=Device("cpu")))
    monkeypatch.setenv("CC", "tcc")
    assert dispatch.can_run_triton(CALL)


@pytest.mark.parametrize(("version", "ok"), [("3.5.1", False), ("3.6.0", True), ("3.10.0+git1", True), ("4.0", True)])
def test_triton_version_is_compared_as_numbers(monkeypatch, version, ok):
    triton = types.ModuleType("triton")
    triton.__version__, triton.__spec__ = version, types.SimpleNamespace(name="triton")
    monkeypatch.setitem(sys.modules, "triton", triton)
    reason = dispatch.triton_reason.__wrapped__()
    assert (reason == "") is ok and (ok or "older than 3.6" in reason)


def test_triton_that_does_not_load_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise OSError('libcuda is on holiday')")
    for name in [m for m in sys.modules if m.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert dispatch.triton_reason.__wrapped__() == "the package triton does not load: libcuda is on holiday"


def test_importing_and_running_on_the_cpu_leaves_triton_alone():
    code = (
        "import sys, torch, swin_fast\n"
        "before = 'triton' in sys.modules\n"
        "swin_fast.functional.window_attention(torch.ones(1, 2, 2, 6), num_heads=1, window_size=2)\n"
        "print(before, 'triton' in sys.modules, 'swin_fast.triton_kernels.window_attention' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env())
    assert run.stdout == "False False False\n", run.stdout + run.stderr


class TestExplain:
    def test_names_the_backend_and_every_reason(self, fresh):
        said = swin_fast.explain(torch.ones(1, 4, 6, 24), torch.ones(9, 2), num_heads=2, window_size=2, dropout_p=0.1)
        assert said.backend == "cpu" and set(said.reasons) == {"triton", "cuda", "reference"}
        lines = str(said).splitlines()
        assert lines[0] == (
            "window attention, batch 1, map 4x6, window 2x2, 2 heads of 4, float32, bias_table, dropout, on cpu"
        )
        assert [line.split()[0] for line in lines[1:]] == ["cpu", "triton", "cuda", "reference"]
        assert lines[1].endswith("runs") and lines[4].endswith("not used: cpu comes first")

    def test_block_shapes_of_triton_are_explained(self, fresh, monkeypatch):
        monkeypatch.setattr(dispatch, "describe", lambda device: H100)
        said = swin_fast.explain(torch.ones(1, 4, 6, 24), num_heads=2, window_size=2)
        assert said.backend == "triton" and "nobody has tuned for 'H100'" in said.detail
        assert f"triton     runs, {said.detail}" in str(said)

    def test_a_backend_that_cannot_run_is_an_answer(self, no_library):
        with swin_fast.use_backend("cpu"):
            said = swin_fast.explain(torch.ones(1, 4, 4, 12), num_heads=2, window_size=2)
        assert said.backend == "" and said.reasons["cpu"] == "the library was taken away"
        assert said.reasons["reference"] == "the backend is set to 'cpu'"

    def test_wrong_arguments_raise_as_in_the_call(self):
        with pytest.raises(ValueError, match="shift_size must be"):
            swin_fast.explain(torch.ones(1, 4, 4, 12), num_heads=2, window_size=2, shift_size=2)
        with pytest.raises(TypeError, match="window_sizes"):
            swin_fast.explain(torch.ones(1, 4, 4, 12), num_heads=2, window_size=2, window_sizes=2)

    def test_a_gpu_is_described(self):
        assert str(dataclasses.replace(CALL, device=H100)).endswith("bfloat16, bias_table, on cuda (H100, sm_90)")
        assert str(dataclasses.replace(CALL, device=MI300)).endswith("on cuda (MI300X, gfx942)")


CASES = [
    Case((4, 3), (9, 7), shift=1, pad="attended", bias="index", mask="batch", cosine=True, dropout=0.3),
    Case((2, 4, 1), (3, 7, 2), shift=(1, 2, 0), pad_order="roll_then_pad"),
]


class Kernels:
    """Stands for the Triton kernels; remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def forward(self, *arguments):
        self.calls.append(("forward", len(arguments)))
        return gpu.formula_forward(*arguments)

    def backward(self, *arguments):
        self.calls.append(("backward", len(arguments)))
        return gpu.formula_backward(*arguments)


@pytest.fixture
def on_a_gpu(fresh, monkeypatch):
    """The op of a tensor on a GPU, but for CPU tensors: `describe` says they are on an H100."""
    monkeypatch.setattr(dispatch, "describe", lambda device: H100)
    kernels = Kernels()
    plain = gpu.formula_forward, gpu.formula_backward
    triton = kernels.forward, kernels.backward
    monkeypatch.setattr(gpu, "kernels", lambda name: triton if name == "triton" else plain)
    return kernels


@pytest.fixture(scope="module")
def gpu_op():
    return ops.define_pair("_test_dispatch", gpu.forward, gpu.backward, "CPU")


def gradients(op, case, tensors, monkeypatch) -> dict[str, torch.Tensor]:
    """Output and gradients through the front door, with `op` in the place of the op; None: plain PyTorch."""
    leaves = {k: t.detach().clone() for k, t in tensors.items() if t is not None}
    wanted = [leaves[k].requires_grad_() for k in DIFFERENTIABLE if k in leaves]
    grad = leaves.pop("grad")
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "road", lambda device_type: "reference" if op is None else "interpreted")
        patch.setattr(ops, "interpreted", lambda: op)
        out = window_attention(**leaves, **case.options)
    return out, *torch.autograd.grad(out, wanted, grad)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_op_on_a_gpu_calls_triton(on_a_gpu, gpu_op, case, monkeypatch):
    tensors = case.tensors(torch.float32)
    got = gradients(gpu_op, case, tensors, monkeypatch)
    assert on_a_gpu.calls == [("forward", 15), ("backward", 17)]
    torch.testing.assert_close(got, gradients(None, case, tensors, monkeypatch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_on_a_gpu_is_plain_pytorch_and_says_so_once(on_a_gpu, gpu_op, case, monkeypatch):
    tensors = case.tensors(torch.float64)
    with pytest.warns(UserWarning, match="plain PyTorch, because cuda: .*; triton: .*float64"):
        got = gradients(gpu_op, case, tensors, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(gpu_op, case, tensors, monkeypatch)
    assert on_a_gpu.calls == []
    torch.testing.assert_close(got, gradients(None, case, tensors, monkeypatch), rtol=1e-12, atol=1e-12)


def test_a_graph_in_plain_pytorch_by_name_runs_without_a_word(on_a_gpu, gpu_op, monkeypatch):
    """As a compiled graph does, which holds the op whatever was asked for when it was made."""
    tensors = CASES[1].tensors(torch.float32)
    with warnings.catch_warnings(), swin_fast.use_backend("reference"):
        warnings.simplefilter("error")
        got = gradients(gpu_op, CASES[1], tensors, monkeypatch)
    assert on_a_gpu.calls == []
    torch.testing.assert_close(got, gradients(None, CASES[1], tensors, monkeypatch), rtol=0, atol=0)


def test_gradients_that_nobody_wants_come_back_empty(on_a_gpu, gpu_op):
    tensors = CASES[0].tensors(torch.float64)
    arguments = [tensors[k] for k in ("qkv", "bias_table", "bias_index", "pad_qkv", "mask", "logit_scale")]
    options = (2, [4, 3], [1, 1], 0.5, False, -100.0, 0.0)
    with pytest.warns(UserWarning):
        _, lse = gpu_op(*arguments, None, *options, False)
    backward = torch.ops.swin_fast.window_attention_backward_test_dispatch
    grads = backward(tensors["grad"], lse, *arguments, None, *options, 0b0110)
    assert [g.numel() for g in grads] == [0, tensors["bias_table"].numel(), tensors["pad_qkv"].numel(), 0]


def test_a_backend_asked_for_by_name_raises_inside_the_op(on_a_gpu, gpu_op, monkeypatch):
    tensors = CASES[1].tensors(torch.float64)
    for name, reason in (("triton", "float64"), ("cuda", "there is no CUDA library"), ("cpu", "cuda tensors")):
        with swin_fast.use_backend(name), pytest.raises(RuntimeError, match=f"{name!r} was asked for, but.*{reason}"):
            gradients(gpu_op, CASES[1], tensors, monkeypatch)


def test_what_the_cuda_library_hands_on_without_a_reason_is_an_error(on_a_gpu, cuda_library, gpu_op, monkeypatch):
    case = Case((7, 7), (7, 7))
    with pytest.raises(RuntimeError, match="handed on a call that its table has.*window 7x7"):
        gradients(gpu_op, case, case.tensors(torch.float32), monkeypatch)


def test_the_cuda_library_is_told_what_was_asked_for(monkeypatch):
    told = []
    monkeypatch.setattr(native, "cuda_loaded", True)
    monkeypatch.setattr(torch.ops.swin_fast, "cuda_mode", told.append)
    for name in dispatch.BACKENDS:
        with swin_fast.use_backend(name):
            told.append(name)
    assert told == [0, "auto", 0, 1, "cpu", 0, 1, "triton", 0, 0, "cuda", 0, 1, "reference", 0]


def test_hand_over_ops_and_the_op_have_one_schema():
    def schema(name: str) -> str:
        return str(getattr(torch.ops.swin_fast, name).default._schema).partition("(")[2]

    for name in ("window_attention", "window_attention_backward"):
        assert schema(name) == schema(f"{name}_python")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"swin_fast::{name}_python", "CUDA")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"swin_fast::{name}", "CUDA")
