"""Heads on what the modalities of a row say alone: their mean, sum, or sum weighted by certainty. None learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from fusetune.heads.base import Head

_ENERGY = 10.0  # what the published confidence is divided by


class LateHead(Head, ABC):
    """f from the logits of the modalities that a row has; the log prior where it has none.

    Args:
        dims: Number of classes, by modality: the blocks are logits.
        classes: Number of classes.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        if set(self.dims.values()) != {classes}:
            raise ValueError("the head reads logits: every block must be as wide as there are classes")
        self.register_buffer("prior", torch.zeros(classes))

    @abstractmethod
    def combined(self, logits: Tensor, has: Tensor) -> Tensor:
        """Return f, [rows, classes], from logits [modalities, rows, classes], zero where absent, and who is there."""

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        has = torch.stack([present[name] for name in self.dims])
        fused = self.combined(torch.stack(self.blocks(z, present)), has)
        return torch.where(has.any(0)[:, None], fused, self.get_buffer("prior"))


class MeanHead(LateHead):
    """f = mean of f_m over the modalities that a row has."""

    kind = "mean"

    def combined(self, logits: Tensor, has: Tensor) -> Tensor:
        """Return the mean."""
        return logits.sum(0) / has.sum(0).clamp(min=1)[:, None]


class SumHead(LateHead):
    """f = rate * sum_m f_m over the modalities that a row has.

    Args:
        dims: Number of classes, by modality.
        classes: Number of classes.
        rate: Factor on the sum.
    """

    kind = "sum"

    def __init__(self, dims: Mapping[str, int], classes: int, rate: float = 1.0) -> None:
        super().__init__(dims, classes)
        self.arguments, self.rate = {"rate": rate}, rate

    def combined(self, logits: Tensor, has: Tensor) -> Tensor:
        """Return the sum."""
        return self.rate * logits.sum(0)


class ConfidenceHead(LateHead):
    """f = sum_m c_m f_m, c_m = log sum exp(f_m) / 10 (energy, arXiv 2306.02050); no gradient goes through c_m."""

    kind = "confidence"

    def combined(self, logits: Tensor, has: Tensor) -> Tensor:
        """Return the weighted sum; absent logits are zero, whatever their weight."""
        return (confidence(logits)[..., None].detach() * logits).sum(0)


def confidence(logits: Tensor) -> Tensor:
    """Return log sum exp(f) / 10 of logits [..., classes], [...]."""
    return torch.logsumexp(logits, -1) / _ENERGY
