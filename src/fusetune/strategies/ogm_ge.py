"""OGM-GE: slow down the modality that is ahead, and give its gradients their noise back (Peng 2022, arXiv 2203.15332).

    s_m = sum_i softmax(f_m(x_i))_{y_i},  f_m = A_m z_m + b / M         what modality m knows of a step's rows
    rho_m = s_m / mean of the others' s;  k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1
    g_m <- k_m g_m + eps,  eps ~ N(0, std(g_m)) for every weight of the encoder that is no vector

Of two modalities, rho is s_1 / s_2 and its inverse, as published. The released code modulates convolutions only.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint


class OGMSettings(EndToEndSettings):
    """The loop of joint training, and how strongly the leader is slowed down."""

    alpha: float = Field(0.3, ge=0, description="strength of the modulation")
    noise: bool = Field(True, description="generalisation enhancement: noise of the gradient's own deviation")
    last_epoch: int = Field(50, ge=0, description="later epochs are plain joint training")


class OGMGE(Joint):
    """Joint training with modulated gradients of the encoders; those of the head stay as they are."""

    name, title, paper = "ogm-ge", "OGM-GE", "On-the-fly gradient modulation, arXiv 2203.15332"
    Settings = OGMSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.scores, self.epoch = torch.zeros(len(ctx.modalities), device=ctx.runtime.device), 0

    def before_epoch(self, epoch: int) -> None:
        """Note the epoch."""
        self.epoch = epoch

    @torch.no_grad()
    def watch(self, batch: Batch, outputs: Outputs) -> None:
        """Add up what each modality knows of the step's rows."""
        right = torch.softmax(self.network.head.shares(outputs.z, batch.present), 2)  # type: ignore[operator]
        right = right[:, torch.arange(len(batch.target)), batch.target]
        self.scores += (right * torch.stack([batch.present[name] for name in outputs.z])).sum(1)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Return the loss, as joint training does."""
        self.watch(batch, outputs)
        return super().gradients(batch, outputs, share)

    def before_step(self) -> None:
        """Modulate the gradients of a whole step."""
        factors = coefficients(self.scores, self.settings.alpha)
        for k, (_, encoder) in zip(factors, self.network.members, strict=True):
            gradients = [p.grad for p in encoder.parameters() if p.grad is not None and p.ndim > 1]
            for g in gradients if self.epoch <= self.settings.last_epoch else ():
                spread = float(g.std(correction=0)) + 1e-8 if self.settings.noise else 0.0
                g.mul_(k).add_(torch.randn_like(g), alpha=spread)
        self.scores.zero_()


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """Return k_m, [modalities], from what each modality knows, [modalities]."""
    others = (scores.sum() - scores) / max(len(scores) - 1, 1)
    rho = scores / others.clamp(min=1e-12)
    return torch.where((rho > 1) & (len(scores) > 1), 1 - torch.tanh(alpha * rho), torch.ones_like(rho))
