"""The base of methods that make some encoders learn faster than others, by one factor per modality and step.

Under SGD a factor on an encoder's gradient is one on its step. Adam divides every gradient by its own running size, so
that a constant factor changes nothing: there the step itself is scaled, by the learning rate of that encoder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint


class ModulatedSettings(EndToEndSettings):
    """The loop of joint training, and what is scaled."""

    scale: Literal["auto", "gradient", "update"] = Field(
        "auto", description="what the factors scale: gradients, steps, or (auto) gradients under SGD and steps else"
    )


class Modulated(Joint):
    """Joint training whose encoders take longer or shorter steps; those of the head stay as they are."""

    Settings = ModulatedSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.scores, self.epoch = torch.zeros(len(ctx.modalities), device=ctx.runtime.device), 0

    @abstractmethod
    def factors(self, scores: Tensor) -> Tensor:
        """Return k_m, [modalities], from what was added up over the step's rows, [modalities]."""

    def before_epoch(self, epoch: int) -> None:
        """Note the epoch."""
        self.epoch = epoch

    @torch.no_grad()
    def watch(self, batch: Batch, outputs: Outputs) -> None:
        """Add up what each modality knows of the step's rows: s_m = sum_i softmax(f_m(x_i))_{y_i}."""
        right = true_class(self.network.head.shares(outputs.z, batch.present), batch.target)  # type: ignore[operator]
        self.scores += (right * torch.stack([batch.present[name] for name in outputs.z])).sum(1)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Return the loss, as joint training does."""
        self.watch(batch, outputs)
        return super().gradients(batch, outputs, share)

    def before_step(self) -> Mapping[str, float]:
        """Scale the gradients of a whole step, or say by how much the step itself is to be scaled."""
        k = self.factors(self.scores)
        self.scores.zero_()
        how = self.settings.scale
        if how == "update" or (how == "auto" and self.settings.optimiser != "sgd"):
            return {name: float(one) for one, name in zip(k, self.network.owners, strict=True)}
        for one, (_, encoder) in zip(k, self.network.members, strict=True):
            for p in encoder.parameters():
                if p.grad is not None:
                    p.grad.mul_(one)
        return {}


def true_class(logits: Tensor, target: Tensor) -> Tensor:
    """Return softmax(logits)_y of logits [..., rows, classes], [..., rows]."""
    return torch.softmax(logits, -1)[..., torch.arange(len(target), device=target.device), target]
