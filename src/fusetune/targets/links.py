"""What Newton's method needs to know of a target: losses, errors, curvature of linear predictors (GLM, canonical link).

    loss_i(z), error = d loss / d z, and the product of d^2 loss / d z^2 with a direction

for z = x_i W + b of several problems at once, [rows, problems, outputs]. Multinomial (softmax), Bernoulli for every
output (sigmoid) and normal (identity) are generalised linear models with their canonical links (McCullagh and Nelder
1989); Huber's loss (1964) bends the normal one straight where a row is far off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e30  # logit of a class that a problem does not have; finite, since rows of no weight may be of it
_ABSENT = 30.0  # size of the bias of an output that is always the same


class Link(ABC):
    """One way from linear predictors to losses."""

    @abstractmethod
    def known(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return which outputs of each problem can be learnt, bool [problems, outputs].

        Args:
            truth: Labels of all rows.
            weights: Of each row in each problem, [rows, problems].
            outputs: How many there are.
        """

    @abstractmethod
    def constant(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return the bias of outputs that are not known, [problems, outputs]; arguments as for `known`."""

    @abstractmethod
    def judge(self, z: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses [rows, problems], and errors and curvatures [rows, problems, outputs]; z is used up.

        Args:
            z: [rows, problems, outputs].
            truth: Labels of the rows.
            known: bool [problems, outputs]; others take no part.
        """

    @abstractmethod
    def bend(self, z: Tensor, truth: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the Hessian at z as a function of a direction in place, both [rows, problems, outputs]."""


class Multinomial(Link):
    """Cross-entropy of one class of several."""

    def known(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return which classes have rows of any weight."""
        there = torch.zeros(outputs, weights.shape[1], dtype=weights.dtype, device=weights.device)
        return there.index_add(0, truth, (weights > 0).to(weights.dtype)).T > 0

    def constant(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return a bias under which a class that no row has is never said."""
        return weights.new_full((weights.shape[1], outputs), -_ABSENT)

    def judge(self, z: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -log p_y, p - [y] and p (1 - p)."""
        z.masked_fill_(~known, _NEVER)
        own = truth[:, None, None].expand(-1, len(known), 1)
        total = z.logsumexp(2)
        losses = total - z.gather(2, own)[..., 0]
        p = z.sub_(total[..., None]).exp_()
        curvature = p - p.square()
        return losses, p.scatter_add_(2, own, -torch.ones_like(p[..., :1])), curvature

    def bend(self, z: Tensor, truth: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> p (v - sum p v)."""
        p = z.masked_fill_(~known, _NEVER).softmax(2)

        def product(way: Tensor) -> Tensor:
            way -= (p * way).sum(2, keepdim=True)
            return way.mul_(p)

        return product


class Bernoulli(Link):
    """Binary cross-entropy of every output by itself, summed."""

    def known(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return which labels some rows have and some have not."""
        has, counts = truth.to(weights), (weights > 0).to(weights)
        there = counts.T @ has
        return (there > 0) & (there < counts.sum(0)[:, None])

    def constant(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return a bias under which a label that all rows have, or none, is always said, or never."""
        there = (weights > 0).to(weights).T @ truth.to(weights)
        return torch.where(there > 0, _ABSENT, -_ABSENT)

    def judge(self, z: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sum -log p_y, p - y and p (1 - p)."""
        y = truth.to(z)[:, None]
        losses = (F.softplus(z) - y * z).mul_(known).sum(2)
        p = z.sigmoid_()
        curvature = (p - p.square()).mul_(known)
        return losses, p.sub_(y).mul_(known), curvature

    def bend(self, z: Tensor, truth: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> p (1 - p) v."""
        p = z.sigmoid()
        spread = (p - p.square()).mul_(known)
        return lambda way: way.mul_(spread)


class Normal(Link):
    """Half the squared error; with `reach`, Huber's loss, straight beyond it."""

    reach: ClassVar[float | None] = None

    def known(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return that every number can be learnt."""
        return torch.ones(weights.shape[1], outputs, dtype=torch.bool, device=weights.device)

    def constant(self, truth: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return zero: there is nothing that is not known."""
        return weights.new_zeros(weights.shape[1], outputs)

    def judge(self, z: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (z - y)^2 / 2, z - y and 1; beyond the reach r, r (|z - y| - r / 2), r sign(z - y) and 0."""
        error = z.sub_(truth.to(z)[:, None, None])
        if self.reach is None:
            return error.square().sum(2) / 2, error, torch.ones_like(error)
        near = error.clamp(-self.reach, self.reach)
        losses = (near * (error - near / 2)).sum(2)
        return losses, near, (error.abs() <= self.reach).to(error)

    def bend(self, z: Tensor, truth: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> v, and 0 beyond the reach."""
        if self.reach is None:
            return lambda way: way
        near = (z - truth.to(z)[:, None, None]).abs() <= self.reach
        return lambda way: way.mul_(near)


class Robust(Normal):
    """Huber's loss at 1.345 deviations: nearly all of the precision of squares where errors are normal."""

    reach = 1.345
