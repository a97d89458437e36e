"""The base of methods that watch rows which nothing is learnt from: a share of the training rows, whole groups.

Not even the classifiers that training starts from have seen them. The validation rows stay what chooses the epoch.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pydantic import Field

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.heads.folds import inner_split
from fusetune.networks import FusionNetwork, Outputs
from fusetune.strategies.batch import judging, plain_outputs
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, probed_network
from fusetune.strategies.trainer import Training


class WatchingSettings(EndToEndSettings):
    """The loop of joint training, and how much is watched."""

    share: float = Field(0.2, gt=0, lt=1, description="of the training rows: watched, and never learnt from")


class Watching(EndToEnd):
    """End-to-end training on most of the training rows."""

    Settings = WatchingSettings

    @classmethod
    def prepare(cls, ctx: Context, settings: Any) -> None:
        """Set rows aside, and solve the start without them."""
        _without_watched(ctx, settings.share)

    def start(self) -> FusionNetwork:
        """Return the probed network, solved without the rows that are watched."""
        (self.learnt, self.watched), network = _without_watched(self.ctx, self.settings.share)
        return copy.deepcopy(network)

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return what is trained, on those of the rows that are not watched."""
        return super().training_on(rows[~np.isin(rows, self.watched)], held)

    def said_of(self, rows: Rows) -> tuple[Rows, Outputs]:
        """Return what the network says of plain inputs of some rows, and these in the order in which it does."""
        size = max(32, self.settings.batch_size)
        with judging(self.network):
            parts = list(plain_outputs(self.ctx, self.network, list(self.ctx.modalities), rows, size))
        return np.concatenate([some for some, _ in parts]), Outputs.joined([outputs for _, outputs in parts])


def _without_watched(ctx: Context, share: float) -> tuple[tuple[Rows, Rows], FusionNetwork]:
    """Return the rows that are learnt from and those that are watched, and the start; asked for twice, made once."""

    def make() -> tuple[tuple[Rows, Rows], FusionNetwork]:
        learnt, watched = inner_split(ctx, ctx.split.rows("train"), share)
        return (learnt, watched), probed_network(ctx, learnt)

    return ctx.remember(("start without watched rows", repr(share)), make)
