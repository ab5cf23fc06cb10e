"""Every candidate computes the same, and one that does not is never timed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import child, group, libraries, peers
from benchmarks.group import Candidate, Group, Made
from benchmarks.suites import accelerate, block, core, model
from swin_fast import models, native, testing

from ..fixtures import one_thread  # noqa: F401
from ..peers import define_torchvision_operators

SHIFTED = testing.Case("14x21", (14, 21), (7, 7), (3, 3), num_heads=3, head_dim=8, pad="masked")
SMALL = {
    "shifted": SHIFTED,
    "plain": replace(SHIFTED, name="7x7", grid=(7, 7), shift_size=(0, 0)),
    "cosine": replace(SHIFTED, window_size=(4, 4), grid=(8, 12), shift_size=(2, 2), cosine=True),
    "3d": replace(SHIFTED, window_size=(2, 4, 4), grid=(4, 8, 4), shift_size=(1, 2, 0)),
    "padded": replace(SHIFTED, window_size=(3, 3, 3), grid=(4, 6, 5), shift_size=(1, 1, 1), pad="attended"),
}


@pytest.fixture
def trace_only(monkeypatch):
    """Without the compiler of generated code, which takes a minute and is not ours."""
    monkeypatch.setattr(core, "compile_call", partial(torch.compile, backend="eager"))
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("case", SMALL)
def test_cores(case, backward, dtype):
    made = core.make(SMALL[case], dtype, backward)
    assert list(made.candidates) == core.names(SMALL[case], backward, "cpu", False)
    assert made.check() == {}
    names = made.truth().keys()
    assert ("grad bias_table" in names) == backward and ("grad pad_qkv" in names) == (backward and case == "padded")


@pytest.mark.parametrize("backward", [False, True])
def test_traced_cores(trace_only, backward):
    made = core.make(SHIFTED, torch.float32, backward, compiled=True)
    assert ("flex compiled" in made.candidates) != backward
    assert made.check() == {}


@pytest.mark.parametrize("backward", [False, True])
def test_a_core_without_the_mask_is_refused(monkeypatch, backward):
    monkeypatch.setattr(peers, "seam_mask", lambda *args: None)
    refused = core.make(SHIFTED, torch.float32, backward).check()
    assert refused.keys() == {"eager", "sdpa", "eager on windows", "sdpa on windows"}
    assert all(why.startswith("it is wrong in torch.float32: [Error(name='out'") for why in refused.values())


def test_a_wrong_gradient_is_refused():
    made = core.make(SHIFTED, torch.float32, True, keep=lambda name: name == "sdpa")
    run = made.candidates["sdpa"].call
    wrong = replace(run, incoming=(run.incoming[0] * 1.01,))
    refused = replace(made, candidates={"sdpa": Candidate(wrong, wrong.results)}).check()
    assert "grad k" in refused["sdpa"] and "name='out'" not in refused["sdpa"]


def test_inference_keeps_no_graph():
    for candidate in core.make(SMALL["plain"], torch.float32, False).candidates.values():
        assert all(not out.requires_grad and out.grad_fn is None for out in candidate())


@pytest.mark.parametrize("suite", block.SUITES)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("case", ["shifted", "cosine", "3d", "padded"])
def test_layers_and_blocks(case, backward, suite):
    given = replace(SMALL[case], grid=(14, 14)) if case == "shifted" else SMALL[case]
    made = block.make(suite, given, torch.float32, backward)
    wanted = block.names(suite, given, "cpu", False)
    for name in set(wanted) - set(made.candidates):
        pytest.importorskip(libraries.DISTRIBUTIONS[name][0])
    assert list(made.candidates) == wanted
    assert made.check() == {}


def test_a_block_with_another_table_is_refused():
    made = block.make("layer", SHIFTED, torch.float32, False, keep=lambda name: name in ("swin_fast", "torchvision"))
    with torch.no_grad():
        made.candidates["torchvision"].call.parameters["relative_position_bias_table"][0] += 1
    assert made.check().keys() == {"torchvision"}


def test_models(one_thread):  # noqa: F811
    for name in ("timm", "torchvision", "transformers"):
        pytest.importorskip(name)
    peers = libraries.of_model("swin_t")
    made = model.make("swin_t", 1, torch.float32, False, keep=lambda name: name in (*peers, "swin_fast"))
    assert list(made.candidates) == ["swin_fast", *peers]
    assert made.check() == {}
    ((operations, moved),) = made.phases
    assert operations == pytest.approx(2 * 4.5e9, rel=0.02)  # paper, table 1: 4.5 G multiplications and additions
    assert moved == pytest.approx(4 * 28.3e6, rel=0.01)  # its 28 M parameters
    with torch.no_grad():
        for name in peers[1:]:
            next(iter(made.candidates[name].call.model.parameters())).view(-1)[0] += 10
    assert list(made.check()) == peers[1:]


@pytest.mark.parametrize("name", model.IMAGES)
def test_every_library_has_our_model(name):
    """Down to the shape of each weight; their numbers are compared before anything is timed."""
    define_torchvision_operators()
    options = model.OPTIONS.get(name, {})
    with torch.device("meta"):
        ours = dict(models.build(name, **options).named_parameters())
    for kind in libraries.of_model(name):
        pytest.importorskip(libraries.DISTRIBUTIONS[kind][0])
        peer = libraries.model(kind, name)
        theirs = {k: p.shape for k, p in peer.module.named_parameters()}
        assert {k: p.shape for k, p in peer.rename(ours).items()} == theirs, kind


def test_a_training_step(one_thread):  # noqa: F811
    made = model.make("swin_t", 1, torch.float32, True, keep=lambda name: name == "swin_fast")
    assert made.check() == {}
    run = made.candidates["swin_fast"].call
    before = run.model.get_parameter(model.FIRST).clone()
    loss = run()
    after = run.model.get_parameter(model.FIRST)
    assert loss.isfinite() and not torch.equal(before, after) and (before - after).abs().max() < 2 * model.RATE
    assert all(p.grad is None for p in run.model.parameters())
    other = replace(run, labels=(run.labels + 1) % 1000)  # the same logits, another gradient
    refused = replace(made, candidates={"swin_fast": Candidate(other, other.results)}).check()
    assert "grad of the first weight" in refused["swin_fast"]


@pytest.mark.parametrize("library", accelerate.LIBRARIES)
def test_accelerated_copies(library, one_thread):  # noqa: F811
    pytest.importorskip(library)
    made = accelerate.make(library, 1, torch.float32, False)
    assert list(made.candidates) == ["swin_fast", library]
    assert made.check() == {}
    with torch.no_grad():
        next(iter(made.candidates["swin_fast"].call.model.parameters())).view(-1)[0] += 10
    assert made.check().keys() == {"swin_fast"}


def test_small_rounding_of_a_peer_is_no_mistake_and_ours_has_the_rule_of_the_tests():
    exact = torch.linspace(-1, 1, 100, dtype=torch.float64)
    plain = (exact + 1e-3).float()

    def off(error):
        return Candidate(None, lambda: {"out": (exact + error).float()})

    candidates = {"swin_fast": off(1.9e-3), "swin_fast triton": off(2.1e-3), "timm": off(7.9e-3), "sdpa": off(8.1e-3)}
    made = Made(torch.float32, candidates, (), lambda: {"out": plain}, lambda: {"out": exact})
    assert made.check().keys() == {"swin_fast triton", "sdpa"}


def fail():
    raise ValueError("not\nhere")


def test_what_fails_is_left_out_and_ours_must_not(capsys):
    found, left_out = group.build({"timm": fail, "sdpa": lambda: 1})
    assert (found, left_out) == ({"sdpa": 1}, {"timm": "ValueError: not here"})
    assert "without timm: ValueError: not here" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not"):
        group.build({"swin_fast": fail})


def test_nothing_is_timed_where_ours_is_wrong(capsys):
    given = Group("core/x", "core", "x", "1", torch.float32, None, None)
    one, two = (Candidate(None, lambda value=value: {"out": torch.full((1,), value)}) for value in (1.0, 2.0))
    exact = lambda: {"out": torch.ones(1, dtype=torch.float64)}  # noqa: E731
    broken = Candidate(None, fail)

    def kept(device="cpu", **candidates):
        named = {name.replace("_", " ").replace("swin fast", "swin_fast"): c for name, c in candidates.items()}
        made = Made(torch.float32, named, (), exact, exact)
        return list(child.checked(given, made, device).candidates)

    assert kept(swin_fast=one, eager=one, sdpa=two, timm=broken) == ["swin_fast", "eager"]
    err = capsys.readouterr().err
    assert "core/x: sdpa is not timed, because it is wrong" in err and "timm is not timed, because it fails" in err
    for ours in (two, broken):
        with pytest.raises(RuntimeError, match="nothing is timed, because of swin_fast"):
            kept(swin_fast=ours, eager=one)
    assert kept("cuda", swin_fast_cuda=broken, swin_fast_triton=one) == ["swin_fast triton"]
    with pytest.raises(RuntimeError, match="nothing is timed, because of swin_fast cuda:"):
        kept("cuda", swin_fast_cuda=two, swin_fast_triton=one)
    with pytest.raises(RuntimeError, match="nothing is timed"):
        kept("cuda", swin_fast_cuda=broken, swin_fast_triton=broken, eager=one)


def test_a_package_without_kernels_is_not_timed(monkeypatch):
    monkeypatch.setattr(native, "loaded", False)
    monkeypatch.setattr(native, "reason", "the compiled library is missing")
    for make in (partial(core.make, SHIFTED), partial(block.make, "layer", SHIFTED), partial(model.make, "swin_t", 1)):
        with pytest.raises(RuntimeError, match="nothing to time: the compiled library is missing"):
            make(torch.float32, False)


def test_weights_that_do_not_fit_are_refused():
    define_torchvision_operators()
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"x has other weights: missing \['bias'\], unexpected \['b'\]"):
        libraries.load(layer, {"weight": torch.ones(2, 2), "b": torch.ones(2)}, "x")
