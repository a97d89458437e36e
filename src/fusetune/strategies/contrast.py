"""Losses that compare the rows of a batch with each other: whose features in one modality belong to whose in another.

With S_ij, how alike row i of one modality and row j of another are, and T_ij, whether they belong together:

    rows(S, T)     = -(1/B) sum_ij T_ij log softmax_j(S_ij)       InfoNCE where T = I
    two-way(S, T)  = rows(S, T) + rows(S^T, T^T)                  symmetric CLIP is half of it where T = I

A row counts for a pair of modalities only where it has both; what is not there is nobody's negative either. These
losses do not add up over batches: the larger a batch, the more rows each one is told from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.errors import ConfigError, listed


def refuse_one_input(ctx: Context, strategy: str) -> None:
    """Refuse a run of a single modality.

    Raises:
        ConfigError: If there is nothing to compare it with.
    """
    if len(ctx.modalities) < 2:
        raise ConfigError(
            f"strategy.name: '{strategy}' learns from how inputs of a row belong together, and there is only "
            f"{listed(ctx.modalities)}; add an input, or use two-stage or alone"
        )


def cosines(u: Tensor, v: Tensor) -> Tensor:
    """Return cos(u_i, v_j) of features [rows, dim] each, [rows, rows]."""
    return F.normalize(u, dim=1) @ F.normalize(v, dim=1).T


def row_loss(scores: Tensor, target: Tensor | None = None) -> Tensor:
    """Return -(1/B) sum_ij T_ij log softmax_j(S_ij).

    Args:
        scores: S, float [rows, columns].
        target: T, float [rows, columns]; default: row i belongs to column i.
    """
    logs = torch.log_softmax(scores, 1)
    return -(logs.diagonal() if target is None else (target * logs).sum(1)).mean()


def two_way(scores: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the loss of the rows and that of the columns, with the same target; arguments as for `row_loss`."""
    return row_loss(scores, target) + row_loss(scores.T, None if target is None else target.T)


def nt_xent(u: Tensor, v: Tensor, heat: float) -> Tensor:
    """Return the normalised-temperature cross-entropy of SimCLR (arXiv 2002.05709), for both sides at once.

    Each of the 2 B features has one partner; all others, those of its own modality too, are what it is told from.

    Args:
        u: Features, [rows, dim].
        v: Features of the same rows in another modality, [rows, dim].
        heat: Temperature.
    """
    both, rows = torch.cat([u, v]), torch.arange(len(u), device=u.device)
    scores = cosines(both, both) / heat
    scores = scores.masked_fill(torch.eye(len(both), dtype=torch.bool, device=u.device), -math.inf)
    return F.cross_entropy(scores, torch.cat([rows + len(u), rows]))


def shared_rows(present: Mapping[str, Tensor], *names: str) -> Tensor:
    """Return the positions of the rows that have all of some modalities, int64."""
    return torch.stack([present[name] for name in names]).all(0).nonzero()[:, 0]


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return every two modalities once."""
    return list(combinations(names, 2))


def cycle_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each modality with the next one, the last with the first; of two, both directions; of one, nothing."""
    return list(zip(names, [*names[1:], *names[:1]], strict=True)) if len(names) > 1 else []


class Sharpness(nn.Module):
    """Learnt factors on cosines, one per loss, between 1 and 100.

    Args:
        count: How many.
        start: Where they begin.
    """

    def __init__(self, count: int, start: float = 100.0) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.full((count,), math.log(start)))

    def forward(self, at: int) -> Tensor:
        """Return one of the factors."""
        with torch.no_grad():  # the weight itself: a clamped copy has no gradient by which it could come back
            self.logs.clamp_(0.0, math.log(100.0))
        return self.logs[at].exp()
