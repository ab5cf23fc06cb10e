"""One of two processes that share a model by FSDP1; run by test_fsdp1.py, prints how far the outputs are apart."""

from __future__ import annotations

import copy
import sys

import torch
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy


def main(rank: int, store: str, unit: str, when: str) -> None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # see tests/peers.py, which a process of its own cannot import
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention

    import swin_fast

    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = SwinTransformer(
        img_size=16, patch_size=2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5,
        strict_img_size=False,
    ).eval()  # fmt: skip
    plain = copy.deepcopy(model)
    if when == "before":
        swin_fast.accelerate(model, strict=True)
    policy = ModuleWrapPolicy({SwinTransformerBlock if unit == "block" else WindowAttention})
    shared = FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"))
    report = swin_fast.accelerate(shared)
    x = torch.randn(2, 3, 18, 22, generator=torch.Generator().manual_seed(rank))
    out, want = shared(x), plain(x)
    out.square().sum().backward()  # sums the gradients over both processes
    norm = sum(p.grad.square().sum() for p in shared.parameters() if p.grad is not None)
    torch.distributed.all_reduce(norm)
    both = [torch.randn(2, 3, 18, 22, generator=torch.Generator().manual_seed(r)) for r in range(2)]
    sum(plain(y).square().sum() for y in both).backward()
    exact = sum((p.grad / 2).square().sum() for p in plain.parameters())  # FSDP takes the mean
    blocks = [entry for entry in report.replaced if "mlp" not in entry.name]
    print(len(blocks), float((out - want).abs().max()), float(norm / exact))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
