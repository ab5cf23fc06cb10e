"""Says what is in pictures, by a Swin Transformer whose sizes are read off its checkpoint, whichever library wrote it.

Pictures are resized (bicubic) so that the shorter side is 256 for a model of 224 pixels, cropped in the middle, and
normalised as ImageNet's were in training.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models import Swin3DConfig, from_config
from ..models.checkpoints import Checkpoint
from . import picture, weights
from .common import UserError, at_least, device, need, progress, threads

LABELS = {1000: "imagenet1k_labels.txt", 21841: "imagenet22k_labels.txt"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="picture files")
    add("--weights", required=True, metavar="FILE", help=".safetensors or .pth checkpoint of any library")
    add("--labels", metavar="FILE", help="names of the classes, one a line (default: ImageNet's, by their number)")
    add("--top", type=at_least(1), default=5, metavar="N", help="classes to show (default: %(default)s)")
    add("--size", type=at_least(1), metavar="N", help="pixels a side (default: what the model was built for)")
    add("--batch", type=at_least(1), default=8, metavar="N", help="pictures at once (default: %(default)s)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    add("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--json", action="store_true", help="one JSON object instead of a table")
    weights.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    need("PIL.Image", "pillow")
    absent = next((path for path in args.images if not Path(path).exists()), None)
    if absent is not None:
        raise UserError(f"there is no picture {absent}")  # before a large file is read
    with threads(args.threads):
        checkpoint = weights.read(args.weights, args)
        names = labels(args.labels, _classes(checkpoint))
        model = _model(checkpoint).to(args.device)
        size = args.size or _side(checkpoint.config.img_size)
        results = classify(model, args.images, size, args.batch, args.top, args.device)
    found = [
        {
            "image": path,
            "top": [{"class": i, "label": names[i], "probability": share} for share, i in top],
        }
        for path, top in zip(args.images, results, strict=True)
    ]
    if args.json:
        facts = {"weights": args.weights, "format": checkpoint.format, "model": repr(checkpoint.config), "size": size}
        print(json.dumps({**facts, "results": found}, indent=2))
    else:
        print("\n".join(_lines(found)))
    return 0


def classify(
    model: nn.Module, paths: list[str], size: int, batch: int, top: int, on: torch.device
) -> list[list[tuple[float, int]]]:
    """For each picture the (probability, class) of the likeliest classes, the likeliest first."""
    results = []
    starts = range(0, len(paths), batch)
    with torch.inference_mode():
        for start in progress(starts, len(starts), "classify"):
            pictures = [to_input(picture.read(path), size) for path in paths[start : start + batch]]
            shares = model(torch.stack(pictures).to(on)).float().softmax(-1)
            best = shares.topk(min(top, shares.shape[-1]))
            results += [
                list(zip(row.tolist(), classes.tolist(), strict=True))
                for row, classes in zip(best.values, best.indices, strict=True)
            ]
    return results


def to_input(image, size: int) -> Tensor:
    """(3, size, size) float32: the middle of the picture, after its shorter side became size * 256 / 224 pixels."""
    image = _not_too_long(image)
    width, height = image.size
    shorter = int(size * 256 / 224)
    if width <= height:
        scaled = shorter, int(shorter * height / width)
    else:
        scaled = int(shorter * width / height), shorter
    resized = image.resize(scaled, need("PIL.Image", "pillow").Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in scaled)
    return picture.to_tensor(resized.crop((left, top, left + size, top + size)))


def _not_too_long(image):
    """The middle of a picture 16 times as long as wide, or longer: the rest would be enlarged only to be cropped."""
    limit = 16 * min(image.size)
    if max(image.size) <= limit:
        return image
    left, top = (max((side - limit) // 2, 0) for side in image.size)
    return image.crop((left, top, left + min(image.width, limit), top + min(image.height, limit)))


def labels(path: str | None, classes: int) -> list[str]:
    """A name for each class: those in a file, ImageNet's for its numbers of classes, else the number."""
    if path is None:
        if classes not in LABELS:
            return [f"class {i}" for i in range(classes)]
        return (files("swin_fast") / "data" / LABELS[classes]).read_text(encoding="utf-8").splitlines()
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the labels {path}: {error}") from error
    if len(names) != classes:
        raise UserError(f"--labels must name the model's {classes} classes, {path} has {len(names)} lines")
    return names


def _classes(checkpoint: Checkpoint) -> int:
    config, head = checkpoint.config, checkpoint.state_dict.get("head.weight")
    if isinstance(config, Swin3DConfig):
        raise UserError(f"{checkpoint.path} is of a model for videos, and this command classifies pictures")
    if head is None:
        raise UserError(f"{checkpoint.path} has no classifier: there is no head.weight in it")
    if config.in_chans != 3:
        raise UserError(f"{checkpoint.path} is of a model for pictures of {config.in_chans} channels, not 3")
    return len(head)


def _model(checkpoint: Checkpoint) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = from_config(checkpoint.config).eval()
    weights.load_into(model, checkpoint, "the model that its shapes describe")
    return model


def _side(img_size: int | tuple[int, int]) -> int:
    return img_size if isinstance(img_size, int) else max(img_size)


def _lines(found: list[dict]) -> list[str]:
    lines = []
    for result in found:
        lines.append(result["image"])
        lines += [f"  {100 * best['probability']:5.1f} %  {best['label']}" for best in result["top"]]
    return lines
