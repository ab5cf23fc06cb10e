"""mmdet and mmseg (V1 backbones) and mmpretrain (classifiers, V1 and V2): downsampling through nn.Unfold."""

from __future__ import annotations

from ..config import Config, Swin3DConfig
from .format import Format, stages_of, starts_with_downsampling
from .names import Renames, Tensors, move_downsample

_PLACES = [0, 2, 1, 3]  # nn.Unfold takes a 2 x 2 group row by row, the original column by column


class MMDet(Format):
    """Each stage that is put out has a norm of its own. mmpretrain's classifiers put out the last one.

    Args:
        stages: how many there are.
        classifier: the norm of the last stage is our model's only one.
        moved: a stage starts with its downsampling, as in mmpretrain's V2.
    """

    name = "mmdet"
    library = "mmdet, mmseg and mmpretrain"
    anchor = "stages.0.blocks.0.attn.w_msa.qkv.weight"
    outer = (("head", "head.fc"),)
    prefix = "backbone."
    wrapper = "state_dict"
    buffers = ("relative_position_index", "relative_coords_table")
    _renames = Renames(
        ("^patch_embed.proj", "^patch_embed.projection"),
        ("^layers", "^stages"),
        ("attn", "attn.w_msa"),
        ("mlp.fc1", "ffn.layers.0.0"),
        ("mlp.fc2", "ffn.layers.1"),
    )

    def __init__(self, stages: int, classifier: bool, moved: bool):
        self._norm, self._classifier, self._moved = f"norm{stages - 1}", classifier, moved

    @classmethod
    def of_keys(cls, keys: set[str]) -> MMDet:
        stages = max(stages_of(keys, "stages", "blocks")) + 1
        norms = {key.partition(".")[0] for key in keys if key.startswith("norm")}
        return cls(stages, norms == {f"norm{stages - 1}"}, starts_with_downsampling(keys, "stages"))

    @classmethod
    def of_config(cls, config: Config) -> MMDet:
        return cls(len(config.depths), config.out_indices is None, hasattr(config, "pretrained_window_sizes"))

    def ours(self, key: str) -> str:
        name = self._renames.ours(key)
        if self._classifier and name.startswith(f"{self._norm}."):
            name = f"norm.{name.removeprefix(f'{self._norm}.')}"
        return move_downsample(name, -1) if self._moved else name

    def theirs(self, name: str) -> str:
        if self._classifier and name.startswith("norm."):
            name = f"{self._norm}.{name.removeprefix('norm.')}"
        return self._renames.theirs(move_downsample(name, 1) if self._moved else name)

    def join(self, tensors: Tensors) -> Tensors:
        result = {name: _reorder(name, tensor, tensors, back=True) for name, tensor in tensors.items()}
        position = result.get("absolute_pos_embed")
        if position is not None and position.dim() == 3 and not self._classifier:
            side = round(position.shape[1] ** 0.5)
            if side**2 == position.shape[1]:
                result["absolute_pos_embed"] = position.transpose(1, 2).unflatten(2, (side, side))
        return result

    def split(self, tensors: Tensors) -> Tensors:
        result = {name: _reorder(name, tensor, tensors, back=False) for name, tensor in tensors.items()}
        position = result.get("absolute_pos_embed")
        if position is not None and position.dim() == 4:
            result["absolute_pos_embed"] = position.flatten(2).transpose(1, 2)
        return result

    def refusal(self, config: Config, keys: set[str]) -> str:
        if isinstance(config, Swin3DConfig):
            return "mmdet has no 3D Swin Transformer (mmaction reads Video Swin's own files: original)"
        return (
            "" if config.patch_norm else "mmdet has either a norm after the patch embedding or no norm in its mergings"
        )

    def policy(self, config: Config) -> str:
        return "original" if config.out_indices is None else "detection"


def _reorder(name, tensor, tensors: Tensors, back: bool):
    """The 4 * C inputs of a downsampling: C channels at each of four places (ours), or four places of each channel."""
    stage, _, rest = name.rpartition(".downsample.")
    reduction = tensors.get(f"{stage}.downsample.reduction.weight")
    if not rest or reduction is None or tensor.shape[-1] != reduction.shape[-1] or tensor.shape[-1] % 4:
        return tensor  # V2's norm comes after the reduction, its 2 * C channels have no places
    if back:
        return tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., _PLACES, :].flatten(-2)
    return tensor.unflatten(-1, (4, -1))[..., _PLACES, :].transpose(-1, -2).flatten(-2)
