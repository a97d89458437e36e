"""A linear head that puts something in the place of an absent modality: zeros, or a vector that is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from fusetune.heads.linear import LinearHead


class ReplacingHead(LinearHead):
    """f = b + sum_m W_m (z_m if present, else e_m) + sum_m c_m [m is absent].

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
        learnt: Is e_m learnt, from zero? Otherwise it stays zero.
        bits: Is the head told what is absent? Otherwise there is no c_m.
    """

    kind = "replacing"

    def __init__(self, dims: Mapping[str, int], classes: int, learnt: bool = True, bits: bool = True) -> None:
        super().__init__(dims, classes)
        self.arguments, self.bits = {"learnt": learnt, "bits": bits}, bits
        self.vectors = nn.ParameterList(torch.zeros(dim) for dim in self.dims.values()) if learnt else None

    @classmethod
    def of(cls, head: LinearHead, learnt: bool, bits: bool) -> Self:
        """Return one that says of every whole row what a linear head says; it shares nothing with it."""
        new = cls(head.dims, head.classes, learnt, bits)
        new.load_state_dict(head.state_dict(), strict=False)
        return new

    def blocks(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[Tensor]:
        """Return standardised blocks [batch, dim], the replacement where absent."""
        blocks = super().blocks(z, present)
        if self.vectors is None:
            return blocks
        triples = zip(self.dims, blocks, self.vectors, strict=True)
        return [torch.where(present[name][:, None], block, vector) for name, block, vector in triples]

    def absent(self, present: Mapping[str, Tensor]) -> Tensor:
        """Return the absence bits, float [batch, modalities]; zeros where the head is not told."""
        return super().absent(present) * float(self.bits)
