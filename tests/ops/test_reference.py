"""The reference against the definition, token by token: no padding, roll or partition of a tensor in sight."""

from __future__ import annotations

from itertools import product
from math import inf, prod

import pytest
import torch

from swin_fast.dispatch import use_backend
from swin_fast.functional import window_attention
from swin_fast.geometry import relative_position_index

from ..weights import assert_close
from .cases import Case, up


def tokens_of_windows(case: Case):
    """For each window, row-major: for each of its slots (map coordinate or None outside the map, region)."""
    shift = (case.shift,) * len(case.grid) if isinstance(case.shift, int) else case.shift
    padded = [-(-g // w) * w for g, w in zip(case.grid, case.window, strict=True)]
    for corner in product(*(range(0, p, w) for p, w in zip(padded, case.window, strict=True))):
        slots = []
        for inner in product(*(range(w) for w in case.window)):
            rolled = [c + i for c, i in zip(corner, inner, strict=True)]
            if case.pad_order == "pad_then_roll":  # the padding travels with the map
                place = [(r + s) % p for r, s, p in zip(rolled, shift, padded, strict=True)]
            else:  # the map is rolled first, the padding stays at the end
                place = [(r + s) % g if r < g else g for r, s, g in zip(rolled, shift, case.grid, strict=True)]
            inside = all(c < g for c, g in zip(place, case.grid, strict=True))
            region = tuple(r >= p - s for r, s, p in zip(rolled, shift, padded, strict=True))
            slots.append((tuple(place) if inside else None, region, inner))
        yield slots


def by_definition(case: Case, t: dict) -> torch.Tensor:
    """`window_attention` of float64 tensors without dropout, one query and one head at a time."""
    h, d, scale = case.heads, case.head_dim, case.head_dim**-0.5 if case.scale is None else case.scale
    out = torch.full((case.batch, *case.grid, h * d), torch.nan, dtype=torch.float64)
    windows = list(tokens_of_windows(case))
    for b, (w, slots) in product(range(case.batch), enumerate(windows)):
        keys = [j for j, (place, _, _) in enumerate(slots) if place is not None or t["pad_qkv"] is not None]
        places = [slots[j][0] for j in keys]
        rows = [t["pad_qkv"] if place is None else t["qkv"][(b, *place)] for place in places]
        rows = torch.stack(rows).view(-1, 3, h, d) if rows else None
        for (i, (place, region, inner)), head in product(enumerate(slots), range(h)):
            if place is None:
                continue
            q, logits = t["qkv"][(b, *place)].view(3, h, d)[0, head], []
            for j, k in zip(keys, rows[:, 1, head], strict=True):
                _, other, inner_j = slots[j]
                if t["logit_scale"] is None:
                    s = float(q @ k) * scale
                else:
                    s = float(q @ k / (q.norm() * k.norm())) * float(t["logit_scale"][head])
                if t["bias_index"] is not None:
                    s += float(t["bias_table"][int(t["bias_index"][i, j]), head])
                elif t["bias_table"] is not None:
                    row = 0  # the offsets of the query from the key, each from 0 to 2w - 2, the last axis fastest
                    for a, c, size in zip(inner, inner_j, case.window, strict=True):
                        row = row * (2 * size - 1) + a - c + size - 1
                    s += float(t["bias_table"][row, head])
                if region != other:
                    s += case.mask_value
                if t["mask"] is not None:
                    s += float(t["mask"][(b * len(windows) + w) % len(t["mask"]), i, j])
                logits.append(s)
            logits = torch.tensor(logits, dtype=torch.float64)
            top = float(logits.max())
            weights = (logits - top).exp() if top > -inf else torch.zeros_like(logits)
            weights = weights / weights.sum() if top > -inf else weights
            out[(b, *place)].view(h, d)[head] = weights @ rows[:, 2, head]
    return out


W, ODD = (2, 3), (5, 4)
CASES = [
    Case(W, (4, 6), shift=(1, 2), head_dim=4),
    Case(W, ODD, shift=(1, 1), head_dim=4),
    Case(W, ODD, shift=(1, 2), head_dim=4, pad_order="roll_then_pad"),
    Case(W, ODD, shift=(1, 2), head_dim=4, pad="attended", scale=0.9),
    Case(W, ODD, shift=(0, 2), head_dim=4, pad="attended", pad_order="roll_then_pad", bias="index"),
    Case(W, (1, 2), shift=(1, 2), head_dim=2, pad="attended", bias="none"),
    Case(W, (1, 2), shift=(1, 2), head_dim=2, pad_order="roll_then_pad"),
    Case(W, ODD, shift=(1, 2), head_dim=4, mask_value=-inf, mask="image"),
    Case(W, (4, 6), shift=(1, 2), head_dim=4, mask_value=-0.5, mask="batch", batch=3),
    Case(W, ODD, shift=1, head_dim=4, cosine=True, pad="attended", mask="one"),
    Case((2, 1, 3), (3, 2, 4), shift=(1, 0, 2), head_dim=2),
    Case((2, 2, 2), (3, 2, 3), shift=(1, 1, 0), head_dim=2, pad="attended", pad_order="roll_then_pad", cosine=True),
]


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case, backend):
    t = up(case.tensors(torch.float64))
    with use_backend(backend):
        got = window_attention(**{k: v for k, v in t.items() if k != "grad"}, **case.options)
    assert_close({"out": got}, {"out": by_definition(case, t)}, 1e-13)


def test_index_of_the_paper():
    """The 2 x 2 table written out: offsets (di, dj) in -1..1 are row (di + 1) * 3 + dj + 1."""
    want = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index((2, 2)).tolist() == want


@pytest.mark.parametrize("window", [(1, 1), (2, 5), (7, 7), (2, 3, 4)])
def test_index_names_every_offset_once(window):
    index, cells = relative_position_index(window), list(product(*map(range, window)))
    seen = {}
    for (i, a), (j, b) in product(enumerate(cells), enumerate(cells)):
        offset = tuple(x - y for x, y in zip(a, b, strict=True))
        assert seen.setdefault(offset, int(index[i, j])) == index[i, j]
    assert sorted(seen.values()) == list(range(prod(2 * w - 1 for w in window)))
