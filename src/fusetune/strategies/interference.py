"""Consistency under interference: what an irrelevant modality says must not matter (arXiv 2505.19616).

    x'_m: modality m says something else;  f' = f with it
    L = CE(f, y) + mean_m [CE(f', y) + lambda D(p(f), p(f'))],  D = JS, or KL(p(f) | p(f')); lambda = .01

It happens to features, after the encoder: all zero (blank), those of a row of another class in the batch (shuffled), or
their own with what raises the loss most within a small box (pgd): from a uniform start in [-eps, eps],
delta <- clamp(delta + alpha * gradient, -eps, eps), by the raw gradient, as released, of each row's own loss. eps and
alpha are in deviations of the features. The released code perturbs words, pictures and embeddings of language models.

With `modality`, it is one that is known to be irrelevant; otherwise all are perturbed in turn, and the mean over them
is general robustness. Only rows that have another modality, too, are perturbed: without one, nothing could be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.divergence import kullback_leibler, shannon
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint


class InterferenceSettings(EndToEndSettings):
    """The loop of joint training, what is perturbed, and how much agreement counts."""

    modality: str | None = Field(None, description="the irrelevant input; default: all in turn")
    kind: Literal["blank", "shuffled", "pgd"] = Field("shuffled", description="what its features are replaced by")
    weight: float = Field(0.01, ge=0, description="lambda, of the divergence")
    divergence: Literal["js", "kl"] = Field("js", description="of what is said with and without the perturbation")
    radius: float = Field(0.05, gt=0, description="eps of pgd, in deviations of the features")
    rate: float = Field(0.1, gt=0, description="alpha of pgd, in deviations of the features")
    steps: int = Field(4, ge=1, le=100, description="steps of pgd")


class Interference(Joint):
    """Joint training that must not be misled by an irrelevant modality."""

    name, title, paper = "interference", "interference", "Modality interference, arXiv 2505.19616"
    cost = "one training of all encoders, and the head asked once more per modality, or once per step of an attack"
    Settings = InterferenceSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        names, chosen = list(ctx.modalities), settings.modality
        if chosen is not None and chosen not in names:
            raise ConfigError(
                f"strategy.modality: there is no input '{chosen}'{did_you_mean(chosen, names)}; "
                f"the inputs are {listed(names)}"
            )
        if len(names) < 2:
            raise ConfigError(
                f"strategy 'interference' teaches not to be misled by one input among several, but '{names[0]}' is the "
                "only one; name more inputs, or take another strategy"
            )
        self.irrelevant = names if chosen is None else [chosen]

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the cross-entropy, and those of the perturbed versions with their divergences."""
        terms = [self.misled(batch, outputs, name) for name in self.irrelevant]
        return batch.loss(outputs.f) + torch.stack(terms).mean()

    def misled(self, batch: Batch, outputs: Outputs, name: str) -> Tensor:
        """Return CE(f', y) + lambda D with one modality perturbed, over the rows that have it and another."""
        has = outputs.present[name]
        has = has & (torch.stack(list(outputs.present.values())).sum(0) > 1)
        f = self._fused(outputs, name, self.perturbed(batch, outputs, name))
        apart = shannon(outputs.f, f) if self.settings.divergence == "js" else kullback_leibler(outputs.f, f)
        agreement = (apart * has).sum() / has.sum().clamp(min=1)
        total: Tensor = batch.loss(f, has) + self.settings.weight * agreement
        return total

    def perturbed(self, batch: Batch, outputs: Outputs, name: str) -> Tensor:
        """Return the features of a modality that says something else, [rows, dim]."""
        z = outputs.z[name]
        match self.settings.kind:
            case "blank":
                return torch.zeros_like(z)
            case "shuffled":
                return z[donors(batch.target, outputs.present[name])]
            case _:
                return z + self.attack(batch, outputs, name)

    def attack(self, batch: Batch, outputs: Outputs, name: str) -> Tensor:
        """Return what is added to the features of a modality to raise each row's loss, [rows, dim]."""
        settings, z = self.settings, outputs.z[name].detach()
        others = {other: own.detach() for other, own in outputs.z.items()}
        deviation = self.network.head.statistics(name)[1]
        delta = (2 * torch.rand_like(z) - 1) * settings.radius
        for _ in range(settings.steps):
            delta.requires_grad_(True)
            f = self.network.fuse({**others, name: z + delta * deviation}, outputs.present).f
            # The sum, not the mean: a row's step does not depend on how many others are in its batch.
            (slope,) = torch.autograd.grad(batch.losses(f).sum(), delta)
            delta = (delta.detach() + settings.rate * slope).clamp(-settings.radius, settings.radius)
        added: Tensor = delta * deviation
        return added

    def _fused(self, outputs: Outputs, name: str, z: Tensor) -> Tensor:
        features: Mapping[str, Tensor] = {**outputs.z, name: z}
        return self.network.fuse(features, outputs.present).f


def donors(target: Tensor, has: Tensor) -> Tensor:
    """Return for each row a random one of another class where `has`, int64 [rows]; itself where there is none."""
    scores = torch.rand(len(target), len(target), device=target.device)
    allowed = (target[:, None] != target[None]) & has[None]
    best = scores.masked_fill(~allowed, -1.0).argmax(1)
    return torch.where(allowed.any(1), best, torch.arange(len(target), device=target.device))
