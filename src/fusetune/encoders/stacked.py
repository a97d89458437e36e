"""Encoders made of encoders: one on another, which stays as it is, and the mean of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

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

    @property
    def takes_several(self) -> bool:
        """Does `base` take bags of elements?"""
        return self.base.takes_several

    def forward(self, inputs: Any) -> Tensor:
        """Encode what `base` takes to ``[batch, top.dim]``."""
        features: Tensor = self.top((self.base(inputs) - self.mean) / self.std)
        return features


class Averaged(Encoder):
    """z = mean of what several encoders of one kind say, which were trained from the same start on different rows.

    Args:
        bases: Description of each.
    """

    def __init__(self, bases: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.bases = nn.ModuleList(known.build_encoder(dict(one)) for one in bases)
        self.dim = self._first.dim

    @classmethod
    def of(cls, bases: Sequence[Encoder]) -> Self:
        """Take the mean of encoders, which are used as they are, and not copied."""
        averaged = cls([one.describe() for one in bases])
        averaged.bases = nn.ModuleList(bases)
        return averaged

    @property
    def _first(self) -> Encoder:
        first = self.bases[0]
        assert isinstance(first, Encoder)
        return first

    @property
    def bottom(self) -> Encoder:
        """One of the encoders that take what is read from the table."""
        return self._first.bottom

    @property
    def takes_several(self) -> bool:
        """Do they take bags of elements?"""
        return self._first.takes_several

    def forward(self, inputs: Any) -> Tensor:
        """Encode what each of the encoders takes to ``[batch, dim]``."""
        return torch.stack([base(inputs) for base in self.bases]).mean(0)
