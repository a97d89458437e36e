"""UMT, the uni-modal teacher: joint training that imitates encoders trained alone (Du et al. 2023, arXiv 2305.01233).

    L = CE(f, y) + lambda * sum_m D(phi_m(x_m), sg[phi_m^T(x_m)])

phi_m^T is modality m's encoder after stage U, frozen. D is the squared error per dimension on features standardised by
the teacher's statistics over the training rows. Teacher and student see the same augmented input. With
`scale_free: a`, L = (1 - a) CE + a D sg[CE / D] instead, so that a is the share of the gradient's scale.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.base import ANY_TARGET
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings
from fusetune.strategies.unimodal import deviations, fine_tune


class UMTSettings(EndToEndSettings):
    """The loop of joint training, and how much the teachers count."""

    weight: float = Field(10.0, ge=0, description="lambda, of the sum of the modalities' distances")
    scale_free: float | None = Field(None, ge=0, le=1, description="share of the distances in the gradient's scale")


class UMT(EndToEnd):
    """Joint training with a teacher per modality."""

    name, title, paper = "umt", "UMT", "Uni-modal teacher, arXiv 2305.01233"
    targets = ANY_TARGET
    cost = (
        "the training of every encoder alone, then one training of all with a second pass of each encoder, the teacher"
    )
    Settings = UMTSettings

    def begin(self) -> None:
        """Train the teachers, or find them trained, and learn the scale of their features."""
        self.teachers = {name: fine_tune(self.ctx, name) for name in self.ctx.modalities}
        self.scales = {name: deviations(self.ctx, name, teacher) for name, teacher in self.teachers.items()}

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the cross-entropy and the distance to the teachers."""
        task, distance, share = batch.loss(outputs.f), self.distance(batch, outputs), self.settings.scale_free
        return task + self.settings.weight * distance if share is None else mixture(task, distance, share)

    def distance(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return sum_m D, each over the rows that have the modality."""
        total = outputs.f.new_zeros(())
        for name, teacher in self.teachers.items():
            with torch.no_grad(), self.ctx.runtime.autocast():
                z = batch.features(teacher)[name].float()
            has = batch.present[name]
            squares = ((outputs.z[name] - z) / self.scales[name]).square().mean(1)
            total = total + (squares * has).sum() / has.sum().clamp(min=1)
        return total


def mixture(task: Tensor, distance: Tensor, share: float) -> Tensor:
    """Return (1 - a) l_task + a l_dist sg[l_task / l_dist]."""
    return (1 - share) * task + share * distance * (task / distance.clamp(min=1e-12)).detach()
