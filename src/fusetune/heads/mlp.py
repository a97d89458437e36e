"""A head with one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fusetune.heads.base import Head


class MLPHead(Head):
    """One hidden layer on the concatenation, beside a linear path."""

    kind = "mlp"

    def __init__(self, dims: Mapping[str, int], classes: int, hidden: int = 128) -> None:
        super().__init__(dims, classes)
        self.inner = nn.Sequential(nn.Linear(self.width, hidden), nn.GELU(), nn.Dropout(0.2))
        self.outer = nn.Linear(hidden, classes)
        self.linear = nn.Linear(self.width, classes)
        nn.init.zeros_(self.outer.weight)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        x = self.joined(z, present)
        logits: Tensor = self.linear(x) + self.outer(self.inner(x))
        return logits
