"""MDiCo: what a modality has in common with others is told apart from what is its own, so that one alone can serve
("Multi-modal Co-learning for Earth Observation", 2025, arXiv 2510.19579; train with all modalities, predict with any).

    [u_m, n_m] = A_m specific_m(x_m) + a_m,  s_m = relu(BN(B_m common_m(x_m)))              (`encoders.branched`)
    L = mean_m CE(f_m([u_m, s_m]), y) + w_a mean_m 1/2 [CE(a(u_m), y) + CE(a(s_m), y)]
        + w_c sum over m != n of NT-Xent(s_m, s_n) + w_d mean_m 1/2 [CE(d_1(u_m), m) + CE(d_2(n_m), m)]

Two encoders per modality; one auxiliary classifier a for everything; d_1 and d_2 learn to say which modality a part
comes from, and nothing else reads n. f is the mean of the f_m that are present; no fused head is trained.
Each term of m is over the rows that have m, those of pairs over the rows that have both.

In the released code, d_2 reads s_m in place of n_m (`discriminate: shared`), which asks the common part to tell its
modality. What differs here: both branches start from the modality's own encoder; a linear layer brings the specific
one to the common width before it is halved, since encoders of different modalities have different widths, and
ready-made vectors no encoder; f_m is linear and starts at its solution on the untrained u and s. Which rows NT-Xent
tells a row from was not to be read: those of both modalities here, as in SimCLR.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.encoders import Branched
from fusetune.encoders.layers import blank_linear
from fusetune.heads.late import MeanHead
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.strategies.batch import Batch
from fusetune.strategies.contrast import nt_xent, pairs_of, refuse_one_input, shared_rows
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, alone_loss
from fusetune.strategies.majority import prior_of
from fusetune.strategies.unimodal import probe


class MDiCoSettings(EndToEndSettings):
    """The loop of joint training, and the weight of each loss beside that of the classifiers."""

    width: int = Field(64, ge=1, description="of each part of a modality's features")
    auxiliary: float = Field(1.0, ge=0, description="w_a, weight of the classifier that all parts share")
    contrast: float = Field(1.0, ge=0, description="w_c, weight of the contrastive loss of the common parts")
    discrimination: float = Field(1.0, ge=0, description="w_d, weight of telling modalities by their parts")
    heat: float = Field(0.1, gt=0, description="temperature of the contrastive loss")
    discriminate: Literal["irrelevant", "shared"] = Field(
        "irrelevant", description="what the second discriminator reads: n_m, or, as released, s_m"
    )


class MDiCo(EndToEnd):
    """A classifier per modality on its own and its common part."""

    name, title, paper = "mdico", "MDiCo", "Multi-modal disentanglement for co-learning, arXiv 2510.19579"
    together = "all encoders together, a classifier on each"
    cost = "one training of two encoders per modality"
    Settings = MDiCoSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        refuse_one_input(ctx, self.name)
        super().__init__(ctx, settings)
        classes, names = len(ctx.classes), list(ctx.modalities)
        self.shared_classifier = nn.Linear(settings.width, classes)
        self.discriminators = nn.ModuleList(nn.Linear(settings.width, len(names)) for _ in range(2))

    @classmethod
    def prepare(cls, ctx: Context, settings: Any) -> None:
        """Nothing: the branches start from classifiers of their own."""

    def start(self) -> FusionNetwork:
        """Return branched encoders under classifiers that are solved on u and s; n is not read."""
        ctx, names, width = self.ctx, list(self.ctx.modalities), self.settings.width
        train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
        encoders = [Branched.of(ctx.fresh_encoder(name), width).to(ctx.runtime.device) for name in names]
        pairs = zip(names, encoders, strict=True)
        solved = [probe(ctx, name, encoder, train, valid, name, read=2 * width) for name, encoder in pairs]
        head = MeanHead(dict.fromkeys(names, len(ctx.classes)), len(ctx.classes))
        head.get_buffer("prior").copy_(prior_of(ctx))
        wiring = Wiring(names, {name: [at] for at, name in enumerate(names)}, {}, names)
        return FusionNetwork(encoders, [_padded(layer, 3 * width) for layer in solved], head, wiring)

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return what the network makes of u and s: the weights of n begin at zero, get no gradient and stay there."""
        width = 2 * self.settings.width
        return self.network.fuse({name: F.pad(own[:, :width], (0, width // 2)) for name, own in z.items()}, present)

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the weighted sum of all four."""
        how = self.settings
        task, auxiliary, contrast, told = self.terms(batch, outputs)
        total: Tensor = task + how.auxiliary * auxiliary + how.contrast * contrast + how.discrimination * told
        return total

    def terms(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four terms before their weights: task, auxiliary, contrast (of pairs), discrimination."""
        parts, count = {name: z.chunk(3, 1) for name, z in outputs.z.items()}, len(outputs.z)
        zero = outputs.f.new_zeros(())
        auxiliary, contrast, told = zero, zero, zero
        first, second = self.discriminators
        for at, (name, (u, s, n)) in enumerate(parts.items()):
            has = batch.present[name]
            classes = batch.loss(self.shared_classifier(u), has) + batch.loss(self.shared_classifier(s), has)
            auxiliary = auxiliary + classes / 2
            other = n if self.settings.discriminate == "irrelevant" else s
            told = told + (_told(first(u), at, has) + _told(second(other), at, has)) / 2
        for one, other_name in pairs_of(list(parts)):
            rows = shared_rows(batch.present, one, other_name)
            if len(rows) > 1:
                # It is the same in both directions, and ordered pairs count.
                contrast = contrast + 2 * nt_xent(parts[one][1][rows], parts[other_name][1][rows], self.settings.heat)
        return alone_loss(batch, outputs.f_m) / count, auxiliary / count, contrast, told / count

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return nothing: the classifiers learn by the loss itself."""
        return outputs.f.new_zeros(())


def _told(logits: Tensor, modality: int, has: Tensor) -> Tensor:
    """Return the mean cross-entropy of saying which modality this is, over the rows that have it."""
    losses = F.cross_entropy(logits, torch.full((len(logits),), modality, device=logits.device), reduction="none")
    return (losses * has).sum() / has.sum().clamp(min=1)


def _padded(layer: nn.Linear, width: int) -> nn.Linear:
    """Return the same function of wider features, of which it reads the first."""
    wide = blank_linear(width, layer.out_features)
    with torch.no_grad():
        wide.weight[:, : layer.in_features] = layer.weight
        wide.bias.copy_(layer.bias)
    return wide
