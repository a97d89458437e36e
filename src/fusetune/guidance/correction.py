"""Small networks that correct given logits (or numbers), many at once, each without its own part of the rows.

A network starts as no correction, and is kept at the step that is best on rows it does not learn from, the start
included: where there is nothing to find, it corrects nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.process import Draws
from fusetune.targets import Classification, Target

Kind = Literal["additive", "bilinear", "mlp"]

_HIDDEN = 32  # units of a network with one hidden layer
_RANK = 8  # products of each pair of modalities
_STEPS, _PATIENCE = 300, 25
_RATE, _DECAY = 0.03, 1e-3
_WORTH = 1e-4  # nats: less is no reason to keep a later step


@dataclass(frozen=True)
class Corrected:
    """What the networks say.

    Attributes:
        logits: What is said of every row at the step that was kept, float32 [networks, rows, width].
        nll: Of the rows that each was stopped by, [networks].
    """

    logits: Tensor
    nll: Tensor


def correct(
    x: Mapping[str, Tensor],
    base: Tensor,
    labels: Tensor,
    learns: npt.NDArray[np.bool_],
    stops: npt.NDArray[np.bool_],
    kind: Kind,
    seed: int,
    target: type[Target] = Classification,
    noise: Sequence[float] = (1.0,),
) -> Corrected:
    """Train one network per line of `learns`, each on all its rows at once.

    Args:
        x: Features by modality, of about unit variance, zero where absent, float32 [rows, dim].
        base: What is to be corrected, float32 [networks, rows, width].
        labels: As the target's losses take them, [rows].
        learns: Which rows each learns from, bool [networks, rows].
        stops: Which rows say how long, bool [networks, rows].
        kind: additive: a sum of networks with one hidden layer, each of one modality; mlp: one hidden layer on all;
            bilinear: low-rank products of every pair of modalities.
        seed: Of the weights at the start.
        target: What is predicted; its losses are what is lowered.
        noise: What each network's losses are divided by, so that they are in nats.
    """
    count, rows, classes = base.shape
    with Draws(seed, "correction", kind):
        module = _Products(x, count, classes) if kind == "bilinear" else _Layer(x, count, classes, kind == "additive")
    learning, stopping = (
        torch.from_numpy(mask / np.maximum(mask.sum(1, keepdims=True), 1)) for mask in (learns, stops)
    )
    truth, logits = labels.repeat(count, *[1] * (labels.ndim - 1)), base.clone()
    unit = torch.tensor(noise)[:, None]
    best, since = torch.full((count,), torch.inf, dtype=torch.float64), torch.zeros(count)
    optimiser = torch.optim.Adam(module.parameters(), lr=_RATE)
    for _ in range(_STEPS + 1):
        said = base + module()
        losses = target.losses(said.view(-1, classes), truth).view(count, rows) / unit
        with torch.no_grad():
            reached = (losses * stopping).sum(1)
            better = reached < best - _WORTH
            logits[better], best = said[better], torch.where(better, reached, best)
            since = torch.where(better, 0, since + 1)
        if bool((since > _PATIENCE).all()):
            break
        # Networks share no weights: the gradient of the sum trains each as if it were alone.
        weights = sum(weight.square().sum() for weight in module.parameters())
        optimiser.zero_grad()
        torch.autograd.backward([(losses * learning).sum() + _DECAY / 2 * weights])
        optimiser.step()
    return Corrected(logits.detach(), best)


class _Correction(nn.Module):
    """As many networks as are asked for, side by side, on features that all of them read."""

    @abstractmethod
    def forward(self) -> Tensor:
        """Return what is added to the logits, [networks, rows, classes]."""


class _Layer(_Correction):
    """One hidden layer, whose units each read one modality, or all."""

    def __init__(self, x: Mapping[str, Tensor], count: int, classes: int, apart: bool) -> None:
        super().__init__()
        self.x = torch.cat(list(x.values()), 1)
        owner = torch.repeat_interleave(torch.arange(len(x)), torch.tensor([block.shape[1] for block in x.values()]))
        self.read = (owner[:, None] == torch.arange(_HIDDEN) % len(x)).float() if apart else torch.ones(len(owner), 1)
        start = torch.randn(count, len(owner), _HIDDEN) * self.read.sum(0).clamp(min=1) ** -0.5
        self.inner, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(count, 1, _HIDDEN))
        self.outer = nn.Parameter(torch.zeros(count, _HIDDEN, classes))

    def forward(self) -> Tensor:
        return F.gelu(self.x @ (self.inner * self.read) + self.bias) @ self.outer


class _Products(_Correction):
    """The products of every pair of modalities, each projected to a few numbers."""

    def __init__(self, x: Mapping[str, Tensor], count: int, classes: int) -> None:
        super().__init__()
        self.x = list(x.values())
        start = [torch.randn(count, block.shape[1], _RANK) * block.shape[1] ** -0.5 for block in self.x]
        self.factors = nn.ParameterList(map(nn.Parameter, start))
        self.outer = nn.Parameter(torch.zeros(count, len(x) * (len(x) - 1) // 2 * _RANK, classes))

    def forward(self) -> Tensor:
        parts = [block @ factor for block, factor in zip(self.x, self.factors, strict=True)]
        return torch.cat([a * b for i, a in enumerate(parts) for b in parts[i + 1 :]], 2) @ self.outer
