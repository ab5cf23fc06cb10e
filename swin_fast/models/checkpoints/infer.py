"""The config of a model, read off its tensors (under our names, in our layout)."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isqrt, prod

from torch import Tensor

from ...functional import MAX_WINDOW_TOKENS
from ...geometry import padded_size, relative_position_index, to_axes
from ..config import Config, Swin3DConfig, SwinConfig, SwinV2Config
from .files import CheckpointError
from .hints import Hints
from .names import Tensors


class _Shapes:
    """The tensors of one file, asked for with the number of axes that they must have."""

    def __init__(self, tensors: Tensors, path: str, key: Callable[[str], str]):
        self.tensors, self.path, self.key = tensors, path, key

    def fault(self, name: str, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not a whole checkpoint: {self.key(name)} {text}")

    def get(self, name: str, *axes: int) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self.fault(name, "is missing")
        if tensor.dim() not in axes:
            wanted = " or ".join(map(str, axes))
            raise self.fault(name, f"must have {wanted} axes, its shape is {tuple(tensor.shape)}")
        return tensor


def infer_config(tensors: Tensors, path: str, key: Callable[[str], str], hints: Hints) -> tuple[Config, bool]:
    """The config that these tensors are of, with the default policy, and whether its image size is more than a guess.

    Window and image size are read off the bias table (a square of odd side, or the index beside it), V2's coordinate
    table, the shift mask and the position embedding. Where nothing tells the image size, the last map is taken to be
    one window (7 with four stages: 224 pixels). What V2's files of timm and transformers lack must come from `hints`.

    Args:
        key: name -> the file's own key, for messages.
    """
    shapes = _Shapes(tensors, path, key)
    patch = shapes.get("patch_embed.proj.weight", 4, 5)
    depths = _depths(shapes)
    first = "layers.0.blocks.0"
    v2, three_d = f"{first}.attn.logit_scale" in tensors, patch.dim() == 5
    norms = sorted(int(m[1]) for name in tensors if (m := re.fullmatch(r"norm(\d+)\.weight", name)))
    common = {
        "patch_size": _one(patch.shape[2:]),
        "in_chans": patch.shape[1],
        "embed_dim": patch.shape[0],
        "depths": depths,
        "num_heads": tuple(_heads(shapes, i, v2) for i in range(len(depths))),
        "mlp_ratio": shapes.get(f"{first}.mlp.fc1.weight", 2).shape[0] / patch.shape[0],
        "qkv_bias": any(f"{first}.attn.{n}" in tensors for n in ("qkv.bias", "q_bias", "v_bias", "q.bias", "v.bias")),
        "patch_norm": "patch_embed.norm.weight" in tensors,
        "out_indices": tuple(norms) if norms and "norm.weight" not in tensors else None,
    }
    if three_d:
        window = _window_3d(shapes)
        _check_tokens(shapes, window)
        return Swin3DConfig(**common | {"patch_size": tuple(patch.shape[2:])}, window_size=window), True
    head = tensors.get("head.weight")
    common |= {
        "num_classes": 0 if head is None else shapes.get("head.weight", 2).shape[0],
        "ape": "absolute_pos_embed" in tensors,
    }
    if common["out_indices"] is not None:
        common["num_classes"] = 1000  # a backbone has no head, this is the default
    windows = [_window_v2(shapes, i) if v2 else _window(shapes, i) for i in range(len(depths))]
    window = _window_size(shapes, windows, hints)
    _check_tokens(shapes, (window, window))
    image = _img_size(shapes, windows, window, patch.shape[2:], hints)
    common |= {"window_size": window, "img_size": image or _usual_img_size(window, len(depths), patch.shape[2:])}
    if not v2:
        return SwinConfig(**common), image is not None
    if image is None and windows[0] is None:
        raise CheckpointError(
            f"{path} does not say the image size of its Swin V2, and so not its last windows: give img_size="
        )
    common |= {
        "pretrained_window_sizes": _pretrained(shapes, windows, hints, len(depths)),
        "extra_norm_period": _extra_norm_period(tensors),
    }
    return SwinV2Config(**common), image is not None


def _depths(shapes: _Shapes) -> tuple[int, ...]:
    """Blocks of each stage; a stage or block that is missing is told by a later one."""
    blocks: dict[int, set[int]] = {}
    for name in shapes.tensors:
        match = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    depths = []
    for i in range(max(blocks) + 1):
        found = blocks.get(i, set())
        depth = max(found, default=-1) + 1
        for j in range(max(depth, 1)):
            if j not in found:
                raise shapes.fault(f"layers.{i}.blocks.{j}", "is missing")
        depths.append(depth)
    return tuple(depths)


def _heads(shapes: _Shapes, stage: int, v2: bool) -> int:
    attn = f"layers.{stage}.blocks.0.attn"
    if v2:
        return shapes.get(f"{attn}.logit_scale", 3).shape[0]
    return shapes.get(f"{attn}.relative_position_bias_table", 2).shape[1]


def _window(shapes: _Shapes, stage: int) -> int:
    """V1's window, from its table of (2w - 1)**2 rows."""
    name = f"layers.{stage}.blocks.0.attn.relative_position_bias_table"
    rows = shapes.get(name, 2).shape[0]
    side = isqrt(rows)
    if side**2 != rows or side % 2 == 0:
        raise shapes.fault(name, f"is of no square window: {rows} rows are no square of an odd number")
    return (side + 1) // 2


def _window_v2(shapes: _Shapes, stage: int) -> int | None:
    """V2's window, from its table of coordinates (1, 2w - 1, 2w - 1, 2); None where the file has none."""
    name = f"layers.{stage}.blocks.0.attn.relative_coords_table"
    if name not in shapes.tensors:
        return None
    _, height, width, _ = shapes.get(name, 4).shape
    if height != width or height % 2 == 0:
        raise shapes.fault(name, f"is of no square window: its shape is {tuple(shapes.tensors[name].shape)}")
    return (height + 1) // 2


def _window_3d(shapes: _Shapes) -> tuple[int, int, int]:
    """The window along each axis: read off the index, or the widest (w, h, h) whose table has so many rows."""
    attn = "layers.0.blocks.0.attn"
    name = f"{attn}.relative_position_bias_table"
    rows, index = shapes.get(name, 2).shape[0], shapes.tensors.get(f"{attn}.relative_position_index")
    if index is not None:
        offsets = (index[:, 0] - index[0, 0]).tolist()  # of token i = (d, h, w): d * (2H-1) * (2W-1) + h * (2W-1) + w
        width = next((i for i, offset in enumerate(offsets) if offset != i), len(offsets))
        lines = offsets[::width]
        height = next((i for i, offset in enumerate(lines) if offset != i * (2 * width - 1)), len(lines))
        window = len(offsets) // (width * height), height, width
        whole = prod(window) == len(offsets) and prod(2 * w - 1 for w in window) == rows
        if not whole or not (index == relative_position_index(window)).all():
            raise shapes.fault(f"{attn}.relative_position_index", "is not the index of a 3D window")
        return window
    side = next(s for s in range(isqrt(rows) | 1, 0, -2) if rows % s**2 == 0)
    if (rows // side**2) % 2 == 0:
        raise shapes.fault(name, f"is of no window: {rows} rows are no product of odd numbers")
    return (rows // side**2 + 1) // 2, (side + 1) // 2, (side + 1) // 2


def _window_size(shapes: _Shapes, windows: list[int | None], hints: Hints) -> int:
    known = [w for w in windows if w is not None]
    window = max(known) if known else hints.window_size
    if window is None:
        raise CheckpointError(
            f"{shapes.path} does not say the window of its Swin V2: give window_size= and img_size= (they are in its "
            "name: window8_256), or put its config.json beside it"
        )
    return window


def _check_tokens(shapes: _Shapes, window: tuple[int, ...]) -> None:
    """Before a model is built, whose index has the square of this."""
    if prod(window) > MAX_WINDOW_TOKENS:
        sides = "x".join(map(str, window))
        raise shapes.fault("layers.0.blocks.0.attn", f"has windows of {sides} tokens, more than {MAX_WINDOW_TOKENS}")


def _img_size(shapes: _Shapes, windows: list[int | None], window: int, patch, hints: Hints):
    """Pixels that the model was built for, None where nothing says. Maps of stage i have 2**i times fewer rows."""
    maps = _Maps(shapes, windows, window, patch)
    if hints.img_size is not None and maps.fit(hints.img_size):
        return hints.img_size
    grid = maps.grid
    if grid is not None:
        return _one([n * p for n, p in zip(grid, patch, strict=True)])
    for i, tokens in (maps.masks | maps.positions).items():
        side = isqrt(tokens * prod(patch) * 4**i)
        if maps.fit(side):
            return side
    if maps.positions:
        raise shapes.fault(
            "absolute_pos_embed", f"has {maps.positions[0]} positions, of no square image: give img_size=(H, W)"
        )
    shrunk = [(i, w) for i, w in enumerate(windows) if w is not None and w < window]  # to the whole map
    for i, w in shrunk:
        size = _one([w * 2**i * p for p in patch])
        if maps.fit(size):
            return size
    for i, w in shrunk:
        raise shapes.fault(
            f"layers.{i}.blocks.0.attn",
            f"has windows of {w}, another stage of {window}, which no square image makes so: give img_size=(H, W)",
        )
    return None


class _Maps:
    """What a file says about the maps of each stage: the tokens of shift masks (windows of the map, N, N), which only
    the original's files have, and of the position embedding; and the windows, which shrink with a map."""

    def __init__(self, shapes: _Shapes, windows: list[int | None], window: int, patch):
        self.windows, self.window, self.patch = windows, window, patch
        self.masks, self.positions, self.grid = {}, {}, None
        for i in range(len(windows)):
            mask = shapes.tensors.get(f"layers.{i}.blocks.1.attn_mask")
            if mask is not None and mask.dim() == 3:
                self.masks[i] = mask.shape[0] * mask.shape[1]
        if "absolute_pos_embed" in shapes.tensors:
            shape = shapes.get("absolute_pos_embed", 3, 4).shape
            self.grid = tuple(shape[2:]) if len(shape) == 4 else None
            self.positions[0] = prod(self.grid or shape[1:2])

    def fit(self, size: int | tuple[int, ...]) -> bool:
        """Whether a model built for pictures of `size` has such maps."""
        sides = [-(-n // p) for n, p in zip(to_axes(size, 2, "img_size"), self.patch, strict=True)]
        for i, w in enumerate(self.windows):
            of_stage = [-(-side // 2**i) for side in sides]
            if w is not None and w != min(self.window, *of_stage):
                return False
            if i in self.masks and self.masks[i] != prod(padded_size(of_stage, (w or self.window,) * 2)):
                return False
            if i in self.positions and self.positions[i] != prod(of_stage):
                return False
        return self.grid is None or list(self.grid) == sides


def _usual_img_size(window: int, stages: int, patch) -> int | tuple[int, ...]:
    """The last map is one window."""
    return _one([window * 2 ** (stages - 1) * p for p in patch])


def _pretrained(shapes: _Shapes, windows: list[int | None], hints: Hints, stages: int) -> tuple[int, ...]:
    """V2's windows of pre-training, by which its coordinates were divided; 0 where that is the window itself."""
    if windows[0] is None:
        sizes = hints.pretrained_window_sizes or (0,) * stages
        if len(sizes) < stages:
            raise CheckpointError(
                f"{shapes.path} has {stages} stages: pretrained_window_sizes must have one entry each, got {sizes}"
            )
        return tuple(sizes[:stages])  # transformers' default is for four
    result = []
    for i, window in enumerate(windows):
        table = shapes.tensors[f"layers.{i}.blocks.0.attn.relative_coords_table"]
        # the largest entry is log2(1 + 8 * (w - 1) / (p - 1)) / log2(8)
        ratio = (2 ** (3 * table[0, -1, -1, 0].item()) - 1) / 8 if window > 1 else 1
        pretrained = round((window - 1) / ratio) + 1 if ratio > 0 else 0
        result.append(0 if pretrained == window else pretrained)
    return tuple(result)


def _extra_norm_period(tensors: Tensors) -> int:
    places = [int(m[1]) for name in tensors if (m := re.fullmatch(r"layers\.\d+\.blocks\.(\d+)\.norm3\.weight", name))]
    return min(places) + 1 if places else 0


def _one(sizes) -> int | tuple[int, ...]:
    """One number where all are the same, as the constructors take it."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
