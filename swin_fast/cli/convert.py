"""Writes a checkpoint of one library as another library has it.

The library of IN is recognised by its keys. OUT is .safetensors, or .pth (.pt, .bin); it appears whole or not at all.
Tensors keep their values and dtypes.
"""

from __future__ import annotations

import argparse

from ..models import SwinV2Config
from ..models.checkpoints import FORMATS, save_checkpoint
from ..models.checkpoints.files import check_target, some
from . import weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a checkpoint: .safetensors, .pth, .pt or .bin")
    parser.add_argument("output", metavar="OUT", help="the file to write, an old one is replaced")
    text = (
        "original: also the detection code and Video Swin; transformers: the names of modules in 5.x; transformers4: "
    )
    text += "the names of files, for from_pretrained of any version; mmdet: also mmseg and mmpretrain"
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help=text)
    weights.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    with weights.user_errors():
        check_target(args.output)
    checkpoint = weights.read(args.input, args)
    with weights.user_errors():
        save_checkpoint(checkpoint, args.output, args.to)
    parameters = sum(tensor.numel() for tensor in checkpoint.state_dict.values()) / 1e6
    print(f"read   {args.input}: {checkpoint.format}, {parameters:.1f} M parameters, {checkpoint.config!r}")
    if checkpoint.left_out:
        print(f"       left out {len(checkpoint.left_out)} keys of other parts: {some(checkpoint.left_out)}")
    print(f"wrote  {args.output}: {args.to}")
    config = checkpoint.config
    if isinstance(config, SwinV2Config) and not FORMATS[args.to].buffers and not args.output.endswith(".safetensors"):
        print(f"       it does not say that its window is {config.window_size} and its image {config.img_size}")
    return 0
