"""MCR: modalities compete for what the fused head reads of them (multimodal competition regulariser, arXiv 2411.07335).

    L = CE(f, y) + a sum_m CE(f_m, y) + b L_MIPD + c L_Con + d L_CEB

    L_MIPD,m = -JS(p(y | z), p(y | z_(-m))),  z_(-m): modality m's features permuted over the batch
    encoder m descends  L_MIPD,m + k mean_(n != m) L_MIPD,n;   k = -1 greedy, 0 independent, 1 cooperative
    L_Con = mean over ordered pairs m != n of the supervised contrastive loss of u_m against u_n, both of length one
    L_CEB = sum_m |z_m - h_m(y)|^2,  h_m: a learnt vector per class

JS is in nats, at most ln 2. A large one says that the head reads the modality, so its own term makes an encoder matter
more, and with k = -1 the others' terms make them matter less. The head learns from the terms as little as anybody else
than the encoders: they see it as it is. Features are permuted among the rows that have the modality, and rows without
it have no term. The published rule is for two modalities; of more, the mean of the others' terms takes the place of
the other one's.

Features of modalities have different widths: u_m is a learnt projection of z_m. L_CEB is on features standardised as
the head reads them, and h_m starts at the class means. All terms see features before their dropout. This follows the
text of the paper; the released code was not read. The paper tunes the weights for every data set: the defaults here
are this library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.divergence import shannon
from fusetune.strategies.end_to_end import EndToEndSettings, alone_loss
from fusetune.strategies.multi_loss import MultiLoss
from fusetune.strategies.unimodal import class_means

_GAME = {"greedy": -1.0, "independent": 0.0, "cooperative": 1.0}


class MCRSettings(EndToEndSettings):
    """The loop of joint training, and how much every term counts."""

    game: Literal["greedy", "independent", "cooperative"] = Field(
        "greedy", description="what encoders do about the others' terms: lower them, ignore them, or raise them"
    )
    unimodal: float = Field(1.0, ge=0, description="weight of the cross-entropies of the modalities alone")
    information: float = Field(0.5, ge=0, description="weight of what the head loses when a modality is permuted")
    contrast: float = Field(0.1, ge=0, description="weight of the contrastive loss between modalities")
    bottleneck: float = Field(0.1, ge=0, description="weight of the distance of features from their class's vector")
    permutations: int = Field(1, ge=1, le=64, description="permutations per batch and modality")
    tau: float = Field(0.1, gt=0, description="temperature of the contrastive loss")
    width: int = Field(64, ge=2, description="width of the projections that are contrasted")


class MCR(MultiLoss):
    """Multi-loss training whose encoders compete for the fused head."""

    name, title, paper = "mcr", "MCR", "Multimodal competition regulariser, arXiv 2411.07335"
    cost = "one training of all encoders, and the head asked twice more per modality and permutation"
    Settings = MCRSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        members, device = self.network.members, ctx.runtime.device
        self.projections = nn.ModuleList(nn.Linear(encoder.dim, settings.width) for _, encoder in members).to(device)
        self.centres = nn.ParameterList(self._standard(name, class_means(ctx, name)) for name, _ in members)

    def _standard(self, name: str, z: Tensor) -> Tensor:
        """Return features as the head reads them: standardised, and divided by the root of their width."""
        mean, deviation = self.network.head.statistics(name)
        standard: Tensor = (z - mean) / deviation / z.shape[1] ** 0.5
        return standard

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the sum of all terms."""
        settings = self.settings
        total: Tensor = batch.loss(outputs.f) + settings.unimodal * alone_loss(batch, outputs.f_m)
        if settings.information:
            total += settings.information * self.information(batch, outputs)
        if settings.contrast:
            total += settings.contrast * self.contrast(batch, outputs)
        if settings.bottleneck:
            total += settings.bottleneck * self.bottleneck(batch, outputs)
        return total

    def information(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return sum_m L_MIPD,m, whose gradient with respect to the others' features is shared out by the game."""
        z, has = outputs.z, batch.present
        others = _GAME[self.settings.game] / max(len(z) - 1, 1)
        weights = {name: p.detach() for name, p in self.network.head.named_parameters()}

        def logits(features: Mapping[str, Tensor]) -> Tensor:
            said: Tensor = functional_call(self.network.head, weights, (features, has))
            return said

        total = outputs.f.new_zeros(())
        for name in z:
            shared = {other: own if other == name else scaled_gradient(own, others) for other, own in z.items()}
            rows = has[name].nonzero()[:, 0]
            for _ in range(self.settings.permutations):
                order = torch.arange(len(has[name]), device=rows.device)
                order[rows] = rows[torch.randperm(len(rows)).to(rows.device)]
                apart = shannon(logits(shared), logits({**shared, name: z[name][order]}))
                total = total - (apart * has[name]).sum() / has[name].sum().clamp(min=1) / self.settings.permutations
        return total

    def contrast(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the mean of the contrastive losses over the ordered pairs of modalities; zero of a single one."""
        names = list(outputs.z)
        unit = [F.normalize(layer(outputs.z[name]), dim=1) for layer, name in zip(self.projections, names, strict=True)]
        pairs = [
            contrastive(unit[m], unit[n], batch.target, batch.present[one], batch.present[other], self.settings.tau)
            for m, one in enumerate(names)
            for n, other in enumerate(names)
            if m != n
        ]
        return torch.stack(pairs).mean() if pairs else outputs.f.new_zeros(())

    def bottleneck(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return L_CEB, each modality's over the rows that have it."""
        total = outputs.f.new_zeros(())
        for (name, z), centres in zip(outputs.z.items(), self.centres, strict=True):
            squares = (self._standard(name, z) - centres[batch.target]).square().sum(1)
            total = total + (squares * batch.present[name]).sum() / batch.present[name].sum().clamp(min=1)
        return total


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x itself, whose gradient is multiplied by a factor on its way back."""
    return x.detach() + factor * (x - x.detach())


def contrastive(u: Tensor, v: Tensor, target: Tensor, has_u: Tensor, has_v: Tensor, tau: float) -> Tensor:
    """Return the supervised contrastive loss of vectors of length one, [rows, width], against those of others.

    -mean_i mean_(j of i's class) log softmax_j(u_i v_j / tau), over rows i that have u and rows j that have v; zero
    where there is no pair.
    """
    scores = (u @ v.T / tau).masked_fill(~has_v[None], -1e9)
    alike = (target[:, None] == target[None]) & has_u[:, None] & has_v[None]
    count = alike.sum(1)
    of_row = -(torch.log_softmax(scores, 1) * alike).sum(1) / count.clamp(min=1)
    return of_row.sum() / (count > 0).sum().clamp(min=1)
