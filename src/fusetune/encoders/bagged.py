"""One encoder for all pictures (or texts) of a row, and one vector for the row: their mean, maximum or attention.

The vector does not depend on how many elements there are or in which order they come (Zaheer et al. 2017, arXiv
1703.06114). Attention is that of Ilse et al. 2018 (arXiv 1802.04712), with gates; it begins as the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fusetune.encoders as known  # and it knows this one, so that names are looked up when they are needed
from fusetune.data.source import Bag
from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import full

Pool = Literal["mean", "max", "attention"]
# Elements that go through the encoder at a time, unless there are more rows: what a plain batch would take.
_CHUNK = 32


class Bagged(Encoder):
    """z = pool over k of base(x_k), for the elements x_k of each row.

    Args:
        base: Description of the encoder that takes elements.
        pool: mean, max, or attention: sum_k a_k z_k with a = softmax_k(w tanh(V z_k) * sigmoid(U z_k)).
        width: Rows of V and U.
        backbone: The encoder itself, if it is there; it is used as it is, and not copied.
    """

    def __init__(
        self, base: Mapping[str, Any], pool: Pool = "mean", width: int = 128, backbone: Encoder | None = None
    ) -> None:
        super().__init__()
        if pool not in ("mean", "max", "attention"):
            raise ValueError(f"elements of a row cannot be pooled by '{pool}'")
        self.base = known.build_encoder(dict(base)) if backbone is None else backbone
        self.dim, self.pool = self.base.dim, pool
        self.attention = _Attention(self.dim, width) if pool == "attention" else None

    @classmethod
    def of(cls, base: Encoder, pool: Pool) -> Self:
        """Put a pool on an encoder."""
        return cls(base.describe(), pool, backbone=base)

    @property
    def bottom(self) -> Encoder:
        """The encoder that takes what is read from the table."""
        return self.base.bottom

    @property
    def takes_several(self) -> bool:
        """Rows have any number of elements."""
        return True

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the encoder of elements in its blocks; those of the pool are `fresh`."""
        return self.base.blocks()

    def fresh(self) -> list[nn.Parameter]:
        """Return the parameters of the pool, which begin from nothing."""
        return [] if self.attention is None else list(self.attention.parameters())

    def forward(self, inputs: Bag) -> Tensor:
        """Encode the elements of a bag, and return a vector for each row, ``[rows, dim]``."""
        if inputs.known is not None and id(self.base) in inputs.known:
            z = inputs.known[id(self.base)]
        else:
            z = self._encoded(inputs)
            if inputs.known is not None:
                inputs.known[id(self.base)] = z
        return self.pooled(z[inputs.index], inputs.row, inputs.count)

    def pooled(self, z: Tensor, row: Tensor, count: int) -> Tensor:
        """Return the vector of each row.

        Args:
            z: Features at each place, float ``[places, dim]``.
            row: Row of each place, ascending, int64 ``[places]``.
            count: How many rows there are; each has a place.
        """
        if self.attention is not None:
            return _reduced(self.weights(z, row, count)[:, None] * z, "sum", row, count)
        return _reduced(z, "max" if self.pool == "max" else "mean", row, count)

    def weights(self, z: Tensor, row: Tensor, count: int) -> Tensor:
        """Return the share that each place has in the vector of its row, float ``[places]``; not of a maximum."""
        score = torch.zeros(len(z), device=z.device) if self.attention is None else self.attention(z)
        score = score - _reduced(score.detach(), "max", row, count)[row]
        power = score.exp()
        return power / _reduced(power, "sum", row, count)[row]

    def _encoded(self, inputs: Bag) -> Tensor:
        """Return the features of all elements, a few at a time, so that memory does not grow with their number."""
        size = max(_CHUNK, inputs.count)
        pieces = [slice(start, start + size) for start in range(0, len(inputs), size)]
        if len(pieces) < 2 or not torch.is_grad_enabled():
            return torch.cat([self.base(inputs.seen(piece)) for piece in pieces])
        # What lies between inputs and features is made again in the backward pass, piece by piece. Batch norm that is
        # trained sees each piece as a batch, twice.
        return torch.cat([checkpoint(self.base, inputs.seen(piece), use_reentrant=False) for piece in pieces])


class _Attention(nn.Module):
    """The score of each element; zero for all of them at the start."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.look, self.gate = nn.Linear(dim, width), nn.Linear(dim, width)
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Return ``[elements]`` for features ``[elements, dim]``."""
        scores: Tensor = self.score(torch.tanh(self.look(z)) * torch.sigmoid(self.gate(z)))
        return scores[:, 0]


def _reduced(values: Tensor, how: Literal["sum", "mean", "max"], row: Tensor, count: int) -> Tensor:
    """Return the sum, mean or maximum of the values at the places of each row, one after the other."""
    lengths = torch.bincount(row, minlength=count)
    return torch.segment_reduce(full(values), how, lengths=lengths, axis=0, unsafe=True)
