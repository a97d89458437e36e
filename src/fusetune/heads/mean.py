"""No head at all: the mean of what the modalities of a row say alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fusetune.heads.base import Head


class MeanHead(Head):
    """f = mean of the blocks that are present, which are logits; the log prior where none is. Nothing is learnt."""

    kind = "mean"

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        self.register_buffer("prior", torch.zeros(classes))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        f_m = {name: z[name] for name in self.dims}
        return mean_logits(f_m, present, dict.fromkeys(f_m, 1.0), self.get_buffer("prior"), len(next(iter(z.values()))))


def mean_logits(
    f_m: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    temperatures: Mapping[str, float | Tensor],
    prior: Tensor,
    rows: int,
) -> Tensor:
    """Return f = mean of f_m / T_m over the modalities that a row has, [rows, classes]; the prior where it has none.

    Args:
        f_m: Logits by modality, [rows, classes].
        present: bool [rows] by modality.
        temperatures: T_m, one number or one per row, [rows, 1].
        prior: Log class frequencies, float [classes].
        rows: Number of rows.
    """
    total = prior.new_zeros(rows, len(prior))
    count = prior.new_zeros(rows, 1)
    for name, logits in f_m.items():
        has = present[name][:, None]
        total = total + torch.where(has, logits / temperatures[name], 0.0)
        count = count + has
    return torch.where(count > 0, total / count.clamp(min=1), prior)
