"""Class frequencies of the training part, whatever the inputs: f = log((n_c + 1/2) / sum_c (n_c + 1/2))."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import EnsembleNetwork
from fusetune.strategies.base import WHOLE, Fitted, NoSettings, Strategy, held_by


class Majority(Strategy):
    """What anything must beat."""

    name, title, paper = "majority", "majority", "class frequencies"
    cost = "nothing"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Count the training labels."""
        before, rows = ctx.cost(), ctx.split.rows("valid")
        network = EnsembleNetwork([], [], [], prior_of(ctx)).to(ctx.runtime.device).eval()
        notes: dict[str | None, str] = {WHOLE: "class frequencies of the training part"}
        return Fitted(network, rows, held_by(ctx, network, rows), notes, ctx.cost() - before)


def prior_of(ctx: Context) -> Tensor:
    """Return the log of the class frequencies of the training part, with half a row more of each class, [classes]."""
    counts = np.bincount(ctx.labels[ctx.split.rows("train")], minlength=len(ctx.classes)) + 0.5
    return torch.from_numpy(np.log(counts / counts.sum())).float()
