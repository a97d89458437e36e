"""Generalised linear models with an L2 penalty by Newton's method, for several problems on the same rows at once.

Which model is said by the link: multinomial logistic regression, logistic regression for every label, least squares.

The problems (the folds of a cross-validation) differ in the weights that they give to rows. Rows are read in pieces, so
that they need not fit into memory, once per step for all problems. What a step needs of second order is taken from a
sample of the rows where there are many: it only says where to go. The gradient, and so the solution, is that of all
rows, its products summed in float64; float32 inside a piece is used only as long as the solution is still far away.

When to stop: over the weights, the objective is strongly convex by the penalty, so that they are at most |gradient| /
penalty from the solution. A limit on the gradient alone thus means less and less as the penalty falls, until nothing
moves at all. Here |gradient| / penalty <= tolerance * |weights|: the weights are right to the tolerance, relative to
their size, whatever the penalty. Biases are not penalised: their gradient is divided by their mean curvature instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fusetune.heads.turned import Rows
from fusetune.targets.classification import Classification
from fusetune.targets.links import Link

_STEPS = 100
_HALVINGS = 30
_FORCING = 0.1  # how much of the gradient a step of Newton's leaves, in the norm of the preconditioner
_FLOOR = 1e-10  # of curvatures
_FLAT = 1e-8  # of |weights|: where no feature tells anything, they are zero
_ROUNDING = 1e-13  # by which a sum over rows may come out higher than it is, relative
_PAIRS = 10  # steps that are remembered
_LOOSE = 1e-2  # how near float32 is taken


class Problems(NamedTuple):
    """Problems on the same rows, with other weights.

    Attributes:
        y: Label of each row as the link takes it: of classes int64 [rows].
        w: Weight of each row in each problem, float64 [rows, problems], each column of sum 1.
        known: The outputs of each problem, bool [problems, outputs]; rows of other classes have no weight in it.
        link: What makes losses of linear predictors.
    """

    y: Tensor
    w: Tensor
    known: Tensor
    link: Link = Classification.link


class _Place(NamedTuple):
    """Where problems are: the objective [problems], its gradient, the biases' curvature [problems, classes]."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor


def minimise(rows: Rows, problems: Problems, penalty: float, start: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Minimise sum_i w_ip loss(x_i W_p, y_i) + penalty / 2 * |W_p without its last row|^2, for each problem p.

    Args:
        rows: Features.
        problems: Classes and weights.
        penalty: Of the squared weights, above 0.
        start: W to start from, float64 [axes + 1, problems, classes]; zero in classes that a problem does not have.
        tolerance: How far the weights may be from the solution, relative to their size.

    Returns:
        W, and whether each problem is as near as it should be, bool [problems].
    """
    if rows.sample is None:
        return _descend(rows, problems, penalty, start, tolerance, torch.float64)
    weights, reached = _descend(rows, problems, penalty, start, max(tolerance, _LOOSE), torch.float32)
    if tolerance >= _LOOSE and reached.all():
        return weights, reached
    return _descend(rows, problems, penalty, weights, tolerance, torch.float64)


def _descend(
    rows: Rows, problems: Problems, penalty: float, start: Tensor, tolerance: float, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    near = rows.near
    ridge = torch.cat([torch.full_like(near.spread, penalty), torch.zeros(1).to(near.spread)])[:, None, None]
    spread = torch.cat([near.spread, torch.ones(1).to(near.spread)])[:, None, None]
    reached = torch.zeros(start.shape[1], dtype=torch.bool, device=start.device)
    weights, going = start.clone(), torch.arange(start.shape[1], device=start.device)
    place = _judge(rows, problems, going, weights, ridge, precision)
    past = _Past(0 if rows.sample is None or len(rows.sample) == len(problems.y) else _PAIRS)
    for _ in range(_STEPS):
        curvature = place.curvature.clamp_min(_FLOOR)
        least = torch.where(ridge > 0, ridge, curvature)
        size = weights[:-1, going].square().sum((0, 2)).sqrt()
        limit = tolerance * size.clamp_min(_FLAT)
        done = (place.gradient / least).square().sum((0, 2)).sqrt() <= limit
        reached[going[done]] = True
        if done.all():
            break
        if done.any():
            going, limit = going[~done], limit[~done]
            place = _Place(place.value[~done], place.gradient[:, ~done], place.curvature[~done])
            curvature, least = curvature[~done], least[:, ~done]

        model = _Model(rows, problems, going, weights[:, going], ridge, spread * curvature + ridge)
        step = past.corrected(place.gradient, going, partial(model.step, limit=least * limit[:, None] / 2))
        before, gradient = weights.clone(), place.gradient
        place, moved = _search(rows, problems, going, weights, step, place, ridge, precision)
        past.add(going, weights - before, place.gradient - gradient)
        if not moved.all():
            going = going[moved]
            place = _Place(place.value[moved], place.gradient[:, moved], place.curvature[moved])
            if not len(going):
                break
    return weights, reached


class _Past:
    """What the last steps have shown of the Hessian, by which steps on a sample of the rows are corrected (L-BFGS).

    Where features are many, the Hessian of a sample is wrong by a factor in some directions: steps on it alone need to
    be halved, and come near a solution slowly.

    Args:
        size: How many steps are remembered.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, going: Tensor, step: Tensor, bend: Tensor) -> None:
        """Remember a step, [axes + 1, all problems, classes], and by how much the gradient of some changed."""
        if not self.size:
            return
        whole = torch.zeros_like(step)
        whole[:, going] = bend
        length = (step * whole).sum((0, 2))
        # A problem that did not move, or along which rounding is all that is seen, is left out.
        self.pairs.append((step, whole, torch.where(length > 0, 1 / length, 0.0)))
        self.pairs = self.pairs[-self.size :]

    def corrected(self, gradient: Tensor, going: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the step for a gradient, where `solve` gives it by the sample alone."""
        left, shares = gradient, []
        pairs = [(step[:, going], bend[:, going], inverse[going]) for step, bend, inverse in self.pairs]
        for step, bend, inverse in reversed(pairs):
            shares.append(inverse * (step * left).sum((0, 2)))
            left = left - shares[-1][:, None] * bend
        way = solve(left)
        for (step, bend, inverse), share in zip(pairs, reversed(shares), strict=True):
            way = way - (share + inverse * (bend * way).sum((0, 2)))[:, None] * step
        return way


def _search(
    rows: Rows, problems: Problems, going: Tensor, weights: Tensor, step: Tensor, place: _Place, ridge: Tensor,
    precision: torch.dtype,
) -> tuple[_Place, Tensor]:  # fmt: skip
    """Halve the step of each problem until its objective falls; move its weights there, and say which moved."""
    slope = (place.gradient * step).sum((0, 2))
    share = torch.ones_like(slope)
    value, gradient, curvature = (part.clone() for part in place)
    left = torch.arange(len(going), device=going.device)
    # Sums of float32 products are wrong by more.
    slack = (_ROUNDING if precision == torch.float64 else 1e-7) * place.value
    for _ in range(_HALVINGS):
        trial = weights[:, going[left]] + share[left, None] * step[:, left]
        there = _judge(rows, problems, going[left], trial, ridge, precision)
        falls = there.value <= place.value[left] + 1e-4 * share[left] * slope[left] + slack[left]
        moved = left[falls]
        weights[:, going[moved]] = trial[:, falls]
        value[moved], curvature[moved] = there.value[falls], there.curvature[falls]
        gradient[:, moved] = there.gradient[:, falls]
        left = left[~falls]
        if not len(left):
            break
        share[left] /= 2
    stays = torch.ones(len(going), dtype=torch.bool, device=going.device)
    stays[left] = False
    return _Place(value, gradient, curvature), stays


def _judge(
    rows: Rows, problems: Problems, going: Tensor, weights: Tensor, ridge: Tensor, precision: torch.dtype
) -> _Place:
    """Return the objective of some problems and what it changes by, in one reading of the rows."""
    y, known = problems.y, problems.known[going]
    inner = rows.enter(weights).flatten(1).to(precision)
    value = (ridge * weights.square()).sum((0, 2)) / 2
    gradient, curvature = torch.zeros(inner.shape).to(weights), torch.zeros_like(known, dtype=weights.dtype)
    for where, x in rows.pieces(precision):
        z = (x @ inner).view(-1, *known.shape)
        w = problems.w[where][:, going].to(precision)
        losses, error, spread = problems.link.judge(z, y[where], known)
        value += (w * losses).sum(0, dtype=torch.float64)
        curvature += torch.einsum("np,npc->pc", w, spread)
        error = error.mul_(w[..., None])
        gradient += x.T @ error.flatten(1)
    return _Place(value, rows.leave(gradient.view(-1, *known.shape)) + ridge * weights, curvature)


class _Model:
    """The Hessian of some problems at some weights, over the rows that second order is taken from.

    Args:
        rows: Their sample is what is read.
        problems: All problems.
        going: Which of them.
        weights: Of these, [axes + 1, these, classes].
        ridge: Penalty of each weight, [axes + 1, 1, 1].
        like: A diagonal that resembles the Hessian, [axes + 1, these, classes].
    """

    def __init__(
        self, rows: Rows, problems: Problems, going: Tensor, weights: Tensor, ridge: Tensor, like: Tensor
    ) -> None:
        self.x, self.ridge, self.like = rows.near.x, ridge, like
        known = problems.known[going]
        w = problems.w[:, going] if rows.sample is None else problems.w[rows.sample][:, going]
        self.w = (w / w.sum(0)).to(self.x.dtype)[..., None]
        z = (self.x @ weights.flatten(1).to(self.x.dtype)).view(-1, *known.shape)
        y = problems.y if rows.sample is None else problems.y[rows.sample]
        self.bend = problems.link.bend(z, y, known)

    def times(self, way: Tensor) -> Tensor:
        """Return the product of the Hessian and a direction, [axes + 1, these, classes]."""
        change = (self.x @ way.flatten(1).to(self.x.dtype)).view(-1, *way.shape[1:])
        change = self.bend(change).mul_(self.w)
        return (self.x.T @ change.flatten(1)).to(way).view(way.shape) + self.ridge * way

    def step(self, gradient: Tensor, limit: Tensor) -> Tensor:
        """Solve Hessian * step = -gradient by conjugate gradients.

        They end where little is left of the gradient or, in units of `limit`, less than 1.
        """
        left = -gradient
        step, way = torch.zeros_like(gradient), left / self.like
        size = (left * way).sum((0, 2))
        enough, goes_on = _FORCING**2 * size, size > 0
        for _ in range(_STEPS):
            bent = self.times(way)
            length = torch.where(goes_on, size / (way * bent).sum((0, 2)), 0.0)[:, None]
            step, left = step + length * way, left - length * bent
            before, size = size, (left * left / self.like).sum((0, 2))
            goes_on &= (size > enough) & ((left / limit).square().sum((0, 2)) > 1)
            if not goes_on.any():
                break
            way = torch.where(goes_on[:, None], left / self.like + (size / before)[:, None] * way, 0.0)
        return step
