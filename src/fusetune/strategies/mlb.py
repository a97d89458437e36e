"""MLB: hurry the modality that lags, slow down the one that leads, by continuous factors (arXiv 2405.07930).

    L = CE(f, y) + sum_m CE(f_m, y)
    s_m = mean of softmax(f_m(x_i))_{y_i} over a step's rows that have m;  r_m = (mean of the others' s) / s_m
    k_m = 1 + (beta_m - 1) tanh(alpha (r_m - 1)),  beta_m = beta_max where r_m > 1, else 2
    gradient of encoder m, of both losses, <- k_m times itself

k is 1 at r = 1, tends to beta_max for the one far behind, and is 1 - tanh(alpha (1 - r_m)) for the one ahead. Published
for two modalities; here for any number. Scores are means, so that a modality that many rows lack is not taken for a
weak one. Unless told otherwise, the released code hurries by less than 2, and so does this.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.modulated import Modulated, ModulatedSettings, others_of, stacked, true_class
from fusetune.strategies.multi_loss import MultiLoss


class MLBSettings(ModulatedSettings):
    """The loop of joint training, and how strongly modalities are brought level."""

    alpha: float = Field(1.5, ge=0, description="strength of the modulation")
    beta_max: float = Field(2.0, ge=1, description="largest factor, of a modality that is far behind")


class MLB(MultiLoss, Modulated):
    """Multi-loss training whose modalities are hurried and slowed down."""

    name, title, paper = "mlb", "MLB", "Multi-loss gradient modulation, arXiv 2405.07930"
    Settings = MLBSettings

    def score(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return softmax(f_m(x_i))_{y_i} by the classifiers of the modalities, [modalities, rows]."""
        return true_class(stacked(outputs), batch.target)

    def factors(self, scores: Tensor) -> Tensor:
        """Return k_m, [modalities]."""
        return balance(self.means, self.settings.alpha, self.settings.beta_max)


def balance(scores: Tensor, alpha: float, beta_max: float) -> Tensor:
    """Return k_m, [modalities], from what each modality knows, [modalities]; 1 where there is no other."""
    if len(scores) < 2:
        return torch.ones_like(scores)
    r = others_of(scores) / scores.clamp(min=1e-12)
    return 1 + torch.where(r > 1, beta_max - 1, 1.0) * torch.tanh(alpha * (r - 1))
