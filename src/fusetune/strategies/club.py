"""CLUB: the fused and the unimodal losses weigh themselves, by bounded learnt numbers (CLIMATv2, arXiv 2210.13889).

    tasks t: all modalities together, and each alone;  l_t = 1 / (exp(v_t) + s),  s = 1
    tau_t = softmax(l)_t / max softmax(l)
    L = mean_t [tau_t CE(f_t, y) + (1 - tau_t) log C]
    at prediction  f_t <- tau_t f_t

A task that is hard is pulled to the loss of a uniform guess instead of being left out, so that its weight cannot be
driven to zero for free. v_t starts at 0, where all tau are 1. Of CLIMATv2 this is the loss alone: there tasks are years
to forecast, its diagnosis of today counts once more, and the descriptors of its two agents are drawn together; neither
has a counterpart here. The network of the best epoch gets the factors tau_t on its logits; epochs are compared without.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.heads.linear import LinearHead
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.multi_loss import MultiLoss


class CLUBSettings(EndToEndSettings):
    """The loop of joint training, and what bounds the weights."""

    bound: float = Field(1.0, gt=0, description="s: no l_t is more than 1 / s")
    temper: bool = Field(True, description="multiply logits by their weight at prediction, as published")


class CLUB(MultiLoss):
    """Multi-loss training with learnt, bounded weights."""

    name, title, paper = "club", "CLUB", "loss of CLIMATv2, arXiv 2210.13889"
    Settings = CLUBSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.hardness = nn.Parameter(torch.zeros(len(ctx.modalities) + 1, device=ctx.runtime.device))

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the mean of the tasks' losses; of a modality that no row of the batch has, it is zero."""
        tau = temperatures(self.hardness, self.settings.bound)
        losses = [batch.loss(outputs.f)]
        losses += [batch.loss(logits, batch.present[name]) for name, logits in outputs.f_m.items()]
        asked = torch.stack([batch.target.new_ones(()), *(batch.present[name].any() for name in outputs.f_m)])
        return (asked * (tau * torch.stack(losses) + (1 - tau) * math.log(self.network.classes))).mean()

    @torch.no_grad()
    def finish(self) -> None:
        """Multiply the logits of the network by their weights."""
        if not self.settings.temper:
            return
        fused, *alone = temperatures(self.hardness, self.settings.bound)
        assert isinstance(self.network.head, LinearHead)
        for layer, factor in zip([self.network.head.linear, *self.network.classifiers], [fused, *alone], strict=True):
            for p in layer.parameters():
                p.mul_(factor)


def temperatures(hardness: Tensor, bound: float = 1.0) -> Tensor:
    """Return tau_t, [tasks], of which the largest is 1, from v_t, [tasks]."""
    share = torch.softmax(1 / (hardness.exp() + bound), 0)
    return share / share.amax()
