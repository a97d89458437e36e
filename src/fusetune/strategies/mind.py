"""MIND: a joint network with a classifier per modality, each of which imitates one trained alone (arXiv 2502.01158).

    L = CE(f, y) + sum_m [CE(f_m, y) + lambda T^2 KL(p(f_m^T / T) || p(f_m / T))]

f_m^T is what modality m's network says after stage U, frozen: UMT (arXiv 2305.01233) with logits in the place of
features. Teacher and student see the same augmented input; terms of a modality are means over the rows that have it.
Only the abstract of the paper was readable, so lambda and T are not the authors'. Theirs distils ensembles of larger
networks into a smaller one; here the teacher is one network of the student's size, trained on the training rows, and a
row without a modality is answered by the fused head, which knows what is absent.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.multi_loss import MultiLoss
from fusetune.strategies.soft_targets import over, softened
from fusetune.strategies.unimodal import fine_tune


class MINDSettings(EndToEndSettings):
    """The loop of joint training, and how much the teachers count."""

    weight: float = Field(1.0, ge=0, description="lambda, of each modality's distance to its teacher")
    temperature: float = Field(2.0, gt=0, description="T, by which both sides' logits are divided")


class MIND(MultiLoss):
    """Multi-loss training with a teacher per modality."""

    name, title, paper = "mind", "MIND", "Modality-informed knowledge distillation, arXiv 2502.01158"
    cost = (
        "the training of every encoder alone, then one training of all with a second pass of each encoder, the teacher"
    )
    Settings = MINDSettings

    def begin(self) -> None:
        """Train the teachers, or find them trained."""
        self.teachers = {name: fine_tune(self.ctx, name) for name in self.ctx.modalities}

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return all cross-entropies, and the distance to the teachers."""
        weight: float = self.settings.weight
        return super().loss(batch, outputs) + weight * self.distance(batch, outputs)

    def distance(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return sum_m T^2 KL, each over the rows that have the modality."""
        total = outputs.f.new_zeros(())
        for name, teacher in self.teachers.items():
            with torch.no_grad(), self.ctx.runtime.autocast():
                said = teacher.fuse(batch.features(teacher), batch.present).f_m[name].float()
            total = total + over(softened(outputs.f_m[name], said, self.settings.temperature), batch.present[name])
        return total
