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

from fusetune.context import Context
from fusetune.networks import EnsembleNetwork, Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.joint import Joint, JointSettings
from fusetune.strategies.unimodal import fine_tune


class UMTSettings(JointSettings):
    """The loop of joint training, and how much the teachers count."""

    weight: float = Field(10.0, ge=0, description="lambda, of the sum of the modalities' distances")
    scale_free: float | None = Field(None, ge=0, le=1, description="share of the distances in the gradient's scale")


class UMT(Joint):
    """Joint training with a teacher per modality."""

    name, title, paper = "umt", "UMT", "Uni-modal teacher, arXiv 2305.01233"
    Settings = UMTSettings

    def begin(self) -> None:
        """Train the teachers, or find them trained, and learn the scale of their features."""
        self.teachers = {name: fine_tune(self.ctx, name) for name in self.ctx.modalities}
        self.scales = {name: deviation(self.ctx, name, network) for name, network in self.teachers.items()}

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the cross-entropy and the distance to the teachers."""
        task, distance = super().loss(batch, outputs), self.distance(batch, outputs)
        if self.settings.scale_free is not None:
            return mixture(task, distance, self.settings.scale_free)
        weight: float = self.settings.weight
        return task + weight * distance

    def distance(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return sum_m D over the rows that have the modality."""
        apart = []
        for name, teacher in self.teachers.items():
            with torch.no_grad(), self.ctx.runtime.fabric.autocast():
                z = batch.features(teacher)[name].float()
            squares = ((outputs.z[name] - z) / self.scales[name]).square().mean(1) * batch.present[name]
            apart.append(squares.sum() / batch.present[name].sum().clamp(min=1))
        total: Tensor = torch.stack(apart).sum()
        return total


def mixture(task: Tensor, distance: Tensor, share: float) -> Tensor:
    """Return (1 - a) l_task + a l_dist sg[l_task / l_dist]."""
    return (1 - share) * task + share * distance * (task / distance.clamp(min=1e-12)).detach()


def deviation(ctx: Context, name: str, teacher: EnsembleNetwork) -> Tensor:
    """Return the deviation of each of the teacher's features over the training rows that have the modality, [dim]."""
    rows = ctx.split.rows("train")
    encoder, _ = teacher.only
    z = torch.from_numpy(ctx.encode(name, encoder, rows[ctx.sources[name].present[rows]])[0].copy())
    return z.std(0, correction=0).clamp(min=1e-3 * float(z.std()) + 1e-12).to(ctx.runtime.device)
