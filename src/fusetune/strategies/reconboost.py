"""ReconBoost: modalities boost each other, each fitting what the others leave (Hua et al. 2024, arXiv 2405.09321).

    F = rate * sum_{n != m} f_n, f_n = W_n phi_n(x_n) + b_n                      the others, fixed
    turn of m:      L = -(1 / C) [w1 - w2 softmax(F)_y] log softmax(f_m)_y + lambda MSE(softmax(f_m), softmax(f_prev))
    rectification:  L = CE(f, y),  f = rate * sum_m f_m                          all at once

f_prev is the modality that had the turn before. A row that the others already classify counts less. Turns change with
the epochs: `alone_epochs` for a modality, then `joint_epochs` for all, then the next modality. All are encoded in every
epoch, so that one costs what an epoch of joint training costs. The publication takes 4 epochs each; here it is 1, since
encoders that are fine-tuned have few epochs. Everything starts from the solved classifiers; published are networks that
were trained alone. `variant: released` also fixes f_m in the last term, which then has no effect.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.heads.late import SumHead
from fusetune.networks import FusionNetwork, Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, start_of
from fusetune.strategies.majority import prior_of
from fusetune.strategies.modulated import true_class


class ReconBoostSettings(EndToEndSettings):
    """The loop of joint training, whose turn it is for how long, and what counts in a turn."""

    w1: float = Field(5.0, gt=0, description="weight of every row")
    w2: float = Field(1.0, ge=0, description="what is taken from it where the others are sure of the true class")
    agreement: float = Field(0.5, ge=0, description="lambda, of the distance to the modality of the turn before")
    rate: float = Field(1.0, gt=0, description="factor on the sum of the modalities' logits")
    alone_epochs: int = Field(1, ge=1, description="epochs of a modality's turn")
    joint_epochs: int = Field(1, ge=0, description="epochs of rectification after each turn")
    variant: Literal["paper", "released"] = Field("paper", description="released: the distance has no gradient")


class ReconBoost(EndToEnd):
    """Alternating boosting of the modalities."""

    name, title, paper = "reconboost", "ReconBoost", "Alternating boosting, arXiv 2405.09321"
    cost = "one training of all encoders, of which one learns in every other epoch"
    Settings = ReconBoostSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.learner: int | None = None

    def start(self) -> FusionNetwork:
        """Return untrained encoders under their solved classifiers, which are added up."""
        start, names, classes = copy.deepcopy(start_of(self.ctx)), list(self.ctx.modalities), len(self.ctx.classes)
        head = SumHead(dict.fromkeys(names, classes), classes, self.settings.rate)
        head.get_buffer("prior").copy_(prior_of(self.ctx))
        wiring = replace(start.wiring, features={}, logits=names)
        return FusionNetwork([encoder for _, encoder in start.members], start.linear_classifiers, head, wiring)

    def before_epoch(self, epoch: int) -> None:
        """Give the turn to a modality, or to all; those that are fixed say the same at all times."""
        self.learner = turn(epoch, len(self.ctx.modalities), self.settings.alone_epochs, self.settings.joint_epochs)
        for at, (_, encoder) in enumerate(self.network.members):
            if self.learner not in (None, at):
                encoder.eval()

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the loss of the modality whose turn it is, over the rows that have it, or CE(f, y)."""
        if self.learner is None:
            return batch.loss(outputs.f)
        names = list(outputs.f_m)
        name, before = names[self.learner], names[self.learner - 1]
        has, own, fixed = batch.present[name], outputs.f_m[name], {n: f.detach() for n, f in outputs.f_m.items()}
        others = self.settings.rate * sum(
            (f * batch.present[n][:, None] for n, f in fixed.items() if n != name), torch.zeros_like(own)
        )
        share = remainder(others, batch.target, self.settings.w1, self.settings.w2)
        task = (share * batch.losses(own) * has).sum() / has.sum().clamp(min=1)
        both = has & batch.present[before]
        apart = (torch.softmax(own, 1) - torch.softmax(fixed[before], 1)).square().mean(1)
        distance = (apart * both).sum() / both.sum().clamp(min=1)
        if self.settings.variant == "released":
            distance = distance.detach()
        loss: Tensor = task + self.settings.agreement * distance
        return loss

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return nothing: the classifiers learn by the loss itself."""
        return outputs.f.new_zeros(())


def turn(epoch: int, modalities: int, alone: int, joint: int) -> int | None:
    """Return whose turn an epoch is; None: that of all."""
    round_, place = divmod(epoch, alone + joint)
    return round_ % modalities if place < alone else None


def remainder(others: Tensor, target: Tensor, w1: float, w2: float) -> Tensor:
    """Return what each row counts, [w1 - w2 softmax(F)_y] / C, [rows], from the others' logits F, [rows, classes]."""
    return (w1 - w2 * true_class(others, target)) / others.shape[1]
