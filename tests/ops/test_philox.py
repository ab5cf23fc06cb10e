"""The dropout generator against the published answers of Philox-4x32-10, and the mask it gives."""

from __future__ import annotations

import pytest
import torch

from swin_fast.reference import dropout_keep

from .cases import Case, run, up

ONES = 0xFFFFFFFF
# kat_vectors of Random123 (Salmon, Moraes, Dror, Shaw 2011): counter, key, answer
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds on Python's own integers."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right & ONES, (left >> 32) ^ d ^ k1, left & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return [a, b, c, d]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_published_answers(counter, key, answer):
    assert philox(counter, key) == answer


@pytest.mark.parametrize("tokens", [1, 4, 6, 9])
@pytest.mark.parametrize("seed", [0, 1, 0x123456789ABCDEF0, 2**62 - 1, -1])
def test_mask_is_the_words_of_the_generator(tokens, seed):
    windows, heads, p = 2, 3, 0.4
    keep = dropout_keep(torch.tensor([seed]), windows, heads, tokens, p)
    assert keep.shape == (windows, heads, tokens, tokens)
    key, quarter = [seed & ONES, (seed >> 32) & ONES], -(-tokens // 4)
    for item in range(windows * heads):
        for query in range(tokens):
            words = [philox([c, query, item, 0], key) for c in range(quarter)]
            row = [words[j % quarter][j // quarter] >= int(p * 2**32) for j in range(tokens)]
            assert keep[item // heads, item % heads, query].tolist() == row


def test_threshold_is_exact():
    """A weight is dropped where its word is below p * 2**32: the first published words, at p one step either side."""
    for j, word in enumerate(KNOWN[0][2]):
        kept = [dropout_keep(torch.tensor([0]), 1, 1, 4, (word + step) / 2**32)[0, 0, 0, j] for step in (0, 1)]
        assert kept == [True, False]


def test_dropped_share_and_scale():
    case = Case((8, 8), (64, 64), heads=1, head_dim=2, batch=1, scale=0.0, bias="none", dropout=0.3)
    tensors = up(case.tensors(torch.float64))
    tensors["qkv"].fill_(1)  # every weight is 1 / 64 and every value 1, so that out counts the kept ones
    out = run(case, tensors)["out"][..., 0]
    kept = out * 64 * (1 - case.dropout)
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-9)
    share = float(kept.mean()) / 64
    assert abs(share - 0.7) < 5 * (0.3 * 0.7 / 64**3) ** 0.5  # five standard deviations of 64**3 draws


def test_seed_comes_from_torch():
    case = Case((4, 4), (8, 8), dropout=0.5)
    tensors = case.tensors(torch.float64)
    first, again, other = (run(Case((4, 4), (8, 8), dropout=0.5, seed=s), tensors)["out"] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
