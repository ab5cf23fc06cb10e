"""Checkpoint files of every library that has a Swin Transformer, read into our models and written back."""

from .files import CheckpointError
from .load import load_checkpoint
from .read import Checkpoint, read_checkpoint
from .recognise import FORMATS
from .resize import resize_bicubic, resize_geometric
from .save import save_checkpoint

__all__ = [
    "FORMATS",
    "Checkpoint",
    "CheckpointError",
    "load_checkpoint",
    "read_checkpoint",
    "resize_bicubic",
    "resize_geometric",
    "save_checkpoint",
]
