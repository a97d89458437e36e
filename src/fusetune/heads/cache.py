"""A linear head beside a memory of training rows: logits of what is near, which nobody trained (arXiv 2111.03930)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.heads.base import HeadData
from fusetune.heads.linear import LinearHead


class CacheHead(LinearHead):
    """f = linear(z) + alpha (C / N) sum_i exp(-beta (1 - A_i)) Y_i over N stored rows with one-hot labels Y_i.

    A_i = sum_m delta_m cos(z_m, z_im) / sum_m delta_m over the modalities that both rows have, of standardised
    features; a stored row that has none of them adds nothing.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
        rows: Number of stored rows.
    """

    kind = "cache"

    def __init__(self, dims: Mapping[str, int], classes: int, rows: int = 0) -> None:
        super().__init__(dims, classes)
        self.arguments = {"rows": rows}
        for index, dim in enumerate(self.dims.values()):
            self.register_buffer(f"stored_{index}", torch.zeros(rows, dim))
        self.register_buffer("has", torch.zeros(rows, len(self.dims), dtype=torch.bool))
        self.register_buffer("answers", torch.zeros(rows, classes, dtype=torch.bool))
        self.register_buffer("alpha", torch.zeros(()))
        self.register_buffer("beta", torch.ones(()))
        self.register_buffer("delta", torch.ones(len(self.dims)))

    @classmethod
    def of(cls, head: LinearHead, data: HeadData) -> Self:
        """Return a head that stores the first view of some rows; with alpha 0, it says what the linear head says."""
        new = cls(head.dims, head.classes, len(data.labels))
        new.load_state_dict(head.state_dict(), strict=False)
        present = {name: torch.from_numpy(bits) for name, bits in data.present.items()}
        blocks = head.blocks({name: torch.from_numpy(block[0].copy()) for name, block in data.z.items()}, present)
        for index, block in enumerate(blocks):
            new.get_buffer(f"stored_{index}").copy_(F.normalize(block.float(), dim=1))
        new.get_buffer("has").copy_(torch.stack([present[name] for name in head.dims], 1))
        new.get_buffer("answers").copy_(F.one_hot(torch.from_numpy(data.labels), head.classes))
        return new

    def choose(self, alpha: float, beta: float, delta: Sequence[float]) -> None:
        """Set how much the memory counts, how fast it fades with distance, and what each modality counts in it."""
        self.get_buffer("alpha").fill_(alpha)
        self.get_buffer("beta").fill_(beta)
        self.get_buffer("delta").copy_(torch.tensor(delta))

    def cosines(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return cos(z_m, z_im) and whether both rows have the modality, [modalities, batch, rows] each."""
        own = [F.normalize(block, dim=1) for block in self.blocks(z, present)]
        near = torch.stack([block @ self.get_buffer(f"stored_{index}").T for index, block in enumerate(own)])
        return near, torch.stack([present[name] for name in self.dims])[:, :, None] & self.get_buffer("has").T[:, None]

    def remembered(self, cosines: Tensor, both: Tensor) -> Tensor:
        """Return what the memory adds to the logits, [batch, classes], from what `cosines` returns."""
        weight = self.get_buffer("delta")[:, None, None] * both
        total = weight.sum(0)
        affinity = (weight * cosines).sum(0) / total.clamp(min=1e-12)
        near = torch.exp(-self.get_buffer("beta") * (1 - affinity)) * (total > 0)
        answers = self.get_buffer("answers").to(near)
        return self.get_buffer("alpha") * (near @ answers) * (self.classes / max(len(answers), 1))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        return super().forward(z, present) + self.remembered(*self.cosines(z, present))
