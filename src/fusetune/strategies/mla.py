"""MLA: modalities take turns at one shared classifier (Zhang et al., CVPR 2024, arXiv 2311.10707).

    f_m = g(P_m z_m), one linear g for all;  step t:  L = CE(f_m, y), m = t mod M, moves phi_m, P_m and g
    R <- R - k k^T / (alpha + r^T k),  k = R r,  r = mean of P_m z_m over the step's rows,  R = 1 at first
    gradient of g's weights <- gradient R^T,  alpha = 0.1^(1 + step / steps of the epoch)
    f = sum_m w_m f_m,  w_m = exp(max H - H_m) / sum_n exp(max H - H_n),  H_m the entropy of softmax(f_m)

R r is all but zero after the update: g does not move along means that it has seen, so that one modality's turn leaves
what others have learnt. P_m is here because encoders need not have one width. Turns change with every optimiser step,
not within a batch: all modalities are encoded in each step and one learns, so that an epoch costs what an epoch of
joint training costs, and each modality learns in one of M steps. Everything starts from the solved classifiers.

What the released code does otherwise is not offered, but for `projection: none`, since it is a slip: there R is never
applied (it looks for a parameter of another name), its denominator is a matrix, R is divided by its norm in every step,
and the entropies of a batch are added up, so that what is said of a row depends on its company. An optimiser that
divides gradients by their size, as AdamW does, does not keep them orthogonal exactly; `optimiser: sgd` does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.data.batch import shuffled_batches
from fusetune.data.split import Rows
from fusetune.heads.shared import SharedHead
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, start_of
from fusetune.strategies.majority import prior_of
from fusetune.strategies.trainer import Training


class MLASettings(EndToEndSettings):
    """The loop of joint training, and the shared classifier."""

    width: int = Field(64, ge=1, description="width that all features are projected to")
    projection: Literal["none", "rls"] = Field(
        "rls", description="rls: the classifier does not move along means of features that it has seen"
    )


class MLA(EndToEnd):
    """Encoders that take turns at one classifier."""

    name, title, paper = "mla", "MLA", "Alternating unimodal adaptation, arXiv 2311.10707"
    cost = "one training of all encoders, of which one learns in each step"
    Settings = MLASettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.register_buffer("free", torch.eye(settings.width, device=ctx.runtime.device))
        self.seen, self.rows = torch.zeros(settings.width, device=ctx.runtime.device), 0.0
        self.epoch, self.step, self.steps = 0, 0, 1

    def start(self) -> FusionNetwork:
        """Return untrained encoders under one classifier that says of each modality what its own would say."""
        start, ctx = copy.deepcopy(start_of(self.ctx)), self.ctx
        head = SharedHead(start.head.dims, len(ctx.classes), self.settings.width)
        head.take_scale(start.head)
        head.start_from(start.linear_classifiers)
        head.get_buffer("prior").copy_(prior_of(ctx))
        wiring = Wiring(start.wiring.modality_of, {}, start.wiring.features, [])
        return FusionNetwork([encoder for _, encoder in start.members], [], head, wiring)

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return what is trained, and note the steps of an epoch."""
        batches = shuffled_batches(rows, self.settings.batch_size, self.ctx.config.seed, 0)
        self.steps = math.ceil(len(batches) / self.settings.accumulate)
        return super().training_on(rows, held)

    def before_epoch(self, epoch: int) -> None:
        """Begin to count the epoch's steps."""
        self.epoch, self.step = epoch, 0

    @property
    def learner(self) -> str:
        """The modality whose turn it is."""
        names = list(self.ctx.modalities)
        return names[(self.epoch * self.steps + self.step) % len(names)]

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return what the network says of all that is there: one modality at a time needs no others to be dropped."""
        return self.network.fuse(z, batch.present)

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f_m, y) over the rows that have the modality whose turn it is."""
        return batch.loss(outputs.f_m[self.learner], batch.present[self.learner])

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return nothing: what each modality says alone is said by the shared classifier."""
        return outputs.f.new_zeros(())

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Add up the gradients, and what the classifier reads."""
        has = batch.present[self.learner]
        with torch.no_grad():
            read = self.shared_head.projected(outputs.z, batch.present)[self.learner]
        self.seen, self.rows = self.seen + read[has].sum(0), self.rows + float(has.sum())
        return super().gradients(batch, outputs, share)

    def before_step(self) -> Mapping[str, float]:
        """Keep the classifier from moving along what it has seen, and give the turn to the next modality."""
        if self.settings.projection == "rls" and self.rows:
            free = self.get_buffer("free")
            free.copy_(without(free, self.seen / self.rows, 0.1 ** (1 + self.step / self.steps)))
            weight = self.shared_head.shared.weight
            if weight.grad is not None:
                weight.grad = weight.grad @ free.T
        self.seen, self.rows, self.step = torch.zeros_like(self.seen), 0.0, self.step + 1
        return {}

    @property
    def shared_head(self) -> SharedHead:
        """The head."""
        assert isinstance(self.network.head, SharedHead)
        return self.network.head


def without(free: Tensor, mean: Tensor, alpha: float) -> Tensor:
    """Return R - k k^T / (alpha + r^T k), k = R r: a step of recursive least squares, [width, width]."""
    k = free @ mean
    return free - torch.outer(k, k) / (alpha + mean @ k)
