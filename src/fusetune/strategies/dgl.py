"""DGL: encoders learn from unimodal losses only, the fusion only from their features as they are (arXiv 2507.10213).

    L = CE(f(sg[z]), y) + alpha sum_m CE(f_m, y)

The fused loss does not reach the encoders, and the unimodal losses do not reach the head: two-stage training whose
stages run side by side. f_m is a classifier W_m z_m + b_m of its own (`variant: paper`); in the released code it is the
head with all other modalities removed, and what its loss does to the head is thrown away (`variant: released`). There
gradients are clipped at 40 (`clip`). Under Adam, alpha changes nothing but where gradients are clipped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, alone_loss


class DGLSettings(EndToEndSettings):
    """The loop of joint training, and who speaks for a modality alone."""

    alpha: float = Field(1.0, ge=0, description="weight of the unimodal losses")
    variant: Literal["paper", "released"] = Field(
        "paper", description="a modality alone: its own classifier, or the head with all others removed"
    )


class DGL(EndToEnd):
    """Training whose encoders and head do not disturb each other."""

    name, title, paper = "dgl", "DGL", "Disentangled gradient learning, arXiv 2507.10213"
    Settings = DGLSettings

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return fused logits that reach the head only, and unimodal logits that do not reach it."""
        f = super().fused(batch, {name: own.detach() for name, own in z.items()}, present).f
        return replace(super().fused(batch, z, present), f=f, f_m=self.alone(z, present))

    def alone(self, z: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return f_m by modality, [rows, classes]; nothing of it learns in the head."""
        if self.settings.variant == "paper":
            return self.network.fuse(z, present).f_m
        head = self.network.head
        fixed = {name: p.detach() for name, p in head.named_parameters()}
        masks = {name: {other: bits & (other == name) for other, bits in present.items()} for name in z}
        return {name: functional_call(head, fixed, (z, mask)) for name, mask in masks.items()}

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) + alpha sum_m CE(f_m, y)."""
        return batch.loss(outputs.f) + alone_loss(batch, outputs.f_m) * float(self.settings.alpha)

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return nothing where the classifiers learn by the loss itself."""
        if self.settings.variant == "paper":
            return torch.zeros_like(outputs.f.sum())
        return super().listening(batch, outputs)
