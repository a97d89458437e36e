"""A head that weighs modalities row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusetune.heads.base import Head


class GatedHead(Head):
    """Each present modality's projection weighted by a gate: z = sum_m softmax(g_m) h_m."""

    kind = "gated"

    def __init__(self, dims: Mapping[str, int], classes: int, hidden: int = 128) -> None:
        super().__init__(dims, classes)
        self.project = nn.ModuleList(nn.Linear(dim, hidden) for dim in self.dims.values())
        self.gate = nn.ModuleList(nn.Linear(dim, 1) for dim in self.dims.values())
        self.outer = nn.Sequential(nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, classes))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]; a row without any modality gets the logits of a zero vector."""
        blocks = self.blocks(z, present)
        scores = torch.cat([gate(block) for gate, block in zip(self.gate, blocks, strict=True)], 1)
        has = torch.stack([present[name] for name in self.dims], 1)
        gates = torch.softmax(scores.masked_fill(~has, -1e9), 1) * has
        hidden = torch.stack([layer(block) for layer, block in zip(self.project, blocks, strict=True)], 1)
        logits: Tensor = self.outer((gates[:, :, None] * hidden).sum(1))
        return logits
