"""What a group of candidates is: the same work, done in several ways, that is timed in turn once it is equal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import swin_fast
from swin_fast import testing

from .ceilings import Ceilings

Named = dict[str, Tensor]
Keep = Callable[[str], bool]  # which candidates to build, by name
COMPILED = " compiled"
REFERENCE = "swin_fast reference"
WRONG = "it is wrong"
OUR_FACTOR, PEER_FACTOR = 2.0, 8.0  # times the error of plain PyTorch
# name -> swin_fast's backend
OUR_BACKENDS = {
    "cpu": {"swin_fast": "auto"},
    "cuda": {"swin_fast cuda": "cuda", "swin_fast triton": "triton"},
}


def ALL(_: str) -> bool:  # noqa: N802
    return True


def is_ours(candidate: str) -> bool:
    """Whether the kernels of this package do the work; its plain PyTorch road is a peer."""
    return candidate.split()[0] == "swin_fast" and not candidate.startswith(REFERENCE)


@dataclass(frozen=True)
class Candidate:
    """One way to do a group's work: `call` is timed, `results` are what it computes, by name.

    `libraries` are the distributions that it depends on, beside PyTorch; `in_torch` is False where memory comes from
    elsewhere than PyTorch's allocator, so that its peak is unknown.
    """

    call: Callable[[], object]
    results: Callable[[], Named]
    libraries: tuple[str, ...] = ()
    in_torch: bool = True

    def __call__(self) -> object:
        return self.call()


@dataclass(frozen=True)
class Made:
    """A group's candidates on the same numbers.

    `phases` are the operations and bytes that each part of the work cannot do without. `plain` gives the results of
    plain PyTorch in the group's dtype, `truth` the same in float64. `left_out` says which candidates could not be
    built, and why.
    """

    dtype: torch.dtype
    candidates: dict[str, Candidate]
    phases: tuple[tuple[float, float], ...]
    plain: Callable[[], Named]
    truth: Callable[[], Named]
    left_out: dict[str, str] = field(default_factory=dict)

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds that the machine needs at least."""
        return sum(ceilings.floor(operations, moved) for operations, moved in self.phases)

    def check(self) -> dict[str, str]:
        """Why a candidate must not be timed, by its name: it fails, or is wrong.

        Wrong is an error of more than twice that of plain PyTorch in the same dtype, against float64. A peer may round
        worse (Swin V2's normalise in bfloat16, for one), because leaving it out for that would hide its time.
        """
        truth, plain = self.truth(), self.plain()
        refused = {}
        for name, candidate in self.candidates.items():
            try:
                factor = OUR_FACTOR if is_ours(name) else PEER_FACTOR
                found = testing.errors(candidate.results(), plain, truth, self.dtype, factor)
            except Exception as error:  # any library may fail in any way, and the others are still timed
                refused[name] = f"it fails: {reason(error)}"
                continue
            if wrong := [error for error in found if not error.ok]:
                refused[name] = f"{WRONG} in {self.dtype}: {wrong}"
        return refused


@dataclass(frozen=True)
class Group:
    """A line of the registry. Nothing is built, and no library imported, before `make`.

    `name` is a path such as "core/swin_t-stage1/b8/float32/forward". `names(device, compiled)` are the candidates that
    `make(device, compiled, keep)` tries to build, those that `keep(name)` wants; `device` is "cpu" or "cuda",
    `devices` those where the group is run.
    """

    name: str
    suite: str
    op: str
    shape: str
    dtype: torch.dtype
    names: Callable[[str, bool], list[str]]
    make: Callable[..., Made]
    devices: tuple[str, ...] = ("cpu", "cuda")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def twice(names: Iterable[str], compiled: bool) -> list[str]:
    """`names`, and then each compiled."""
    names = list(names)
    return names + [name + COMPILED for name in names if compiled]


def on_backend(backend: str, call: Callable) -> Callable:
    """`call` on one backend of swin_fast; "auto" costs nothing."""
    if backend == "auto":
        return call

    def run(*args):
        with swin_fast.use_backend(backend):
            return call(*args)

    return run


def compile_call(call: Callable, fullgraph: bool = False) -> Callable:
    return torch.compile(call, fullgraph=fullgraph, dynamic=False)


def build(builders: dict[str, Callable[[], Candidate]]) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The candidates that can be built, and why the others are left out, which is also said; ours must not fail."""
    found, left_out = {}, {}
    for name, builder in builders.items():
        try:
            found[name] = builder()
        except Exception as error:  # a library that is missing, or cannot do this model
            if is_ours(name):
                raise
            left_out[name] = reason(error)
            print(f"without {name}: {left_out[name]}", file=sys.stderr)
    return found, left_out


def reason(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
