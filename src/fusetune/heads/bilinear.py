"""A head that multiplies modalities pair by pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusetune.heads.base import Head


class BilinearHead(Head):
    """A linear path plus low-rank products of every pair of modalities."""

    kind = "bilinear"

    def __init__(self, dims: Mapping[str, int], classes: int, rank: int = 32) -> None:
        super().__init__(dims, classes)
        self.linear = nn.Linear(self.width, classes)
        self.factor = nn.ModuleList(nn.Linear(dim, rank) for dim in self.dims.values())
        pairs = len(self.dims) * (len(self.dims) - 1) // 2
        self.outer = nn.Linear(max(pairs, 1) * rank, classes)
        nn.init.zeros_(self.outer.weight)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        blocks = self.blocks(z, present)
        linear = self.linear(torch.cat([*blocks, self.absent(present)], 1))
        factors = [
            layer(block) * present[name][:, None]
            for layer, block, name in zip(self.factor, blocks, self.dims, strict=True)
        ]
        products = [a * b for i, a in enumerate(factors) for b in factors[i + 1 :]]
        logits: Tensor = linear + self.outer(torch.cat(products or factors, 1))
        return logits
