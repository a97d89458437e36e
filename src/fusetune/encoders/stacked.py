"""An encoder on another one, which stays as it is: what was trained on stored features, as a whole again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

import fusetune.encoders as known  # and it knows this one, so that names are looked up when they are needed
from fusetune.encoders.base import Encoder


class Stacked(Encoder):
    """z = top((base(x) - mean) / std).

    Args:
        base: Description of the encoder that takes the inputs.
        top: Description of the encoder that takes its standardised features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, base: Mapping[str, Any], top: Mapping[str, Any]) -> None:
        super().__init__()
        self.base, self.top = (known.build_encoder(dict(one)) for one in (base, top))
        self.dim = self.top.dim
        self.register_buffer("mean", torch.zeros(self.base.dim))
        self.register_buffer("std", torch.ones(self.base.dim))

    @classmethod
    def of(cls, base: Encoder, top: Encoder, mean: Tensor, std: Tensor) -> Self:
        """Put one encoder on another; both are used as they are, and not copied."""
        stacked = cls(base.describe(), top.describe())
        stacked.base, stacked.top, stacked.mean, stacked.std = base, top, mean, std
        return stacked

    @property
    def bottom(self) -> Encoder:
        """The encoder that takes what is read from the table."""
        return self.base.bottom

    def forward(self, inputs: Any) -> Tensor:
        """Encode what `base` takes to ``[batch, top.dim]``."""
        features: Tensor = self.top((self.base(inputs) - self.mean) / self.std)
        return features
