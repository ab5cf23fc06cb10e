"""Results that the allocator has to fetch from the system come in large pages."""

from pathlib import Path

import pytest
import torch

from swin_fast.functional import window_attention

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
MIB = 2**20


def flags(tensor: torch.Tensor) -> list[str]:
    """What the kernel has noted about the mapping that the middle of `tensor` lies in."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= middle < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("smaps names no mapping of the tensor")


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this kernel has no large pages to ask for")
@pytest.mark.parametrize("side, large", [(98, False), (308, True)])
def test_large_pages(side, large):
    qkv = torch.randn(1, side, side, 3 * 96, requires_grad=True)
    out = window_attention(qkv, num_heads=3, window_size=7, shift_size=3)
    (grad,) = torch.autograd.grad(out, qkv, torch.ones_like(out))
    assert (out.nbytes >= 32 * MIB) == large
    assert ("hg" in flags(out)) == large
    assert ("hg" in flags(grad)) == (grad.nbytes >= 32 * MIB)
