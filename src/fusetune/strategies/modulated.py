"""The bases of methods that watch what each modality knows, and make some parts learn faster than others by factors.

Under SGD a factor on an encoder's gradient is one on its step. Adam divides every gradient by its own running size, so
that a constant factor changes nothing: there the step itself is scaled, by the learning rate of that encoder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.heads.linear import LinearHead
from fusetune.networks import FusionNetwork, Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint


class Watched(Joint):
    """Joint training that adds up, over the rows of a whole step, a score of each modality.

    Attributes:
        scores: Sums over the step's rows that have the modality, [modalities].
        seen: How many rows these are, [modalities].
        epoch: The epoch's number.
    """

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.scores, self.seen = torch.zeros(2, len(ctx.modalities), device=ctx.runtime.device)
        self.epoch = 0

    def before_epoch(self, epoch: int) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def score(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return what each modality knows of each row, [modalities, rows]: softmax(f_m(x_i))_{y_i}, f_m its share."""
        return true_class(shares_of(self.network, outputs.z, batch.present), batch.target)

    @torch.no_grad()
    def watch(self, batch: Batch, outputs: Outputs) -> None:
        """Add up the scores of the step's rows."""
        has = present_in(batch, outputs)
        self.scores += (self.score(batch, outputs) * has).sum(1)
        self.seen += has.sum(1)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Return the loss, as joint training does."""
        self.watch(batch, outputs)
        return super().gradients(batch, outputs, share)

    @property
    def means(self) -> Tensor:
        """The mean score of each modality over the step's rows that have it, [modalities]."""
        return means_of(self.scores, self.seen)

    def forget(self) -> None:
        """Begin a new step."""
        self.scores.zero_()
        self.seen.zero_()


class ModulatedSettings(EndToEndSettings):
    """The loop of joint training, and what is scaled."""

    scale: Literal["auto", "gradient", "update"] = Field(
        "auto", description="what the factors scale: gradients, steps, or (auto) gradients under SGD and steps else"
    )


class Modulated(Watched):
    """Joint training some of whose parts take longer or shorter steps: the encoders, where nothing else is said."""

    Settings = ModulatedSettings

    @abstractmethod
    def factors(self, scores: Tensor) -> Tensor:
        """Return the factor of each of `parts`, [parts], from what was added up over the step's rows, [modalities]."""

    @property
    def parts(self) -> Sequence[tuple[str, nn.Module]]:
        """What the factors are for, each under the name that its steps are scaled by."""
        return self.network.members

    def before_step(self) -> Mapping[str, float]:
        """Scale the gradients of a whole step, or say by how much the step itself is to be scaled."""
        k = self.factors(self.scores)
        self.forget()
        return self.scaled(k)

    @property
    def scales_steps(self) -> bool:
        """Are steps scaled, and not gradients?"""
        how = self.settings.scale
        return bool(how == "update" or (how == "auto" and self.settings.optimiser != "sgd"))

    def scaled(self, k: Tensor) -> Mapping[str, float]:
        """Scale the gradients of the parts by k, [parts], or return by how much their steps are to be scaled."""
        if self.scales_steps:
            return {name: float(one) for one, (name, _) in zip(k, self.parts, strict=True)}
        for one, (_, part) in zip(k, self.parts, strict=True):
            for p in part.parameters():
                if p.grad is not None:
                    p.grad.mul_(one)
        return {}


def true_class(logits: Tensor, target: Tensor) -> Tensor:
    """Return softmax(logits)_y of logits [..., rows, classes], [..., rows]."""
    return torch.softmax(logits, -1)[..., torch.arange(len(target), device=target.device), target]


def shares_of(network: FusionNetwork, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Return what each modality adds to the fused logits, A_m z_m + b / M, [modalities, rows, classes]."""
    return linear_head(network).shares(z, present)


def linear_head(network: FusionNetwork) -> LinearHead:
    """Return the head, whose contributions add up."""
    assert isinstance(network.head, LinearHead)
    return network.head


def stacked(outputs: Outputs) -> Tensor:
    """Return the logits of each modality alone, [modalities, rows, classes]."""
    return torch.stack([outputs.f_m[name] for name in outputs.z])


def present_in(batch: Batch, outputs: Outputs) -> Tensor:
    """Return which rows have each modality, in the order of the features, bool [modalities, rows]."""
    return torch.stack([batch.present[name] for name in outputs.z])


def means_of(scores: Tensor, seen: Tensor) -> Tensor:
    """Return the mean score of each modality, [modalities], from sums over so many rows.

    A modality that no row has is given the mean of the others, so that it is neither ahead nor behind.
    """
    has, means = seen > 0, scores / seen.clamp(min=1)
    return torch.where(has, means, (means * has).sum() / has.sum().clamp(min=1))


def others_of(scores: Tensor) -> Tensor:
    """Return the mean of the other modalities' scores, [modalities]; zero where there is no other."""
    return (scores.sum() - scores) / max(len(scores) - 1, 1)
