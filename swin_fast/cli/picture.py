"""From a picture file to what a model reads, and to what the figure shows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from .common import UserError, need

DEFAULT = files("swin_fast") / "data" / "chelsea.jpg"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training pictures, as every Swin was trained
CROP = 0.875  # the usual share of the shorter side that an evaluation crop keeps: 224 of 256


def read(path: str | None):
    """The file as a PIL RGB picture, the shipped photograph if `path` is None."""
    image = need("PIL.Image", "pillow")
    errors = (image.UnidentifiedImageError, image.DecompressionBombError, OSError, SyntaxError, ValueError)
    if path is None:
        with DEFAULT.open("rb") as file:
            return image.open(file).convert("RGB")
    if not Path(path).exists():
        raise UserError(f"there is no picture {path}")
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file")
    try:
        with image.open(path) as picture:
            return need("PIL.ImageOps", "pillow").exif_transpose(picture).convert("RGB")
    except errors as error:  # a damaged file can fail at opening or at decoding
        reason = "it is no picture" if isinstance(error, image.UnidentifiedImageError) else error
        raise UserError(f"cannot read {path} as a picture: {reason}") from error


def centre_square(picture):
    """The square in the middle that the model sees, at the picture's own resolution."""
    side = max(round(min(picture.size) * CROP), 1)
    left, top = ((n - side) // 2 for n in picture.size)
    return picture.crop((left, top, left + side, top + side))


def to_batch(square, size: int, batch: int) -> Tensor:
    """(batch, 3, size, size) float32, normalised. Entry i is moved by 4 * i pixels, so that no two are the same."""
    resized = square.resize((size, size), need("PIL.Image", "pillow").Resampling.BICUBIC)
    x = to_tensor(resized)
    return torch.stack([x.roll(4 * i, -1) for i in range(batch)])


def to_tensor(image) -> Tensor:
    """(3, height, width) float32, normalised as ImageNet's pictures were in training."""
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return (pixels.permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
