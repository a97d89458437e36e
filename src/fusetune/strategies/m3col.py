"""M3CoL: modalities are aligned through mixtures of rows, then through how alike rows are ("Harnessing Shared Relations
via Multimodal Mixup Contrastive Learning for Multimodal Classification", 2024, arXiv 2409.17777).

    L = CE(f, y) + sum_m CE(f_m, y) + lambda * sum over directions m -> n of L_mn;  1 -> 2 -> ... -> M -> 1

of features at length 1, where their widths differ after a linear map of each to a common width. In the first third:

    ut_i = beta_i u_i + (1 - beta_i) u_pi(i),  S_ij = cos(ut_i, v_j) / tau,  T_i = beta_i e_i + (1 - beta_i) e_pi(i)
    L_mn = 1/2 [rows(S, T) + rows(S^T, T^T)]                                                    (`contrast`)

with a random permutation pi and, for half of the rows, beta_i ~ Beta(a, a), else beta_i = 1. Afterwards:

    G = v v^T / tau', P = u v^T / tau';  L_mn = 1/2 [rows(P, softmax(G)) + rows(P^T, softmax(G))]

whose gradient flows through G, too. Rows count for a direction where they have both modalities; partners are drawn
among these. Heads are linear here and begin at the solution on frozen features; those published have three layers.

With `variant: released` as the released code does it: mixing overwrites its argument, so that the anchors v_j are
mixtures as well, of their own partners and weights; and a row that is its own partner has 1 - beta_i, not 1, as its
target. For M = 2 and 3 the directions are those published; for more, the cycle goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.contrast import cosines, cycle_of, refuse_one_input, row_loss, shared_rows, two_way
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.multi_loss import MultiLoss


class M3CoLSettings(EndToEndSettings):
    """The loop of joint training, and how modalities are aligned."""

    weight: float = Field(0.1, ge=0, description="lambda, of the sum of the contrastive losses")
    alpha: float = Field(0.15, gt=0, description="a of Beta(a, a): the smaller, the closer mixtures are to one row")
    mixed: float = Field(0.5, ge=0, le=1, description="share of the rows that are mixed")
    heat: float = Field(0.1, gt=0, description="tau, temperature of the mixup loss")
    soft_heat: float = Field(0.125, gt=0, description="tau', temperature of the soft-target loss")
    phase: float = Field(0.33, ge=0, le=1, description="share of the epochs with the mixup loss; the soft one follows")
    width: int = Field(128, ge=1, description="of the common space, where widths of features differ")
    variant: Literal["paper", "released"] = Field(
        "paper", description="released: anchors are mixed, too, and rows that are their own partners lose their target"
    )


@dataclass(frozen=True)
class Partners:
    """Whom each row of a batch is mixed with in one modality.

    Attributes:
        beta: Weight of the row itself, float [rows].
        order: Random numbers, float [rows]: sorted, they are the permutation among any of the rows.
    """

    beta: Tensor
    order: Tensor

    @classmethod
    def draw(cls, rows: int, alpha: float, share: float, device: torch.device) -> Self:
        """Draw them for so many rows, of which a share is mixed with weights from Beta(alpha, alpha)."""
        beta = torch.distributions.Beta(alpha, alpha).sample((rows,)).to(device)
        mixed = torch.rand(rows, device=device) < share
        return cls(torch.where(mixed, beta, 1.0), torch.rand(rows, device=device))

    def among(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta and the permutation of some rows, [rows] each."""
        return self.beta[rows], self.order[rows].argsort()


class M3CoL(MultiLoss):
    """Multi-loss training with contrastive losses between modalities, on mixed rows first."""

    name, title, paper = "m3col", "M3CoL", "Multimodal mixup contrastive learning, arXiv 2409.17777"
    Settings = M3CoLSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        refuse_one_input(ctx, self.name)
        super().__init__(ctx, settings)
        widths = [encoder.dim for _, encoder in self.network.members]
        # By place: names of modalities may hold dots.
        self.projections = nn.ModuleList(
            nn.Identity() if len(set(widths)) == 1 else nn.Linear(width, settings.width) for width in widths
        )
        self.epoch, self.switch = 0, int(settings.phase * settings.epochs)

    def before_epoch(self, epoch: int) -> None:
        """Note the epoch: it decides the phase."""
        self.epoch = epoch

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the fused and unimodal losses and lambda times the contrastive ones."""
        weight: float = self.settings.weight
        return super().loss(batch, outputs) + weight * self.contrast(batch, outputs)

    def contrast(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the sum of the directions' losses."""
        how, present, total = self.settings, batch.present, outputs.f.new_zeros(())
        layers = zip(outputs.z.items(), self.projections, strict=True)
        unit = {name: F.normalize(layer(z), dim=1) for (name, z), layer in layers}
        rows, device = len(outputs.f), outputs.f.device
        partners = {name: Partners.draw(rows, how.alpha, how.mixed, device) for name in unit}
        for own, other in cycle_of(list(unit)):
            both = shared_rows(present, own, other)
            u, v = unit[own][both], unit[other][both]
            if len(both) < 2:
                continue
            if self.epoch >= self.switch:
                total = total + soft_loss(u, v, how.soft_heat)
                continue
            released = how.variant == "released"
            anchors = mixture(v, *partners[other].among(both)) if released else v
            total = total + mixup_loss(u, anchors, *partners[own].among(both), how.heat, own_partner=not released)
        return total


def mixture(u: Tensor, beta: Tensor, partner: Tensor) -> Tensor:
    """Return beta_i u_i + (1 - beta_i) u_pi(i), [rows, dim]."""
    return beta[:, None] * u + (1 - beta[:, None]) * u[partner]


def mixup_loss(
    u: Tensor, anchors: Tensor, beta: Tensor, partner: Tensor, heat: float, *, own_partner: bool = True
) -> Tensor:
    """Return the loss of mixtures of u against the anchors, to which each belongs in two shares.

    Args:
        u: Features that are mixed, [rows, dim].
        anchors: Features of the same rows in another modality, [rows, dim].
        beta: Weight of the row itself, [rows].
        partner: pi, int64 [rows].
        heat: tau.
        own_partner: Does a row that is its own partner keep its whole target? Else it keeps 1 - beta of it.
    """
    scores, rows = cosines(mixture(u, beta, partner), anchors) / heat, torch.arange(len(u), device=u.device)
    target = torch.diag(beta)
    target[rows, partner] = 1 - beta + (target[rows, partner] if own_partner else 0.0)
    return two_way(scores, target) / 2


def soft_loss(own: Tensor, other: Tensor, heat: float) -> Tensor:
    """Return the loss of one modality's features against how alike rows are in the other, features [rows, dim]."""
    alike, scores = torch.softmax(cosines(other, other) / heat, 1), cosines(own, other) / heat
    return (row_loss(scores, alike) + row_loss(scores.T, alike)) / 2
