"""MMPareto: a direction that neither the fused nor the unimodal loss of an encoder opposes (arXiv 2405.17730).

    g = gradient of CE(f, y), u_m = gradient of CE(f_m, y) with respect to encoder m, over a whole step
    cos(g, u_m) > 0:  h = g + u_m
    else:             h = 2 gamma g + 2 (1 - gamma) u_m of least norm,
                      gamma = u_m (u_m - g) / |g - u_m|^2 in [.001, .999]
    gradient <- 1.5 max(1, |g + u_m| / |h|) h

Least norms lose the noise that generalises; the rescaling gives it back. Norms are those of the encoder's whole vector,
as published; the released code takes them tensor by tensor. The heads get the plain sum of all losses' gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings, flat_gradient, set_gradient
from fusetune.strategies.joint import Joint


class MMParetoSettings(EndToEndSettings):
    """The loop of joint training, and the length of the step."""

    gain: float = Field(1.5, gt=0, description="factor on the combined gradient")


class MMPareto(Joint):
    """Multi-loss training whose encoders follow the Pareto direction of their two losses."""

    name, title, paper = "mmpareto", "MMPareto", "Multimodal Pareto, arXiv 2405.17730"
    cost = "one training of all encoders with two backward passes per modality"
    Settings = MMParetoSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.pairs: dict[str, Tensor] = {}

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Add up both gradients of every encoder apart, and those of the heads as they are."""
        fused = self.loss(batch, outputs)
        alone = {name: batch.loss(logits, batch.present[name]) for name, logits in outputs.f_m.items()}
        for name, encoder in self.network.members:
            pair = torch.stack([flat_gradient(loss * share, encoder) for loss in (fused, alone[name])])
            self.pairs[name] = self.pairs[name] + pair if name in self.pairs else pair
        total = (fused + torch.stack(list(alone.values())).sum()) * share
        for p, g in zip(self.heads, torch.autograd.grad(total, self.heads), strict=True):
            p.grad = g if p.grad is None else p.grad + g
        return fused

    def before_step(self) -> Mapping[str, float]:
        """Give every encoder the combined gradient of the whole step."""
        for name, encoder in self.network.members:
            fused, alone = self.pairs.pop(name)
            set_gradient(encoder, combine(fused, alone, self.settings.gain))
        return {}


def combine(fused: Tensor, alone: Tensor, gain: float) -> Tensor:
    """Return an encoder's gradient from its two, [weights]."""
    gamma, plain = share_of_fused(fused, alone), fused + alone
    h = 2 * gamma * fused + 2 * (1 - gamma) * alone
    longer: Tensor = (plain.norm() / h.norm().clamp(min=1e-12)).clamp(min=1)
    return gain * longer * h


def share_of_fused(fused: Tensor, alone: Tensor) -> float:
    """Return gamma: 1/2 where the two gradients agree, else that of the combination of least norm."""
    apart = float((fused - alone).square().sum())
    if float(fused @ alone) > 0 or not apart:
        return 0.5
    return min(max(float(alone @ (alone - fused)) / apart, 0.001), 0.999)
