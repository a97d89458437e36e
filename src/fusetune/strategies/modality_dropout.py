"""Modality dropout: every subset of the modalities is trained on, so that every one works (ModDrop, arXiv 1501.00102).

    d_m ~ Bernoulli(p) for each present modality of each row; if all were dropped, one that is drawn stays
    z'_m = e_m where m is absent or dropped, else z_m;  f = b + sum_m W_m z'_m + sum_m c_m [absent or dropped]
    L = CE(f, y)

e_m is zero, or learnt (`replacement`); it is part of the head, and acts at prediction as in training. c_m, one constant
per class, is what the linear head makes of the mask bits (`bits`). With both, e_m adds nothing that c_m could not say.
What is dropped is a function of (seed, epoch, view, row). `head.modality_dropout` is not read here but for the start.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fusetune.augment.random import Moment, uniform
from fusetune.heads.linear import LinearHead
from fusetune.heads.replacing import ReplacingHead
from fusetune.networks import FusionNetwork, Outputs
from fusetune.strategies.base import ANY_TARGET
from fusetune.strategies.batch import Batch, Present
from fusetune.strategies.end_to_end import EndToEndSettings, start_of
from fusetune.strategies.joint import Joint


class ModalityDropoutSettings(EndToEndSettings):
    """The loop of joint training, and what is taken away."""

    drop: float = Field(0.3, ge=0, lt=1, description="probability that a row's modality is dropped")
    replacement: Literal["learnt", "zero"] = Field("learnt", description="what stands in for features that are absent")
    bits: bool = Field(True, description="tell the head what is absent")


class ModalityDropout(Joint):
    """Joint training on random subsets of each row's modalities."""

    name, title, paper = "modality-dropout", "modality-dropout", "ModDrop, arXiv 1501.00102"
    targets = ANY_TARGET
    Settings = ModalityDropoutSettings

    def start(self) -> FusionNetwork:
        """Return the start of joint training, with a head that replaces what is absent."""
        return self.replacing(copy.deepcopy(start_of(self.ctx)))

    def replacing(self, network: FusionNetwork) -> FusionNetwork:
        """Give a network with a linear head one that replaces what is absent; changes it."""
        assert isinstance(network.head, LinearHead)
        network.head = ReplacingHead.of(network.head, self.settings.replacement == "learnt", self.settings.bits)
        return network

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return what the network makes of what is left."""
        return self.network.fuse(
            z, batch.left(self.ctx, lambda has, keys, moment: kept(has, keys, moment, self.settings.drop))
        )


def kept(present: Present, keys: Tensor, moment: Moment, drop: float) -> Present:
    """Return what is left of each row, bool [rows] by modality.

    Args:
        present: What is there, bool [rows] by modality.
        keys: Row keys, int64 [rows].
        moment: With the keys, decides what goes.
        drop: Probability that a modality goes.
    """
    has = np.stack(list(present.values()), 1)
    u = uniform(moment, keys, "dropped modalities", 2 * has.shape[1]).numpy()
    left = has & (u[:, : has.shape[1]] >= drop)
    none = np.flatnonzero(~left.any(1))
    favourite = np.where(has, u[:, has.shape[1] :], -1.0).argmax(1)[none]
    left[none, favourite] = has[none, favourite]
    return dict(zip(present, left.T, strict=True))
