"""MLB, multi-loss gradient modulation (arXiv 2405.07930): encoders that lag are hurried, those that lead are slowed.

L = CE(f, y) + sum_m CE(f_m, y); the gradient of encoder m times k_m = 1 + (beta_m - 1) tanh(alpha (r_m - 1)), where
r_m = mean over n != m of s_n / s_m, s_m = sum over the batch of p(f_m)_y, beta_m = beta_max if r_m > 1, else 2.
"""

import torch
from pydantic import Field

from fusetune.networks.base import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.multi_loss import MultiLoss


def coefficients(s: torch.Tensor, alpha: float, beta_max: float) -> torch.Tensor:
    """Return each modality's k from its s, both [modalities]; 1 where there is nothing to compare with."""
    r = (s.sum() / s - 1) / (len(s) - 1) if len(s) > 1 else torch.ones_like(s)
    return 1 + (torch.where(r > 1, torch.full_like(r, beta_max), 2) - 1) * torch.tanh(alpha * (r - 1))


class MLBSettings(EndToEndSettings):
    """The loop of joint training, and the modulation."""

    alpha: float = Field(1.5, ge=0, description="how sharply a lag or a lead is answered; 0: not at all")
    beta_max: float = Field(20.0, ge=1, description="most that a gradient is multiplied by")


class MLB(MultiLoss):
    """The sum of the fused and all unimodal losses, with every encoder's gradient scaled by its lag."""

    name, title, paper = "mlb", "MLB", "Multi-loss gradient modulation, arXiv 2405.07930"
    Settings = MLBSettings
    right: tuple[dict[str, torch.Tensor], ...] = ()  # p(f_m)_y by modality, of each batch since the last step

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> torch.Tensor:
        """Note on the way what each modality gives to the true class."""
        p = {m: f_m.detach().float().softmax(-1).gather(-1, batch.target[:, None]) for m, f_m in outputs.f_m.items()}
        self.right = (*self.right, {m: rows[batch.present[m]] for m, rows in p.items()})
        return super().gradients(batch, outputs, share)

    def before_step(self) -> None:
        """Multiply by k_m; s_m is a mean, not a sum, over the rows that have m: being absent is no lag."""
        rows, self.right = {m: torch.cat([p[m] for p in self.right]) for m in self.right[0]}, ()
        s = {m: p.mean() for m, p in rows.items() if len(p)}
        k = coefficients(torch.stack([*s.values()]), self.settings.alpha, self.settings.beta_max)
        for m, k_m in zip(s, k, strict=True):
            for weight in dict(self.network.members)[m].parameters():
                weight.grad = None if weight.grad is None else weight.grad * k_m
