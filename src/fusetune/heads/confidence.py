"""A head that weighs the modalities' own logits by how sure each is of the row (energy, arXiv 2306.02050)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fusetune.heads.base import Head

_ENERGY = 10.0  # what the published confidence is divided by


class ConfidenceHead(Head):
    """f = sum_m c_m f_m over the modalities that a row has, c_m = log sum exp(f_m) / 10; log prior where it has none.

    Its blocks are logits of the modalities alone, each as wide as there are classes. No gradient goes through c_m.
    """

    kind = "confidence"

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        if set(self.dims.values()) != {classes}:
            raise ValueError("the head reads logits: every block must be as wide as there are classes")
        self.register_buffer("prior", torch.zeros(classes))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        total = torch.stack([confidence(own)[:, None].detach() * own for own in self.blocks(z, present)]).sum(0)
        return torch.where(self.absent(present).bool().all(1)[:, None], self.get_buffer("prior"), total)


def confidence(logits: Tensor) -> Tensor:
    """Return log sum exp(f) / 10 of logits [rows, classes], [rows]."""
    return torch.logsumexp(logits, 1) / _ENERGY
