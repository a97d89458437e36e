"""D&R, diagnosing and re-learning: encoders that overfit go part of the way back (Wei et al. 2024, arXiv 2407.09705).

    P_m = purity of k-means with C clusters on z_m, of rows that are learnt from and of rows that are watched
    g_m = |P_m,learnt - P_m,watched|,  w_m = tanh(lambda g_m)
    every few epochs, a few times:  theta_m <- w_m theta_m at the start + (1 - w_m) theta_m

Watched rows are a share of the training rows, whole groups, that nothing is learnt from; the validation rows only
choose the epoch. Features are those of plain inputs in eval mode. The start is the encoder before any training, so a
pretrained encoder goes back to its pretrained weights. The published schedule is every 15 epochs, at most twice; by
default these two are spread over the epochs that there are. The head stays as it is, and so does what the optimiser
remembers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from sklearn.cluster import KMeans

from fusetune.context import Context
from fusetune.strategies.end_to_end import refuse_adapters
from fusetune.strategies.joint import Joint
from fusetune.strategies.watching import Watching, WatchingSettings

_STARTS = 10  # of k-means


class DiagnoseRelearnSettings(WatchingSettings):
    """The loop of joint training, and when and how far encoders go back."""

    every: int | None = Field(None, ge=1, description="epochs between diagnoses; default: all are spread over the run")
    times: int = Field(2, ge=1, description="how often encoders are diagnosed, at most")
    strength: float = Field(3.0, ge=0, description="lambda: how far an encoder goes back for its gap in purity")


class DiagnoseRelearn(Watching, Joint):
    """Joint training whose encoders are pulled back to their start where they overfit."""

    name, title, paper = "diagnose-relearn", "D&R", "Diagnosing and re-learning, arXiv 2407.09705"
    cost = "one training of all encoders on most of the training rows"
    Settings = DiagnoseRelearnSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        refuse_adapters(ctx, "pulls weights back to where they started")
        self.every = settings.every or max(1, settings.epochs // (settings.times + 1))

    def before_epoch(self, epoch: int) -> None:
        """Diagnose the encoders where it is time, and pull each back as far as it overfits."""
        if not epoch or epoch % self.every or epoch // self.every > self.settings.times:
            return
        gaps = self.gaps()
        back = {name: math.tanh(self.settings.strength * gap) for name, gap in gaps.items()}
        for name, encoder in self.network.members:
            pull_back(encoder, self.ctx.frozen_encoder(name), back[name])
        self.ctx.log.record("relearning", epoch=epoch, gaps=gaps, back=back)

    def gaps(self) -> dict[str, float]:
        """Return by how much the features of learnt and of watched rows differ in purity, by modality."""
        ctx = self.ctx
        purities: dict[str, list[float]] = {name: [] for name in ctx.modalities}
        for some in (self.learnt, self.watched):
            rows, said = self.said_of(some)
            for name, z in said.to_cpu().z.items():
                has = said.present[name].cpu().numpy()
                labels = ctx.labels[rows][has]
                purities[name].append(purity(z.numpy()[has], labels, len(ctx.classes), ctx.config.seed))
        return {name: abs(learnt - watched) for name, (learnt, watched) in purities.items()}


def purity(z: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int, seed: int) -> float:
    """Return the share of rows that are of the commonest class of their cluster; 0 of no rows.

    Args:
        z: Features, [rows, dim].
        labels: Class index, int64 [rows].
        classes: Number of clusters, or fewer where there are fewer different rows.
        seed: Of k-means.
    """
    clusters = min(classes, len(np.unique(z, axis=0)))
    if not clusters:
        return 0.0
    found = KMeans(clusters, n_init=_STARTS, random_state=seed).fit_predict(z.astype(np.float64))
    return sum(int(np.bincount(labels[found == cluster]).max()) for cluster in np.unique(found)) / len(labels)


@torch.no_grad()
def pull_back(encoder: torch.nn.Module, start: torch.nn.Module, share: float) -> None:
    """Replace every weight by `share` of the one that it started from and the rest of its own."""
    for p, first in zip(encoder.parameters(), start.parameters(), strict=True):
        p.copy_(share * first + (1 - share) * p)
