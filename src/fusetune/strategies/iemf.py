"""IEMF, inverse effectiveness: the fusion layer learns faster the less single modalities know (arXiv 2505.10176).

    s_m = mean of softmax(f_m(x_i))_{y_i} over a step's rows that have m,  f_m = A_m z_m + b / M
    s = mean of softmax(f(x_i))_{y_i} over all of its rows
    paper:     k = 1 + tanh(1 - ratio),           ratio = (mean of s_m) / s
    released:  k = 1 + tanh(1) - tanh(ratio),     ratio = (sum of s_m) / s
    gradient of the head <- k times itself, from an epoch on

The released code has both forms, each in one of its training scripts. The encoders' gradients stay as they are. Under
Adam the steps of the head are scaled, as those of encoders are elsewhere (`scale`).
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
from fusetune.strategies.modulated import Modulated, ModulatedSettings, true_class

Variant = Literal["paper", "released"]


class IEMFSettings(ModulatedSettings):
    """The loop of joint training, and how the head is hurried."""

    variant: Variant = Field("paper", description="form of the factor: by the mean of single scores, or by their sum")
    first_epoch: int = Field(0, ge=0, description="earlier epochs are plain joint training")


class IEMF(Modulated):
    """Joint training whose head is hurried where single modalities know little."""

    name, title, paper = "iemf", "IEMF", "Inverse effectiveness driven fusion, arXiv 2505.10176"
    Settings = IEMFSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.fused_scores = torch.zeros(2, device=self.scores.device)  # the fused score, and how many rows

    @property
    def parts(self) -> Sequence[tuple[str, nn.Module]]:
        """The head."""
        return [(self.head_owner, self.network.head)]

    @torch.no_grad()
    def watch(self, batch: Batch, outputs: Outputs) -> None:
        """Add up the scores of the modalities and of the fused logits."""
        super().watch(batch, outputs)
        right = true_class(outputs.f, batch.target)
        self.fused_scores += torch.stack([right.sum(), right.new_tensor(len(right))])

    def factors(self, scores: Tensor) -> Tensor:
        """Return k, [1]."""
        if self.epoch < self.settings.first_epoch:
            return torch.ones_like(scores[:1])
        return strength(self.means, self.fused_scores[0] / self.fused_scores[1].clamp(min=1), self.settings.variant)[
            None
        ]

    def forget(self) -> None:
        """Begin a new step."""
        super().forget()
        self.fused_scores.zero_()


def strength(alone: Tensor, together: Tensor, variant: Variant) -> Tensor:
    """Return k from what each modality knows, [modalities], and what they know together."""
    together = together.clamp(min=1e-12)
    if variant == "paper":
        return 1 + torch.tanh(1 - alone.mean() / together)
    return 1 + torch.tanh(torch.ones_like(together)) - torch.tanh(alone.sum() / together)
