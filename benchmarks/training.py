"""Trains a small model on the fused road and on plain PyTorch from the same seed: python -m benchmarks.training

Digits that people wrote, from scikit-learn, with Swin V1 and V2; the direction of a moving dot with the 3D model. Both
roads see the same weights, batches and dropped attention weights, so their losses agree until rounding has grown.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swin_fast
from swin_fast import native

ROADS = {"fused": "auto", "reference": "reference"}  # name -> swin_fast's backend
FIRST_STEPS = 20
ROUNDING = 2**-23  # of float32
FEW = 8  # so many roundings the first losses may be apart
LUCK = 0.02  # of the test set: later on the roads part as two seeds would, by a few of some hundred samples


@dataclass(frozen=True)
class Data:
    """Inputs (N, ...) float32 of about size one, and classes (N) int64."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """`least` is the share of the test set that a training must get right."""

    name: str
    data: Callable[[], Data]
    build: Callable[[], nn.Module]
    epochs: int
    least: float
    learning_rate: float = 3e-3
    batch: int = 64


@dataclass(frozen=True)
class Curve:
    """The loss of every step, the share of the test set that was right after every epoch, and the time of all."""

    losses: list[float]
    accuracies: list[float]
    seconds: float


@cache
def digits() -> Data:
    """1797 digits of 8 x 8 pixels (UCI, as scikit-learn ships them); every third one is for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit(f"benchmarks.training needs scikit-learn for its digits: {error}") from error
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    classes = torch.tensor(found.target, dtype=torch.int64)
    test = torch.arange(len(classes)) % 3 == 2
    return Data((images[~test], classes[~test]), (images[test], classes[test]))


@cache
def directions() -> Data:
    """1536 noisy clips (1, 8, 12, 12) of a square that moves one of 8 ways; no single frame says which."""
    rng = torch.Generator().manual_seed(0)
    count, frames, side = 1536, 8, 12
    classes = torch.randint(8, (count,), generator=rng)
    moves = torch.tensor([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)])
    start = torch.randint(side, (count, 1, 2), generator=rng)
    corner = start + torch.arange(frames)[:, None] * moves[classes][:, None]  # (count, frames, 2)
    clips = 0.2 * torch.randn(count, frames, side, side, generator=rng)
    sample, frame = torch.meshgrid(torch.arange(count), torch.arange(frames), indexing="ij")
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        clips[sample, frame, (corner[..., 0] + row) % side, (corner[..., 1] + column) % side] += 2
    clips, half = clips[:, None], count * 2 // 3
    return Data((clips[:half], classes[:half]), (clips[half:], classes[half:]))


class VideoClassifier(nn.Module):
    """A 3D backbone, the mean of its map, one Linear."""

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).mean((2, 3, 4)))


def classifier(model: type[nn.Module]) -> nn.Module:
    """V1 or V2 for the digits: windows of 2 x 2 on maps of 4 x 4 and 2 x 2, every dropout."""
    return model(
        8, 2, 1, 10, 64, (2, 2), (4, 8), window_size=2, mlp_ratio=2.0, attn_drop_rate=0.1, drop_path_rate=0.1, ape=True
    )


def video_classifier() -> nn.Module:
    backbone = swin_fast.SwinTransformer3D(
        patch_size=(2, 2, 2), in_chans=1, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=(4, 3, 3),
        mlp_ratio=2.0, attn_drop_rate=0.05, drop_path_rate=0.0, patch_norm=True,
    )  # fmt: skip
    return VideoClassifier(backbone, 8)


TASKS = {
    task.name: task
    for task in (
        Task("digits", digits, partial(classifier, swin_fast.SwinTransformer), epochs=40, least=0.97),
        Task("digits-v2", digits, partial(classifier, swin_fast.SwinTransformerV2), epochs=40, least=0.97),
        Task("video", directions, video_classifier, epochs=15, least=0.9),
    )
}


def train(task: Task, road: str, seed: int = 0, steps: int | None = None) -> Curve:
    """Train from `seed` on a road of `ROADS`, `steps` steps or all epochs."""
    data, start = task.data(), time.perf_counter()
    torch.manual_seed(seed)  # weights, then dropout
    order = torch.Generator().manual_seed(seed)
    model = task.build().train()
    (inputs, classes), losses, accuracies = data.train, [], []
    per_epoch = len(inputs) // task.batch
    total = task.epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), task.learning_rate, weight_decay=0.05)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / per_epoch) * (1 + math.cos(math.pi * step / total)) / 2
    )
    with swin_fast.use_backend(ROADS[road]):
        for _ in range(task.epochs):
            shuffled = torch.randperm(len(inputs), generator=order)
            for i in range(per_epoch):
                rows = shuffled[i * task.batch : (i + 1) * task.batch]
                loss = F.cross_entropy(model(inputs[rows]), classes[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    return Curve(losses, accuracies, time.perf_counter() - start)
            accuracies.append(accuracy(model, *data.test))
    return Curve(losses, accuracies, time.perf_counter() - start)


@torch.inference_mode()
def accuracy(model: nn.Module, inputs: Tensor, classes: Tensor) -> float:
    model.eval()
    right = sum(
        (model(x).argmax(1) == y).sum().item() for x, y in zip(inputs.split(256), classes.split(256), strict=True)
    )
    model.train()
    return right / len(inputs)


def apart(a: Curve, b: Curve) -> list[float]:
    """How far the losses of the first steps are from each other, as a share of the loss."""
    return [abs(x - y) / y for x, y in zip(a.losses[:FIRST_STEPS], b.losses[:FIRST_STEPS], strict=True)]


def judge(task: Task, curves: dict[str, Curve], again: Curve) -> list[str]:
    """What is not as it must be, in words."""
    wrong = []
    fused, plain = curves["fused"], curves["reference"]
    if max(apart(fused, plain)) > FEW * ROUNDING:
        wrong.append(f"the first {FIRST_STEPS} losses are up to {max(apart(fused, plain)):.1e} apart")
    if again.losses != fused.losses[: len(again.losses)]:
        wrong.append("a second run has other losses")
    for road, curve in curves.items():
        if curve.accuracies[-1] < task.least:
            wrong.append(f"{road} gets {curve.accuracies[-1]:.1%} right, which must be {task.least:.0%}")
    ends = [curve.accuracies[-1] for curve in curves.values()]
    if max(ends) - min(ends) > LUCK:
        wrong.append(f"the roads end {max(ends) - min(ends):.1%} of the test set apart")
    return wrong


def report(task: Task, curves: dict[str, Curve]) -> None:
    fused, plain = curves["fused"], curves["reference"]
    print(f"\n{task.name}: loss of the first {FIRST_STEPS} steps")
    print("step      fused  reference   apart")
    for i, distance in enumerate(apart(fused, plain)):
        print(f"{i + 1:4}  {fused.losses[i]:9.6f}  {plain.losses[i]:9.6f}  {distance:.1e}")
    per_epoch = len(fused.losses) // len(fused.accuracies)
    print(f"\n{task.name}: mean loss of an epoch, and the share of the test set that is right")
    print("epoch    fused           reference")
    for i, (a, b) in enumerate(zip(fused.accuracies, plain.accuracies, strict=True)):
        means = (sum(c.losses[i * per_epoch : (i + 1) * per_epoch]) / per_epoch for c in (fused, plain))
        left, right = means
        print(f"{i + 1:5}  {left:7.4f} {a:7.2%}  {right:7.4f} {b:7.2%}")
    print(f"seconds: fused {fused.seconds:.1f}, reference {plain.seconds:.1f}", flush=True)


def draw(found: dict[str, dict[str, Curve]], file: Path) -> None:
    """Losses of both roads, how far they are apart and the test accuracy, a row for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), 3, figsize=(13, 3.4 * len(found)), squeeze=False, layout="constrained")
    for row, (name, curves) in zip(axes, found.items(), strict=True):
        fused, plain = curves["fused"], curves["reference"]
        for (road, curve), style in zip(curves.items(), ("-", ":"), strict=True):
            row[0].plot(curve.losses, style, label=f"{road}, {curve.seconds:.0f} s", linewidth=1.2)
            row[2].plot(range(1, len(curve.accuracies) + 1), [100 * a for a in curve.accuracies], style, label=road)
        distance = [max(abs(a - b) / b, ROUNDING / 4) for a, b in zip(fused.losses, plain.losses, strict=True)]
        row[1].semilogy(distance, linewidth=0.8, color="#6b7785")
        row[1].axhline(ROUNDING, color="#e4572e", linewidth=0.8, label="spacing of float32")
        row[0].set(title=f"{name}: loss", xlabel="step")
        row[1].set(title="losses apart, as a share", xlabel="step")
        row[2].set(title="test set right, %", xlabel="epoch")
        for axis in row:
            axis.legend(frameon=False)
            axis.grid(alpha=0.2)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch; such small models gain nothing from more (1)")
    parser.add_argument("--figure", type=Path, default=Path("training.svg"), help="file to draw to (%(default)s)")
    args = parser.parse_args(argv)
    if not native.loaded:
        print(f"nothing to compare: {native.reason}", file=sys.stderr)
        return 1
    torch.set_num_threads(args.threads)
    found, wrong = {}, []
    for task in (TASKS[name] for name in args.task):
        found[task.name] = curves = {road: train(task, road, args.seed) for road in ROADS}
        report(task, curves)
        wrong += [
            f"{task.name}: {fault}" for fault in judge(task, curves, train(task, "fused", args.seed, FIRST_STEPS))
        ]
    draw(found, args.figure)
    print(f"\ndrawn to {args.figure}")
    for fault in wrong:
        print(f"wrong: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
