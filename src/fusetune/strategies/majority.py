"""What the training part is like whatever the inputs: f = log((n_c + 1/2) / sum_c (n_c + 1/2)), or a number's mean."""

from __future__ import annotations

from torch import Tensor

from fusetune.context import Context
from fusetune.networks import EnsembleNetwork
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, NoSettings, Strategy, held_by


class Majority(Strategy):
    """What anything must beat."""

    name, title, paper = "majority", "majority", "class frequencies"
    targets = ANY_TARGET
    cost = "nothing"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Count the training labels."""
        before, rows = ctx.cost(), ctx.split.rows("valid")
        network = EnsembleNetwork([], [], [], prior_of(ctx)).to(ctx.runtime.device).eval()
        notes: dict[str | None, str] = {WHOLE: f"{ctx.target.prior_word} of the training part"}
        return Fitted(network, rows, held_by(ctx, network, rows), notes, ctx.cost() - before)


def prior_of(ctx: Context) -> Tensor:
    """Return what is said of a row of which nothing is known, such as the log of the class frequencies, [classes]."""
    rows = ctx.split.rows("train")
    return ctx.target.prior(ctx.labels[rows], ctx.counted(rows))
