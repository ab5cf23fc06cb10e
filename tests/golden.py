"""Reads tests/data: weights, inputs, outputs and gradients of the original implementations, one case a file.

The metadata names the source, its commit and licence. Keys: ``sd/`` the state_dict, ``x`` and ``arg/`` the inputs,
``y/i`` output i, ``g/i`` its cotangent, ``grad_x`` and ``grad/`` the gradients of sum(y * g), ``tap/`` the output of a
submodule, ``f64/`` the same value computed in float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

DATA = Path(__file__).parent / "data"


class Golden:
    """One case: `meta` (the file's metadata, JSON entries decoded) and `tensors`."""

    def __init__(self, name: str):
        with safe_open(DATA / f"{name}.safetensors", "pt") as file:
            meta, packed = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.tensors = _unpack(meta, packed)
        self.init = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(meta["init"]).items()}
        self.call = json.loads(meta["call"])
        self.float32_error = json.loads(meta["float32_error"])

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose key starts with `prefix`, by the rest of the key."""
        return {key[len(prefix) :]: t for key, t in self.tensors.items() if key.startswith(prefix)}

    def bound(self, what: str) -> float:
        """How far from the stored float32 value a good float32 code may be, as a share of the tensor's largest value.

        The original's own distance from float64, three times (twice for ours, once for its own); `what` is "y",
        "grad_x", "grad_attention" (bias table, qkv, proj) or "grad" (any parameter). For V2 it is the
        largest, up to 5e-5 in gradients: cosine attention multiplies rounding by its scale, up to 100.
        """
        return 3 * self.float32_error[what] + 1e-6


def _unpack(meta: dict[str, str], t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for key in [k for k in t if k.startswith("col/")]:  # an index table, kept as its first column and first row
        name = key.removeprefix("col/")
        t[name] = t.pop(key)[:, None].long() + t.pop("row/" + name)[None, :].long()
    for key in [k for k in t if k.startswith("regions/")]:  # a shift mask, kept as region numbers
        regions = t.pop(key)
        t[key.removeprefix("regions/")] = torch.where(regions[:, :, None] != regions[:, None, :], -100.0, 0.0)
    for key, dtype in json.loads(meta["dtype"]).items():  # kept in a narrower dtype
        t[key] = t[key].to(getattr(torch, dtype))
    for key, other in json.loads(meta["same"]).items():
        t[key] = t[other]
    for key in [k for k in t if k.startswith("lo/")]:  # float64, kept as what float32 lacks
        name = key.removeprefix("lo/")
        t["f64/" + name] = t[name].double() + t.pop(key).double()
    return t
