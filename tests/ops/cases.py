"""One case of the op's contract, its random inputs, one run of it with all gradients, and the rule for its error."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention
from swin_fast.geometry import bias_table_size, num_windows
from swin_fast.testing import ALLOWANCE

DTYPES = {str(d)[6:]: d for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}
DIFFERENTIABLE = ("qkv", "bias_table", "pad_qkv", "logit_scale")


@dataclass(frozen=True)
class Case:
    """The shapes and options of one call; the axes of `window` say whether the map is 2D or 3D."""

    window: tuple[int, ...]
    grid: tuple[int, ...]
    shift: tuple[int, ...] | int = 0
    heads: int = 2
    head_dim: int = 8
    batch: int = 2
    scale: float | None = None
    bias: str = "table"  # "none", "table", "index": random entries, some negative, into a table of another size
    pad: str = "masked"  # "attended": pad_qkv is given
    pad_order: str = "pad_then_roll"
    mask: str = "none"  # "batch": one per window, "image": one per window of an image, "one": one for all
    mask_value: float = -100.0
    cosine: bool = False
    dropout: float = 0.0
    wide: bool = False  # bias_table, pad_qkv, mask and logit_scale in float32, whatever qkv is
    seed: int = 0

    def __str__(self) -> str:
        options = (f"{f.name}={getattr(self, f.name)}" for f in fields(self)[2:] if getattr(self, f.name) != f.default)
        sizes = ("x".join(map(str, t)) for t in (self.window, self.grid))
        return "-".join(("w{}_map{}".format(*sizes), *options)).replace(" ", "")

    @property
    def options(self) -> dict:
        return dict(
            num_heads=self.heads, window_size=self.window, shift_size=self.shift, scale=self.scale,
            pad_order=self.pad_order, mask_value=self.mask_value, dropout_p=self.dropout,
        )  # fmt: skip

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor | None]:
        """The tensor arguments by name, and "grad", the gradient of the output; the same values on every device."""
        g = torch.Generator().manual_seed(self.seed)
        channels, tokens = self.heads * self.head_dim, prod(self.window)
        wide = torch.promote_types(dtype, torch.float32) if self.wide else dtype

        def normal(*shape: int, to: torch.dtype = wide) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64).to(device, to)

        rows = bias_table_size(self.window) + (3 if self.bias == "index" else 0)
        images = prod(num_windows(self.grid, self.window))
        masks = {"none": 0, "one": 1, "image": images, "batch": images * self.batch}[self.mask]
        qkv, grad = (normal(self.batch, *self.grid, n * channels, to=dtype) for n in (3, 1))
        return {
            "qkv": qkv,
            "bias_table": None if self.bias == "none" else normal(rows, self.heads),
            "bias_index": torch.randint(-rows, rows, (tokens, tokens), generator=g).to(device)
            if self.bias == "index"
            else None,
            "pad_qkv": normal(3 * channels) if self.pad == "attended" else None,
            "mask": normal(masks, tokens, tokens) if masks else None,
            "logit_scale": normal(self.heads).mul_(0.5).exp_().mul_(5) if self.cosine else None,
            "grad": grad,
        }


def up(tensors: dict) -> dict:
    """The same values in float64; `pad_qkv` is what it is after it was rounded to qkv's dtype, as the op documents."""
    pad, dtype = tensors["pad_qkv"], tensors["qkv"].dtype
    tensors = {**tensors, "pad_qkv": None if pad is None else pad.to(dtype)}
    return {k: t.double() if t is not None and t.is_floating_point() else t for k, t in tensors.items()}


def run(case: Case, tensors: dict, backend: str = "auto") -> dict[str, Tensor]:
    """The output and every gradient: out, dq, dk, dv and d_<name>. The dropout seed is the same for every backend."""
    given = {k: t.detach() for k, t in tensors.items() if t is not None}
    leaves = {k: t.requires_grad_() if k in DIFFERENTIABLE else t for k, t in given.items()}
    grad = leaves.pop("grad")
    torch.manual_seed(case.seed)
    with use_backend(backend):
        out = window_attention(**leaves, **case.options)
        wanted = [k for k in DIFFERENTIABLE if k in leaves]
        # inside the block, because on a GPU a backward chooses its backend when it runs
        grads = torch.autograd.grad(out, [leaves[k] for k in wanted], grad, allow_unused=True, materialize_grads=True)
    result = {"out": out.detach(), **{f"d_{k}": g for k, g in zip(wanted, grads, strict=True)}}
    result.update(zip(("dq", "dk", "dv"), result.pop("d_qkv").chunk(3, -1), strict=True))
    return result


def scales(case: Case, tensors: dict, truth: dict[str, Tensor]) -> dict[str, float]:
    """The size of the numbers behind each result: its largest value, or what cancels in it where that is larger.

    A softmax row's gradient is a difference of terms as large as grad . out; with one key in a window nothing is left.
    """
    row = _largest((tensors["grad"] * truth["out"]).sum(-1))
    q, k, _ = tensors["qkv"].chunk(3, -1)
    if case.cosine:
        factor = _largest(tensors["logit_scale"]) * case.head_dim**-0.5  # a usual entry of a unit vector
        reach = {"dq": factor, "dk": factor}
    else:
        factor = abs(case.head_dim**-0.5 if case.scale is None else case.scale)
        reach = {"dq": factor * _largest(k), "dk": factor * _largest(q)}
    reach |= {"d_bias_table": 1.0, "d_logit_scale": 1.0, "d_pad_qkv": reach["dk"]}
    return {name: max(_largest(value), row * reach.get(name, 0.0)) for name, value in truth.items()}


def assert_accurate(
    case: Case,
    tensors: dict,
    got: dict[str, Tensor],
    plain: dict[str, Tensor] | None = None,
    share: float | None = None,
) -> None:
    """Largest and root mean square error against float64 on the same values: at most twice plain PyTorch's own.

    `plain` and `share` stand in for plain PyTorch's results in qkv's dtype and for that dtype's allowance.
    """
    exact = up(tensors)
    truth, plain = run(case, exact, "reference"), plain or run(case, tensors, "reference")
    size, share = scales(case, exact, truth), share or ALLOWANCE[tensors["qkv"].dtype]
    assert got.keys() == truth.keys()
    for name, true in truth.items():
        assert got[name].shape == true.shape and got[name].dtype == plain[name].dtype, name
        error, allowed = (r[name].double() - true for r in (got, plain))
        for what, norm in (("largest", _largest), ("root mean square", _rms)):
            e, a = norm(error), norm(allowed)
            bound = 2 * a + share * size[name]
            assert e <= bound, f"{name}: {what} error {e:.3e}, allowed {bound:.3e} (plain PyTorch {a:.3e}) in {case}"


def _largest(t: Tensor) -> float:
    return float(t.abs().max()) if t.numel() else 0.0


def _rms(t: Tensor) -> float:
    return float(t.square().mean().sqrt()) if t.numel() else 0.0


def assert_identical(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Bit for bit, which a NaN in both would pass, so none is allowed."""
    assert got.keys() == want.keys()
    for name, w in want.items():
        assert torch.isfinite(w).all() and torch.equal(got[name], w), name
