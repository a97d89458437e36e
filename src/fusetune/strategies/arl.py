"""ARL: modalities are trained in the inverse ratio of their variances, not alike (arXiv 2507.10203).

    L = CE(f, y) + gamma sum_m CE(f_m, y),  f_m = A_m z_m + b / M: no weights but the head's own
    h_m = H_m / sum_n H_n,  H_m the mean entropy of softmax(f_m) over a step's rows that have m
    v_m = (1 / max(h_m, .6 / M)) / sum_n (1 / max(h_n, .6 / M));  c_m = A_m / sum_n A_n,  A_m the mean of |f_m|
    w = softmax_m(T v_m (1 - c_m) / (M - 1));  gradient of encoder m <- (1 + w_m) times itself

A modality that is sure of what it says (low H) and says little (low A) learns faster. For two modalities the floor is
the published .3 and (1 - c_m) / (M - 1) the other's share. In the released code the weights stay at 1 / M (`variant:
released`), so that it trains by several losses with one constant factor on all encoders.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import alone_loss
from fusetune.strategies.modulated import Modulated, ModulatedSettings, means_of, present_in, shares_of, stacked


class ARLSettings(ModulatedSettings):
    """The loop of joint training, and by how much modalities are told apart."""

    gamma: float = Field(4.0, ge=0, description="weight of the unimodal losses")
    temperature: float = Field(8.0, ge=0, description="sharpness T of the weights")
    variant: Literal["paper", "released"] = Field("paper", description="weights as computed, or all the same")


class ARL(Modulated):
    """Multi-loss training in which the modality of less variance learns faster."""

    name, title, paper = "arl", "ARL", "Asymmetric representation learning, arXiv 2507.10203"
    Settings = ARLSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.sizes = torch.zeros_like(self.scores)

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return the network's outputs with what each modality adds to f in the place of its classifier's logits."""
        shares = shares_of(self.network, z, present)
        return replace(super().fused(batch, z, present), f_m=dict(zip(z, shares, strict=True)))

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) + gamma sum_m CE(f_m, y)."""
        return batch.loss(outputs.f) + alone_loss(batch, outputs.f_m) * float(self.settings.gamma)

    def score(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the entropy of softmax(f_m), [modalities, rows]."""
        entropies: Tensor = torch.special.entr(torch.softmax(stacked(outputs), -1)).sum(-1)
        return entropies

    @torch.no_grad()
    def watch(self, batch: Batch, outputs: Outputs) -> None:
        """Add up entropies and sizes of what each modality says."""
        super().watch(batch, outputs)
        self.sizes += (stacked(outputs).abs().sum(-1) * present_in(batch, outputs)).sum(1)

    def factors(self, scores: Tensor) -> Tensor:
        """Return 1 + w_m, [modalities]."""
        if self.settings.variant == "released":
            return torch.full_like(scores, 1 + 1 / len(scores))
        return 1 + weights(self.means, means_of(self.sizes, self.seen), self.settings.temperature)

    def forget(self) -> None:
        """Begin a new step."""
        super().forget()
        self.sizes.zero_()


def weights(entropies: Tensor, sizes: Tensor, temperature: float) -> Tensor:
    """Return w_m, [modalities], from the entropies and the sizes of what each modality says, [modalities]."""
    many = len(entropies)
    share = entropies / entropies.sum().clamp(min=1e-12)
    sure = 1 / share.clamp(min=0.6 / many)
    others = (1 - sizes / sizes.sum().clamp(min=1e-12)) / max(many - 1, 1)
    return torch.softmax(temperature * others * sure / sure.sum(), 0)
