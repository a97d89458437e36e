"""A head that adds up what modalities say alone; it has nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fusetune.heads.base import Head


class SumHead(Head):
    """f = rate * sum_m f_m over the modalities that a row has; the prior where it has none.

    Args:
        dims: Number of classes, by modality: the blocks are logits.
        classes: Number of classes.
        rate: Factor on the sum.
    """

    kind = "sum"

    def __init__(self, dims: Mapping[str, int], classes: int, rate: float = 1.0) -> None:
        super().__init__(dims, classes)
        self.arguments, self.rate = {"rate": rate}, rate
        self.register_buffer("prior", torch.zeros(classes))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        total = self.rate * torch.stack(self.blocks(z, present)).sum(0)
        has = torch.stack([present[name] for name in self.dims]).any(0)
        return torch.where(has[:, None], total, self.get_buffer("prior"))
