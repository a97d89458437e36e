"""Two encoders of one modality: what is its own, and what it has in common with others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusetune.encoders as known  # and it knows this one, so that names are looked up when they are needed
from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import full


class Branched(Encoder):
    """z = [u, s, n]: [u, n] = A specific(x) + a, and s = relu(norm(B common(x) + b)); all three of one width.

    Args:
        base: Description of the encoder that both branches are.
        width: Width of each of the three.
    """

    def __init__(self, base: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.specific, self.common = (known.build_encoder(dict(base)) for _ in range(2))
        self.split, self.share = nn.Linear(self.specific.dim, 2 * width), nn.Linear(self.common.dim, width)
        self.norm = nn.BatchNorm1d(width)
        self.dim = 3 * width

    @classmethod
    def of(cls, base: Encoder, width: int) -> Self:
        """Make two branches of an encoder: it is used as the one, and a copy of it as the other."""
        branched = cls(base.describe(), width)
        branched.specific, branched.common = base, copy.deepcopy(base)
        return branched

    @property
    def bottom(self) -> Encoder:
        """The encoder that takes what is read from the table."""
        return self.specific.bottom

    @property
    def takes_several(self) -> bool:
        """Do the branches take bags of elements?"""
        return self.specific.takes_several

    def fresh(self) -> list[nn.Parameter]:
        """Return what the branches begin from nothing."""
        return [*self.specific.fresh(), *self.common.fresh()]

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the blocks of both branches pair by pair, then what is on top of them."""
        pairs = zip(self.specific.blocks(), self.common.blocks(), strict=True)
        top = [p for layer in (self.split, self.share, self.norm) for p in layer.parameters()]
        return [*(one + other for one, other in pairs), top]

    def forward(self, inputs: Any) -> Tensor:
        """Encode what the branches take to ``[batch, 3 width]``."""
        u, n = self.split(self.specific(inputs)).chunk(2, 1)
        shared = self.share(self.common(inputs))
        # One row has no deviation: it gets what batch norm has learnt so far.
        alone = self.norm.training and len(shared) == 1
        s = _settled(self.norm, shared) if alone else self.norm(shared)
        return full(torch.cat([u, F.relu(s), n], 1))


def _settled(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
