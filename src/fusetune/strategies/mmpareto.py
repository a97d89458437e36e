"""MMPareto: a direction that neither the fused nor the unimodal loss of an encoder opposes (arXiv 2405.17730).

    g = gradient of CE(f, y), u_m = gradient of CE(f_m, y) with respect to encoder m, over a whole step
    cos(g, u_m) > 0:  h = g + u_m
    else:             h = 2 gamma g + 2 (1 - gamma) u_m of least norm,
                      gamma = u_m (u_m - g) / |g - u_m|^2 in [.001, .999]
    gradient <- 1.5 max(1, |g + u_m| / |h|) h

Least norms lose the noise that generalises; the rescaling gives it back. Norms are those of the encoder's whole vector,
as published (the released code takes them tensor by tensor: `variant: released`). The heads get the plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.joint import Joint, JointSettings


class MMParetoSettings(JointSettings):
    """The loop of joint training, and the length of the step."""

    gain: float = Field(1.5, gt=0, description="factor on the combined gradient")
    variant: Literal["paper", "released"] = Field("paper", description="norms of whole vectors, or tensor by tensor")


class MMPareto(Joint):
    """Multi-loss training whose encoders follow the Pareto direction of their two losses."""

    name, title, paper = "mmpareto", "MMPareto", "Multimodal Pareto, arXiv 2405.17730"
    Settings = MMParetoSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.pending: dict[tuple[str, int], Tensor] = {}

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Add up both gradients of every encoder apart, and those of the heads as they are."""
        fused, heads = (
            self.loss(batch, outputs),
            [*self.network.head.parameters(), *self.network.classifiers.parameters()],
        )
        alone = {name: batch.loss(logits, batch.present[name]) for name, logits in outputs.f_m.items()}
        for name, encoder in self.network.members:
            for which, loss in enumerate((fused, alone[name])):
                own = flat(loss * share, trainable(encoder))
                self.pending[name, which] = self.pending.get((name, which), 0) + own
        total = (fused + torch.stack(list(alone.values())).sum()) * share
        for p, g in zip(heads, torch.autograd.grad(total, heads), strict=True):
            p.grad = g if p.grad is None else p.grad + g
        return fused

    def before_step(self) -> None:
        """Give every encoder the combined gradient of the whole step."""
        for name, encoder in self.network.members:
            weights = trainable(encoder)
            sizes = [p.numel() for p in weights]
            tensors = sizes if self.settings.variant == "released" else [sum(sizes)]
            combined = combine(self.pending.pop((name, 0)), self.pending.pop((name, 1)), self.settings.gain, tensors)
            for p, g in zip(weights, torch.split(combined, sizes), strict=True):
                p.grad = g.view_as(p)


def combine(fused: Tensor, alone: Tensor, gain: float, sizes: Sequence[int]) -> Tensor:
    """Return an encoder's gradient from its two, [weights]; norms are taken of pieces of these sizes."""
    gamma = share_of_fused(fused, alone)
    h, plain = 2 * gamma * fused + 2 * (1 - gamma) * alone, fused + alone
    pieces = zip(torch.split(h, list(sizes)), torch.split(plain, list(sizes)), strict=True)
    return torch.cat([gain * (full.norm() / part.norm().clamp(min=1e-12)).clamp(min=1) * part for part, full in pieces])


def share_of_fused(fused: Tensor, alone: Tensor) -> float:
    """Return gamma: 1/2 where the two gradients agree, else that of the combination of least norm."""
    if float(fused @ alone) > 0:
        return 0.5
    apart = float((fused - alone).square().sum())
    return min(max(float(alone @ (alone - fused)) / apart, 0.001), 0.999) if apart else 0.5


def trainable(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the weights that move."""
    return [p for p in encoder.parameters() if p.requires_grad]


def flat(loss: Tensor, weights: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradient of a loss with respect to some weights as one vector; the graph is kept."""
    if not weights:
        return loss.new_zeros(0)
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, weights, strict=True)]
    )
