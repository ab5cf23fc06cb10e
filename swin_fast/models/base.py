"""What the models share: built from a config, frozen stages, weights at the start, one norm for each stage put out."""

from __future__ import annotations

import inspect

import torch.nn as nn
from torch import Tensor

from .config import Config


class SwinModel(nn.Module):
    """A model built from a `Config`; the constructor takes the config's fields, `from_config` a whole one."""

    config_class: type[Config]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "config_class" in vars(cls):  # what help() and editors show
            cls.__signature__ = inspect.signature(cls.config_class)

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.config = config = self.config_class(*args, **kwargs)
        self.num_layers = len(config.depths)
        self.embed_dim = config.embed_dim
        self.patch_norm = config.patch_norm
        self.out_indices = config.out_indices
        self.frozen_stages = config.frozen_stages
        self.channels = [config.embed_dim * 2**i for i in range(self.num_layers)]

    @classmethod
    def from_config(cls, config: Config) -> SwinModel:
        """A new model; raises TypeError for the config of another class."""
        if not isinstance(config, cls.config_class):
            raise TypeError(f"config must be a {cls.config_class.__name__}, got {type(config).__name__}")
        return cls(**vars(config))

    def drop_path_rates(self) -> list[list[float]]:
        """Rates for the blocks of each stage, from 0 at the first block to the config's rate at the last."""
        depths, rate = self.config.depths, self.config.drop_path_rate
        rates = iter(rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
        return [[next(rates) for _ in range(depth)] for depth in depths]

    def add_norms(self) -> None:
        """``norm`` of the last stage, or ``norm{i}`` of each stage that is put out, the detection code's names."""
        if self.out_indices is None:
            self.num_features = self.channels[-1]
            self.norm = self.config.norm_layer(self.num_features)
            return
        self.num_features = list(self.channels)
        for i in self.out_indices:
            self.add_module(f"norm{i}", self.config.norm_layer(self.channels[i]))

    def put_out(self, i: int, x: Tensor) -> Tensor:
        """Stage i's channels-last map, normed, in the layout that the config asks for."""
        x = getattr(self, f"norm{i}")(x)
        return x if self.config.channels_last else x.movedim(-1, 1).contiguous()

    def init_weights(self) -> None:
        """As the original starts: Linear weights from a normal distribution of std 0.02, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What `frozen_stages` names; the stages are counted as in the original code of the model."""
        raise NotImplementedError

    def train(self, mode: bool = True):
        """Training or evaluation mode; frozen stages stay in evaluation and without gradients."""
        super().train(mode)
        for part in self.frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
            part.requires_grad_(False)
        return self
