"""What a checkpoint format is; one small file each says how a library names and lays out its tensors."""

from __future__ import annotations

from ..config import Config
from .names import COMPUTED, Tensors


class Format:
    """The tongue of one library.

    "Names" are our keys, with q, k and v apart where the library has them apart. A key in a file is `theirs` of a name,
    behind a prefix, and its tensor one of those that `split` makes of ours.
    """

    name: str  # what a user calls it
    library: str
    anchor: str  # a key that every model of this library has, and few others
    outer: tuple[tuple[str, str], ...] = ()  # (name, key) of parts that lie beside the backbone instead of in it
    prefix = ""  # what a written model stands behind
    wrapper: str | None = None  # of a written .pth file
    buffers: tuple[str, ...] = ()  # of `COMPUTED`, those that the library keeps in its state_dict

    @classmethod
    def of_keys(cls, keys: set[str]) -> Format | None:
        """The format of a file with these keys (without the prefix), the anchor among them; None if it is another."""
        return cls()

    @classmethod
    def of_config(cls, config: Config) -> Format:
        """The format in which a model with this config is written."""
        return cls()

    def ours(self, key: str) -> str:
        return key

    def theirs(self, name: str) -> str:
        return name

    def join(self, tensors: Tensors) -> Tensors:
        """From the library's layout, under our names, to ours; what is incomplete stays as it is."""
        return tensors

    def split(self, tensors: Tensors) -> Tensors:
        """The reverse of `join`; also of tensors without values (on the meta device)."""
        return tensors

    def spare(self, names: set[str]) -> set[str]:
        """Names that belong to no model here and are left out."""
        return {name for name in names if name.rpartition(".")[2] == "mask_token"}

    def refusal(self, config: Config, keys: set[str]) -> str:
        """Why a model with this config and these keys of ours has no place in this library, "" if it has."""
        return ""

    def policy(self, config: Config) -> str:
        """The name of the `WindowPolicy` under which a model with this config runs in this library."""
        raise NotImplementedError


def is_computed(name: str) -> bool:
    return name.rpartition(".")[2] in COMPUTED


def stages_of(keys: set[str], part: str, what: str) -> set[int]:
    """The numbers I of the keys ``part.I.what.``"""
    found = (key.split(".") for key in keys if key.startswith(f"{part}."))
    return {int(words[1]) for words in found if len(words) > 3 and words[1].isdigit() and words[2] == what}


def starts_with_downsampling(keys: set[str], part: str) -> bool:
    """Whether the last of the stages ``part.I`` has a downsampling and the first has none."""
    blocks, downsample = stages_of(keys, part, "blocks"), stages_of(keys, part, "downsample")
    return bool(downsample) and 0 not in downsample and max(blocks) in downsample
