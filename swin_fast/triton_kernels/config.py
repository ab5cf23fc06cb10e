"""What decides which kernels run (`Variant`), how they are cut (`Config`) and the rule for it. Imports no Triton."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

Axes = tuple[int, int, int]
ITEM_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Variant:
    """One kind of call. Sizes have three axes (the first is 1 for a 2D map), dtypes are Triton's names or None."""

    dtype: str  # "bf16", "fp16" or "fp32"
    window: Axes
    grid: Axes
    shift: Axes
    batch: int
    heads: int
    head_dim: int
    table: str | None = None
    rows: int = 0  # of the table
    index: str | None = None
    mask: str | None = None
    logit_scale: str | None = None
    pad: bool = False  # padding is attended: pad_qkv is given
    dropout: bool = False
    roll_then_pad: bool = False
    align: int = 16  # a power of two up to 16 that divides every stride of qkv and of the gradient, in elements
    large: bool = False  # an image, or a window's mask, spans 2**31 elements
    tf32: bool = False

    @property
    def tokens(self) -> int:
        return prod(self.window)

    @property
    def windows(self) -> int:
        """Windows of the whole batch."""
        return self.batch * prod(-(-g // w) for g, w in zip(self.grid, self.window, strict=True))

    @property
    def padded(self) -> bool:
        return any(g % w for g, w in zip(self.grid, self.window, strict=True))

    @property
    def shifted(self) -> bool:
        return any(self.shift)

    @property
    def block_d(self) -> int:
        """head_dim as the kernels hold it: a power of two, at least what the matrix units take."""
        return max(16, power_of_two(self.head_dim))


@dataclass(frozen=True)
class Config:
    """Queries and keys of a tile, and how many programs share a multiprocessor.

    A window is whole, one tile, where neither block is smaller than its columns; else keys are walked in tiles.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    programs_per_sm: int
    max_registers: int = 0  # of a thread, 0: the compiler's choice; NVIDIA only


def power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def columns(variant: Variant) -> int:
    """Keys of a window as tiles number them: dropout draws four at once, so the count is rounded up to fours."""
    return -(-variant.tokens // 4) * 4 if variant.dropout else variant.tokens


def is_whole(variant: Variant, config: Config) -> bool:
    return min(config.block_m, config.block_n) >= columns(variant)


def default_config(variant: Variant, backward: bool) -> Config:
    """A safe choice for any call on any GPU, by rule.

    The numbers come from what the compiler reports for sm_80, sm_90 and gfx942 (registers, spills, shared memory);
    nothing was timed, and a tuned row takes the place of any of them.
    """
    row = variant.block_d * ITEM_SIZE[variant.dtype]  # bytes of one token's q, k or v
    whole = max(16, power_of_two(columns(variant)))
    # One tile a window up to 64 tokens (7x7 and 8x8). Four tiles of rows stay within the 64 KiB of shared memory of an
    # MI300, and the gradients of longer rows, which are held in registers, would spill.
    if whole == 64 and row <= 128:
        # Loads of the next window run while this one is computed; a second stage of longer rows takes shared memory
        # from other programs.
        stages = 2 if row <= 64 else 1
        if backward:
            # Four 64 x 64 tiles of float32 live at once: 255 registers with 4 warps, two programs. With 8 warps there
            # would be one, and rows split between warps meet at a barrier for every maximum and sum.
            return Config(64, 64, 4, stages, 2)
        # The compiler takes some more without need; with 168 three programs share a multiprocessor, and still nothing
        # spills. What holds one more tile (the mask, the bits of dropout, float32 without matrix units) does not fit.
        fits = not (variant.mask or variant.dropout) and (variant.dtype != "fp32" or variant.tf32)
        return Config(64, 64, 4, stages, *((3, 168) if fits else (2, 0)))
    if whole <= 32 and row <= 512 // (whole // 16):
        return Config(whole, whole, 1 if whole == 16 else 2, 2 if row <= 128 else 1, 16 if whole == 16 else 8)
    # Tiles of keys: 64 columns while a row is short, fewer for long ones, so that four tiles of rows fit as above.
    block = min(64 if row <= 128 else 32 if row <= 512 else 16, whole)
    return Config(block, block, {16: 1, 32: 2, 64: 4}[block], 1, 2 if block == 64 else 4)


def candidates(variant: Variant, backward: bool) -> list[Config]:
    """What a tuner tries: the default first, then other warps, stages and numbers of programs for the same tiles."""
    first = default_config(variant, backward)
    others = [
        Config(first.block_m, first.block_n, warps, stages, programs, registers)
        for warps in sorted({max(1, first.num_warps // 2), first.num_warps, min(8, first.num_warps * 2)})
        for stages in (1, 2, 3)
        for programs, registers in ((2, 0), (3, 0), (3, 168), (4, 0), (4, 128), (8, 0), (16, 0))
    ]
    return [first] + [c for c in others if c != first]


def alignment(*strides: int) -> int:
    """The largest power of two up to 16 that divides all strides."""
    return gcd(16, *strides)
