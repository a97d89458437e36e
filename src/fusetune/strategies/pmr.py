"""PMR: the modality that lags behind is drawn to the prototypes of its classes (Fan et al. 2023, arXiv 2211.07089).

    c_(m,k) = mean of z_m over rows of class k,   c <- (1 - mu) c_new + mu c_old once per epoch
    sim_m = -|z_m - c_(m,k)| over the classes,  s_m = mean of softmax(sim_m)_y over a step's rows that have m
    rho_m = s_m / mean of the others' s
    L = CE(f, y) + alpha sum_m [rho_m < 1] CE(sim_m, y)

Of two modalities, that is the published rule. New means come from the first tenth of an epoch's batches, as in the
released code, by the encoders in eval mode on plain inputs. A class without a row there keeps its prototype, where the
released code gets NaN from then on; prototypes start as the means over all training rows. Means take the place of sums
in s_m, so that a modality does not lag because rows lack it. Who lags is decided for a whole optimiser step. The
paper's entropy regulariser of the leading modality is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.data.batch import shuffled_batches
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch, judging, plain_outputs
from fusetune.strategies.end_to_end import EndToEndSettings, add_gradient, flat_gradient
from fusetune.strategies.joint import Joint
from fusetune.strategies.modulated import true_class
from fusetune.strategies.unimodal import class_means, means_by_class

_SAMPLE = 0.1  # of an epoch's batches, for new prototypes


class PMRSettings(EndToEndSettings):
    """The loop of joint training, and how strongly prototypes draw."""

    alpha: float = Field(1.0, ge=0, description="weight of the lagging modality's prototypical cross-entropy")
    momentum: float = Field(0.2, ge=0, lt=1, description="share of the old prototype in the new one")


class PMR(Joint):
    """Joint training that pulls the lagging modality's features to prototypes."""

    name, title, paper = "pmr", "PMR", "Prototypical modal rebalance, arXiv 2211.07089"
    cost = (
        "one training of all encoders with one backward pass more per modality, and a tenth of the rows read "
        "once more per epoch"
    )
    Settings = PMRSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        for at, name in enumerate(ctx.modalities):
            self.register_buffer(f"prototypes_{at}", class_means(ctx, name))
        self.known = torch.zeros(2, len(ctx.modalities), device=ctx.runtime.device)
        self.pulls: dict[str, Tensor] = {}

    def prototypes(self, name: str) -> Tensor:
        """Return the prototypes of a modality, [classes, dim]."""
        return self.get_buffer(f"prototypes_{list(self.ctx.modalities).index(name)}")

    def before_epoch(self, epoch: int) -> None:
        """Move the prototypes to the means of the epoch's first batches."""
        ctx, names, size = self.ctx, list(self.ctx.modalities), self.settings.batch_size
        lengths = ctx.sources[names[0]].lengths if len(names) == 1 else None
        batches = shuffled_batches(ctx.split.rows("train"), size, ctx.config.seed, epoch, lengths)
        sample = np.concatenate(batches[: math.ceil(_SAMPLE * len(batches))])
        with judging(self.network):
            parts = list(plain_outputs(ctx, self.network, names, sample, max(32, size)))
        rows = np.concatenate([some for some, _ in parts])
        said = Outputs.joined([outputs for _, outputs in parts])
        for name, z in said.z.items():
            here, old = said.present[name], self.prototypes(name)
            # A class without a row here has its old prototype for a new one, so it keeps it.
            fresh = means_by_class(z[here], ctx.targets(rows)[here], old)
            old.lerp_(fresh, 1 - self.settings.momentum)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Keep every modality's pull to its prototypes apart, until a whole step says who lags."""
        for at, (name, encoder) in enumerate(self.network.members):
            has = batch.present[name]
            near = similarity(outputs.z[name], self.prototypes(name))
            with torch.no_grad():
                self.known[0, at] += (true_class(near, batch.target) * has).sum()
                self.known[1, at] += has.sum()
            pull = flat_gradient(batch.loss(near, has) * share, encoder)
            self.pulls[name] = self.pulls[name] + pull if name in self.pulls else pull
        return super().gradients(batch, outputs, share)

    def before_step(self) -> Mapping[str, float]:
        """Add the pull of the modalities that lag in the whole step."""
        behind = lagging(self.known[0] / self.known[1].clamp(min=1))
        self.known.zero_()
        for (name, encoder), late in zip(self.network.members, behind, strict=True):
            pull = self.pulls.pop(name)
            if late:
                add_gradient(encoder, self.settings.alpha * pull)
        return {}


def similarity(z: Tensor, prototypes: Tensor) -> Tensor:
    """Return -|z - c_k|, [rows, classes], with a gradient at distance zero as well."""
    return -((z[:, None] - prototypes[None]).square().sum(2) + 1e-12).sqrt()


def lagging(scores: Tensor) -> Tensor:
    """Return which modalities know less than the mean of the others, bool [modalities], from s_m, [modalities]."""
    others = (scores.sum() - scores) / max(len(scores) - 1, 1)
    return (scores < others) & (len(scores) > 1)
