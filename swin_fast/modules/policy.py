"""The choices about windows in which libraries differ, by name: when they shrink, what is shifted and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..geometry import PAD_ORDERS

CHOICES = {
    "clamp": ("original", "per_axis", "none"),
    "shift": ("map", "shortest", "built", "always"),
    "pad_order": PAD_ORDERS,
    "padding": ("attended", "masked"),
    "clamped_bias": ("exact", "sliced"),
}


@dataclass(frozen=True)
class WindowPolicy:
    """How a block of any model here treats windows; a name in `POLICIES` stands for the one of a library.

    Attributes:
        clamp: how the window shrinks on a small map. "original": both sides become the map's shorter side where that is
            at most the window. "per_axis": each side by itself. "none": never, the map is padded. 2D modules ask once,
            for the `input_resolution` that they are built for, since the size of the bias table follows; 3D modules
            ask for every map (there "original" is refused).
        shift: which axes a shifted block shifts. "map": those that hold more than one window of the map at hand, except
            that at `input_resolution` "original" clamping shifts neither axis where it applies, as the original does.
            "shortest": both, or neither where the map's shorter side fits in a window. "built": those chosen for
            `input_resolution`, whatever the map. "always": both.
        pad_order: "pad_then_roll" or "roll_then_pad", where the window does not divide the map.
        padding: "attended": a padded token is zero before the qkv Linear and takes part with that Linear's bias.
            "masked": nobody attends to it.
        mask_value: added to a logit where query and key come from different sides of the shift seam; at most 0.
        clamped_bias: in 3D, the bias of a window that has shrunk. "exact": the table's entries for its offsets.
            "sliced": ``relative_position_index[:N, :N]``, which is other entries unless only the first axis shrank.

    The defaults equal the original image models at the size they are built for, and mix no two places at other sizes.
    """

    clamp: str = "original"
    shift: str = "map"
    pad_order: str = "pad_then_roll"
    padding: str = "attended"
    mask_value: float = -100.0
    clamped_bias: str = "exact"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        value = self.mask_value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value <= 0:
            raise ValueError(f"mask_value must be a number <= 0 (it is added to the logits), got {value!r}")

    def fit(self, window: Sequence[int], shift: Sequence[int], size: Sequence[int]) -> tuple[tuple, tuple]:
        """(window, shift) of a block whose map is of `size`."""
        shortest = min(size)
        if self.clamp == "original" and shortest <= min(window):
            return (shortest,) * len(size), (0,) * len(size)
        fitted = tuple(window)
        if self.clamp == "per_axis":
            fitted = tuple(min(w, n) for w, n in zip(window, size, strict=True))
        return fitted, tuple(0 if n <= w else s for n, w, s in zip(size, window, shift, strict=True))

    def __repr__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return f"WindowPolicy({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


DEFAULT_2D = WindowPolicy()
DEFAULT_3D = WindowPolicy(clamp="per_axis")

# what each library does, by the name of the library; read from the sources of the versions that the tests run against
POLICIES = {
    "original": DEFAULT_2D,  # microsoft/Swin-Transformer, V1 and V2
    "timm": WindowPolicy(clamp="per_axis", shift="built", pad_order="roll_then_pad"),
    "timm_always_partition": WindowPolicy(clamp="none", shift="always", pad_order="roll_then_pad"),
    "torchvision": WindowPolicy(clamp="none"),
    "transformers": WindowPolicy(clamp="none", shift="shortest"),  # SwinModel; V2 adds its mask twice:
    "transformers_v2": WindowPolicy(clamp="per_axis", shift="built", mask_value=-200.0),
    "detection": WindowPolicy(clamp="none", shift="always"),  # the original's detection code, mmdet, mmseg
    "video": WindowPolicy(clamp="per_axis", clamped_bias="sliced"),  # Video Swin, torchvision's swin3d, MONAI
}


def to_policy(policy: WindowPolicy | str | None, default: WindowPolicy = DEFAULT_2D) -> WindowPolicy:
    """`policy` itself, the one of that name, or `default` for None."""
    if policy is None:
        return default
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ValueError(f"policy must be a WindowPolicy or one of {tuple(POLICIES)}, got {policy!r}")
        return POLICIES[policy]
    if not isinstance(policy, WindowPolicy):
        raise TypeError(f"policy must be a WindowPolicy or a name, got {type(policy).__name__}")
    return policy
