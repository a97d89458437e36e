"""Contrastive pre-training over all pairs of modalities, then a classifier on the mean embedding.

AstroM3 (arXiv 2411.08842) compares every pair, with a learnt factor s on the cosines of each:

    e_m = (P_m z_m + q_m) / |P_m z_m + q_m|,  L = sum over m < n of two-way(s_mn e_m e_n^T, I)       (`contrast`)

that is, rows and columns, not halved; s begins at 100 and stays within [1, 100]. On a table of a hundred rows that was
too sharp for projections from nothing, whose embeddings first became all alike: with a smaller `sharpness`, rows were
told apart sooner. CentroBind (arXiv 2410.02086; `anchor: centroid`) compares every modality with the mean of all that
the row has:

    a_i = mean over the present m of e_m,i;  L = sum_m rows(s_m cos(a, e_m), I)

over rows with two modalities or more, since one is its own mean. Of its publication only the abstract was read: that
the gradient flows through the mean, and that s is learnt, are choices made here. e_m is itself a part of a, so that a
large s solves this without any alignment; `anchor: others` leaves it out of its own mean. Afterwards f is linear in the
mean of the e_m (`fusion: concat`: in all side by side), begins at its solution and is trained with the encoders.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.heads.embedding import mean_embedding
from fusetune.strategies.contrast import Sharpness, cosines, pairs_of, row_loss, shared_rows, two_way
from fusetune.strategies.embedding import Embedded, EmbeddedSettings


class TriModalSettings(EmbeddedSettings):
    """The loop, the space, and what is compared with what."""

    anchor: Literal["pairs", "centroid", "others"] = Field(
        "pairs",
        description="what each modality is compared with: every other, the mean of all, or the mean of all others",
    )
    sharpness: float = Field(100.0, ge=1, le=100, description="where the factors on cosines begin")


class TriModal(Embedded):
    """CLIP between all modalities, then one classifier."""

    name, title, paper = "tri-modal", "tri-modal", "AstroM3, arXiv 2411.08842, and CentroBind, 2410.02086"
    cost = "a training of all encoders without labels, then one with them"
    Settings = TriModalSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        names = list(ctx.modalities)
        count = len(pairs_of(names)) if settings.anchor == "pairs" else len(names)
        self.sharpness = Sharpness(count, settings.sharpness)

    def contrast(self, z: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Return the sum over pairs, or over modalities and their mean."""
        embeddings = self.embedding_head.embed(z, present)
        if self.settings.anchor == "pairs":
            return pairwise(embeddings, present, self.sharpness)
        return to_centroid(embeddings, present, self.sharpness, own=self.settings.anchor == "centroid")


def pairwise(embeddings: dict[str, Tensor], present: dict[str, Tensor], sharpness: Sharpness) -> Tensor:
    """Return the sum over all pairs of modalities of both cross-entropies, embeddings [rows, width]."""
    total = nothing(embeddings)
    for at, (one, other) in enumerate(pairs_of(list(embeddings))):
        rows = shared_rows(present, one, other)
        if len(rows) > 1:
            total = total + two_way(sharpness(at) * cosines(embeddings[one][rows], embeddings[other][rows]))
    return total


def to_centroid(
    embeddings: dict[str, Tensor], present: dict[str, Tensor], sharpness: Sharpness, *, own: bool = True
) -> Tensor:
    """Return the sum over all modalities of the cross-entropy of the mean against them.

    Args:
        embeddings: By modality, [rows, width].
        present: bool [rows] by modality.
        sharpness: Factors on the cosines, one per modality.
        own: Is a modality a part of the mean that it is compared with?
    """
    total, several = nothing(embeddings), torch.stack(list(present.values())).sum(0) > 1
    for at, (name, one) in enumerate(embeddings.items()):
        rows = (present[name] & several).nonzero()[:, 0]
        if len(rows) > 1:
            among = embeddings if own else {other: e for other, e in embeddings.items() if other != name}
            mean = mean_embedding(among, present)[0]
            total = total + row_loss(sharpness(at) * cosines(mean[rows], one[rows]))
    return total


def nothing(embeddings: dict[str, Tensor]) -> Tensor:
    """Return zero, with a gradient of zero: a batch in which nothing can be compared is a step all the same."""
    return torch.stack([own.sum() for own in embeddings.values()]).sum() * 0
