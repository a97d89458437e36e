"""STRUCTURE: frozen features are brought into one space without losing who was near whom in each ("With Limited Data
for Multimodal Alignment, Let the STRUCTURE Guide You", 2025, arXiv 2506.16895).

    L = sum over m < n of 1/2 two-way(s_mn e_m e_n^T, I) + w sum_m R(X_m, Z_m)                       (`contrast`)

X are the features of the encoder as it is, Z = P X + q, and e = Z / |Z|. With rows at length 1, minus their mean over
the batch, S_X = softmax(X X^T / tau), and S_Z alike:

    R = (1/L) sum_{l <= L} (1/l) D(S_X^l, S_Z^l)                              l-th power: who is near in l steps

D is the Jensen-Shannon divergence, 1/2 KL(S_X || M) + 1/2 KL(S_Z || M) with M their mean, averaged over rows; with
`variant: released` its arguments are exchanged, 1/2 KL(M || S_Z) + 1/2 KL(M || S_X), as in the released code. w grows
from zero during the first epochs. Vectors and columns are features themselves here: they need no encoder, which, not
trained, would keep little of them. Then a linear head on the mean of the e_m, solved; what `epochs` says is how long
it alone is trained further on augmented views. The published choice among an encoder's layers, by the overlap of
neighbours (`mutual_neighbours`), is not made: encoders give one layer.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.encoders import CellIdentity, Encoder, Identity
from fusetune.strategies.contrast import Sharpness, cosines, pairs_of
from fusetune.strategies.embedding import Embedded, EmbeddedSettings
from fusetune.strategies.tri_modal import pairwise


class StructureSettings(EmbeddedSettings):
    """The loop, the space, and what is kept of each modality's own."""

    weight: float = Field(10.0, ge=0, description="w, of the sum of the regularisers")
    rise: float = Field(
        0.2, ge=0, le=1, description="share of the epochs of pre-training in which w grows to its value"
    )
    heat: float = Field(0.05, gt=0, description="tau, temperature of nearness")
    levels: int = Field(1, ge=1, le=8, description="L, steps in which rows are still near")
    variant: Literal["paper", "released"] = Field(
        "paper", description="paper: Jensen-Shannon divergence; released: with its arguments exchanged"
    )


class Structure(Embedded):
    """Projections of frozen features, aligned with each other and true to where they come from."""

    name, title, paper = "structure", "STRUCTURE", "Structure-preserving alignment, arXiv 2506.16895"
    together = "one head on projections of all frozen encoders"
    cost = "no training of any encoder: passes of all, frozen, to learn projections, then a head"
    Settings = StructureSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.still = frozenset(ctx.modalities)
        self.sharpness = Sharpness(len(pairs_of(list(ctx.modalities))), 1 / 0.07)

    def replaced(self) -> dict[str, Encoder]:
        """Return encoders that hand on what they are given, of vectors and columns."""
        return {
            name: found.to(self.ctx.runtime.device)
            for name in self.ctx.modalities
            if (found := _itself(self.ctx.pristine[name])) is not None
        }

    def begin(self) -> None:
        """Learn the projections, and solve the classifiers on them; the projections stay as they are from then on."""
        super().begin()
        self.embedding_head.project.requires_grad_(False)

    def contrast(self, z: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Return the losses of all pairs and w times the regularisers of all modalities."""
        embeddings, how = self.embedding_head.embed(z, present), self.settings
        loss = pairwise(embeddings, present, self.sharpness) / 2
        w = how.weight * min(1.0, (self.epoch + 1) / max(how.rise * self.pretrain_epochs, 1.0))
        for name, own in embeddings.items():
            has = present[name]
            if int(has.sum()) > 1:
                released = how.variant == "released"
                loss = loss + w * lost_structure(z[name][has], own[has], how.heat, how.levels, released=released)
        return loss


def _itself(encoder: Encoder) -> Encoder | None:
    """Return the encoder that hands on the vectors or cells that this one reads; None: it reads something else."""
    given = encoder.arguments
    match encoder.describe()["encoder"]:
        case "VectorMLP" | "Identity":
            return Identity(given["inputs"])
        case "ColumnsMLP" | "FTTransformer" | "CellIdentity":
            return CellIdentity(given["numbers"], given["categories"])
    return None


def lost_structure(x: Tensor, z: Tensor, heat: float, levels: int, *, released: bool = False) -> Tensor:
    """Return R, how far apart the nearness of rows is before and after a projection.

    Args:
        x: Features before, [rows, dim].
        z: Features after, [rows, width].
        heat: tau.
        levels: L.
        released: Exchange the arguments of the divergence.
    """
    before, after = nearness(x, heat), nearness(z, heat)
    total, near, nearer = x.new_zeros(()), before, after
    for level in range(1, levels + 1):
        total = total + divergence(near, nearer, released=released) / level
        near, nearer = near @ before, nearer @ after
    return total / levels


def nearness(x: Tensor, heat: float) -> Tensor:
    """Return softmax(X X^T / tau) of rows at length 1 minus their mean, [rows, rows]."""
    unit = F.normalize(x, dim=1)
    centred = unit - unit.mean(0)
    return torch.softmax(centred @ centred.T / heat, 1)


def divergence(p: Tensor, q: Tensor, *, released: bool = False) -> Tensor:
    """Return the Jensen-Shannon divergence of distributions [rows, columns], the mean over the rows, in nats."""
    mean, least = (p + q) / 2, torch.finfo(p.dtype).tiny
    log_p, log_q, log_mean = (one.clamp(min=least).log() for one in (p, q, mean))
    if released:
        return (mean * (log_mean - (log_p + log_q) / 2)).sum(1).mean()
    return (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(1).mean() / 2


@torch.no_grad()
def mutual_neighbours(x: Tensor, z: Tensor, k: int) -> float:
    """Return how many of a row's k nearest rows are the same in two spaces: mean |kNN_X(i) and kNN_Z(i)| / k.

    Args:
        x: Features in one space, [rows, dim].
        z: Features of the same rows in another, [rows, width].
        k: Number of neighbours, by cosine; a row is none of its own.

    Raises:
        ValueError: If there are not so many other rows.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"{len(x)} rows have no {k} neighbours each")
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    near = [cosines(own, own).masked_fill(itself, -2.0).topk(k, 1).indices for own in (x, z)]
    marked = [torch.zeros_like(itself).scatter(1, indices, True) for indices in near]
    return float((marked[0] & marked[1]).sum(1).double().mean() / k)
