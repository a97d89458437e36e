"""OGM-GE: slow down the modality that is ahead, and give its gradients their noise back (Peng 2022, arXiv 2203.15332).

    s_m = sum_i softmax(f_m(x_i))_{y_i},  f_m = A_m z_m + b / M         what modality m knows of a step's rows
    rho_m = s_m / mean of the others' s;  k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1
    g_m <- k_m g_m + eps,  eps ~ N(0, std(g_m)) for every weight of the encoder that is no vector

Of two modalities, rho is s_1 / s_2 and its inverse, as published. The released code modulates convolutions only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from fusetune.strategies.modulated import Modulated, ModulatedSettings, others_of


class OGMSettings(ModulatedSettings):
    """The loop of joint training, and how strongly the leader is slowed down."""

    alpha: float = Field(0.3, ge=0, description="strength of the modulation")
    noise: bool = Field(True, description="generalisation enhancement: noise of the gradient's own deviation")
    last_epoch: int = Field(50, ge=0, description="later epochs are plain joint training")


class OGMGE(Modulated):
    """Joint training whose leading modality is slowed down."""

    name, title, paper = "ogm-ge", "OGM-GE", "On-the-fly gradient modulation, arXiv 2203.15332"
    Settings = OGMSettings

    def factors(self, scores: Tensor) -> Tensor:
        """Return k_m, [modalities]."""
        late = self.epoch > self.settings.last_epoch
        return torch.ones_like(scores) if late else coefficients(scores, self.settings.alpha)

    def before_step(self) -> Mapping[str, float]:
        """Modulate a whole step, and give the gradients their noise."""
        # The noise has the deviation of the gradient before the modulation, as published.
        noisy = self.settings.noise and self.epoch <= self.settings.last_epoch
        weights = self.network.encoders.parameters() if noisy else []
        gradients = [p.grad for p in weights if p.grad is not None and p.ndim > 1]
        spreads = [float(g.std(correction=0)) + 1e-8 for g in gradients]
        factors = super().before_step()
        for g, spread in zip(gradients, spreads, strict=True):
            g.add_(torch.randn_like(g), alpha=spread)
        return factors


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """Return k_m, [modalities], from what each modality knows, [modalities]."""
    rho = scores / others_of(scores).clamp(min=1e-12)
    return torch.where((rho > 1) & (len(scores) > 1), 1 - torch.tanh(alpha * rho), torch.ones_like(rho))
