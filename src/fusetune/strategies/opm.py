"""OPM: drop the features of the modality that is ahead, in some rows of some batches (arXiv 2410.11582).

    s_m = mean of softmax(f_m(x_i))_{y_i} over a batch's rows that have m;  rho_m = s_m / mean of the others' s
    q_m = q (1 + alpha tanh(rho_m - 1)) for the m of largest rho, if that is above 1, else 0
    with probability p, of each batch:  row i loses z_m with probability q_m; what is left <- itself / (1 - theta),
    theta = sum_m dim_m q_m / sum_m dim_m

This follows the re-implementation in BalanceBenchmark, not the authors' own code, less an error there by which the
ratio overwrites the score. Features are dropped where the head reads them, standardised: a dropped feature is one of
average value, as by dropout, not one that is known to be absent. Rows that lose all that they have do not count. f_m is
the share A_m z_m + b / M of the head, of the features before anything is dropped.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint
from fusetune.strategies.modulated import means_of, others_of, shares_of, true_class


class OPMSettings(EndToEndSettings):
    """The loop of joint training, and how much is dropped."""

    q: float = Field(0.4, ge=0, lt=1, description="probability that a row loses the leader, where it is just ahead")
    alpha: float = Field(0.5, ge=0, description="how much this grows with the lead")
    share: float = Field(0.7, ge=0, le=1, description="of the batches in which something is dropped")


class OPM(Joint):
    """Joint training in which the leading modality is sometimes not heard."""

    name, title, paper = "opm", "OPM", "On-the-fly prediction modulation, arXiv 2410.11582"
    Settings = OPMSettings

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return what the network makes of what is left; `present` says what that is."""
        if not self.training or float(torch.rand(())) >= self.settings.share:
            return super().fused(batch, z, present)
        q = dict(zip(z, self.probabilities(batch, z, present), strict=True))
        kept = {name: torch.rand(len(own), device=own.device) >= q[name] for name, own in z.items()}
        widths = torch.tensor([float(own.shape[1]) for own in z.values()])
        theta = float((widths * torch.stack(list(q.values())).cpu()).sum() / widths.sum())
        left = {}
        for name, own in z.items():
            mean, _ = self.network.head.statistics(name)
            left[name] = mean + (own - mean) * kept[name][:, None] / (1 - theta)
        outputs = super().fused(batch, left, present)
        return replace(outputs, present={name: bits & kept[name] for name, bits in present.items()})

    @torch.no_grad()
    def probabilities(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Return q_m, [modalities]."""
        has = torch.stack([present[name] for name in z])
        right = true_class(shares_of(self.network, z, present).float(), batch.target)
        scores = means_of((right * has).sum(1), has.sum(1))
        return dropping(scores, self.settings.q, self.settings.alpha)

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) over the rows that have not lost everything."""
        had, left = (torch.stack(list(bits.values())).any(0) for bits in (batch.present, outputs.present))
        return batch.loss(outputs.f, left | ~had)


def dropping(scores: Tensor, q: float, alpha: float) -> Tensor:
    """Return q_m, [modalities], from what each modality knows, [modalities]; at most .99."""
    rho = scores / others_of(scores).clamp(min=1e-12)
    leads = (torch.arange(len(scores), device=scores.device) == rho.argmax()) & (rho > 1) & (len(scores) > 1)
    return torch.where(leads, q * (1 + alpha * torch.tanh((rho - 1).clamp(min=0))), 0.0).clamp(max=0.99)
