"""What an encoder of pictures is worth once it is fine-tuned, found out on one fold of the rows.

It learns from all folds but the first, for half of its epochs. What it says of the rows of the first fold, beside the
other inputs as they are, is weighed by a head that is solved and judged on these rows alone, cross-fitted: none of
them has taught the encoder, though its best epoch is chosen on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fusetune.config import HeadConfig
from fusetune.context import Context
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.heads.base import HeadData
from fusetune.heads.folds import has_training, make_folds
from fusetune.heads.solver import fit_crossed
from fusetune.strategies.crossfit import logits_of_alone
from fusetune.strategies.linear_probe import untrained
from fusetune.strategies.unimodal import epoch_seconds, fine_tune

_PART = 0.5  # of the epochs of fine-tuning


@dataclass(frozen=True)
class OneFold:
    """A run's first picture column, and how it would be fine-tuned for a short while.

    Attributes:
        ctx: The run.
        name: The modality.
        epochs: Passes over the rows of all folds but the first.
    """

    ctx: Context
    name: str
    epochs: int

    @classmethod
    def of(cls, ctx: Context) -> OneFold | None:
        """Return what can be found out; None where no pictures are fine-tuned, or rows are not dealt into folds."""
        pictures = [
            name
            for name, modality in ctx.modalities.items()
            if modality.kind == "image" and has_training(ctx.settings(name), ctx.pristine[name])
        ]
        if not pictures or not make_folds(ctx).pooled:
            return None
        return cls(ctx, pictures[0], max(1, round(_PART * ctx.settings(pictures[0]).epochs)))

    def seconds(self) -> float:
        """Return about how long it takes."""
        return self.epochs * epoch_seconds(self.ctx, self.name, make_folds(self.ctx).rows, self._held)

    @property
    def _held(self) -> float:
        return 1 / self.ctx.config.crossfit.folds

    def losses(self, stage: str) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Fine-tune, and solve the head.

        Args:
            stage: Name for progress and checkpoints.

        Returns:
            The rows of the first fold, and the loss of each by heads that did not learn from it, float64 [rows].
        """
        ctx, name, folds = self.ctx, self.name, make_folds(self.ctx)
        here = folds.encoder == 0
        rows = folds.rows[here]
        settings = ctx.settings(name).model_copy(update={"epochs": self.epochs})
        network = fine_tune(ctx, name, folds.rows[~here], free_name(stage, ctx.modalities), rows, settings)
        z = {other: ctx.encode(other, untrained(ctx, other), rows) for other in ctx.modalities if other != name}
        z[name] = logits_of_alone(network, ctx.encode(name, network.only[0], rows))
        data = HeadData.of(ctx, z, rows)
        config = HeadConfig(penalties=ctx.config.head.penalties, modality_dropout=0)
        fit = fit_crossed(data, data, folds.head[here], config, len(ctx.classes), ctx.config.seed)
        assert fit.held is not None
        losses = ctx.target.losses(torch.from_numpy(fit.held).double(), torch.from_numpy(ctx.labels[rows]))
        return rows, np.asarray(losses.numpy(), dtype=np.float64)
