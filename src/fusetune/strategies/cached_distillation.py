"""Distillation from answers that were written down once: no teacher runs while the student trains (arXiv 2311.17049).

    L = (1 - lambda) CE(f, y) + lambda T^2 KL(p_teacher^{1/T} || p_student^{1/T})

The idea is MobileCLIP's reinforced data set: for every row and augmentation view, the parameters of the view (here the
seed and the view's number, of which everything random is a function) and the teacher's probabilities are kept. Epoch e
sees the views of epoch e mod `views` again. What is mixed (`mix`) has the mean of both rows' probabilities.

The teacher is the uni-modal ensemble (UME, arXiv 2305.01233): the mean logits of the modalities that a row has, each by
the network that stage U trained on all training rows. It has seen the labels of the rows that it speaks of, so its
probabilities are surer than those for new rows would be, and soften less than they could. Validation rows choose its
epochs, as they choose the student's, and teach nothing: what is said of them is as honest as with any other strategy.
That is why this ensemble has no temperatures, which would be learnt on them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.networks import Outputs
from fusetune.networks.ensemble import mean_logits
from fusetune.networks.run import present_bits
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint
from fusetune.strategies.majority import prior_of
from fusetune.strategies.soft_targets import softened
from fusetune.strategies.trainer import Training
from fusetune.strategies.unimodal import fine_tune


class CachedSettings(EndToEndSettings):
    """The loop of joint training, and what of the teacher is kept and counts."""

    weight: float = Field(0.5, ge=0, le=1, description="lambda, the teacher's share of the loss")
    temperature: float = Field(2.0, gt=0, description="T, by which both sides' logits are divided")
    views: int = Field(4, ge=1, le=64, description="epochs whose views are kept; later ones see them again")


class CachedDistillation(Joint):
    """Joint training that also imitates what an ensemble once said of every view."""

    name, title, paper = "cached-distillation", "distilled", "Reinforced data, arXiv 2311.17049"
    cost = "the training of every encoder alone, one pass of each over every kept view, then one training of all"
    Settings = CachedSettings

    def begin(self) -> None:
        """Train the teachers, or find them trained, and write down what they say; they are not asked again."""
        views, repeats, rows = self.settings.views, self.settings.repeats, self.ctx.split.rows("train")
        self.told = self.ctx.remember(
            ("cached targets", str(views), str(repeats)), lambda: teacher_says(self.ctx, rows, views, repeats)
        )
        self.places = np.full(len(self.ctx.labels), -1)
        self.places[rows] = np.arange(len(rows))

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the shares of the cross-entropy and of the distance to what the teacher said."""
        share: float = self.settings.weight
        distance = softened(outputs.f, self.answers(batch).to(outputs.f), self.settings.temperature).mean()
        return (1 - share) * batch.loss(outputs.f) + share * distance

    def answers(self, batch: Batch) -> Tensor:
        """Return the teacher's log-probabilities of a batch as it is mixed, [views x rows, classes]."""
        told = self.told[batch.epoch][:, self.places[batch.rows]].flatten(0, 1).to(batch.target.device)
        return told if batch.mixing is None else batch.mixing.blend(told.exp()).log()

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return what is trained, on views of which the teacher's answers are kept."""
        return replace(super().training_on(rows, held), drawn=lambda epoch: epoch % self.settings.views)


def teacher_says(ctx: Context, rows: Rows, views: int, repeats: int) -> Tensor:
    """Return log-probabilities by the ensemble of networks trained alone, [views, repeats, rows, classes].

    Args:
        ctx: The run.
        rows: Training rows.
        views: Epochs whose views are looked at.
        repeats: Views of a row in each of these epochs.
    """
    moments = [ctx.moment(epoch, view) for epoch in range(views) for view in range(repeats)]
    f_m = {}
    for name in ctx.modalities:
        encoder, classifier = fine_tune(ctx, name).only
        z = ctx.encode(name, encoder, rows, moments)
        with torch.inference_mode():
            f_m[name] = torch.stack(
                [classifier(torch.from_numpy(view.copy()).to(ctx.runtime.device)).cpu() for view in z]
            )
    present, plain = present_bits(ctx.sources, rows, torch.device("cpu")), dict.fromkeys(f_m, 1.0)
    said = [
        mean_logits({n: f[at] for n, f in f_m.items()}, present, plain, prior_of(ctx), len(rows))
        for at in range(len(moments))
    ]
    return torch.log_softmax(torch.stack(said), 2).view(views, repeats, len(rows), -1)
