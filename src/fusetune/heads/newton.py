"""Multinomial logistic regression with an L2 penalty, solved by Newton's method, conjugate gradients inside.

When to stop: over the weights, the objective is strongly convex by the penalty, so that they are at most |gradient| /
penalty from the solution. A limit on the gradient alone thus means less and less as the penalty falls, until nothing
moves at all. Here |gradient| / penalty <= tolerance * |weights|: the weights are right to the tolerance, relative to
their size, whatever the penalty. Biases are not penalised: their gradient is divided by their mean curvature instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, qr

Matrix = npt.NDArray[np.float64]

_STEPS = 100
_HALVINGS = 30
_FORCING = 0.1  # how much of the gradient a step of Newton's leaves, in the norm of the preconditioner
_FLOOR = 1e-10  # of |weights| and of curvatures: where no feature tells anything, the weights are zero
_ROUNDING = 1e-13  # by which a sum over rows may come out higher than it is, relative


@dataclass(frozen=True)
class Turned:
    """Features, centred and turned to the axes of their covariance, where the Hessian is nearly diagonal.

    A penalty on the squared length of the weights does not notice the turn. With fewer rows than features, weights lie
    in the span of the rows: there are never more axes than rows.

    Attributes:
        x: [rows, axes + 1], the last column 1, for the biases.
        mean: Of the features as they were, [features].
        axes: [features, axes], orthonormal.
        spread: Variance along each axis, [axes].
    """

    x: Matrix
    mean: Matrix
    axes: Matrix
    spread: Matrix

    @classmethod
    def of(cls, x: Matrix, w: Matrix) -> Turned:
        """Turn features [rows, features], which are overwritten, of rows with weights [rows]."""
        w, span = w / w.sum(), None
        mean = w @ x
        x -= mean
        if x.shape[0] < x.shape[1]:
            span, lower = qr(x.T, mode="economic")
            x = lower.T
        scaled = x * np.sqrt(w)[:, None]
        spread, axes = eigh(scaled.T @ scaled)
        turned = np.ones((len(x), len(spread) + 1))
        np.matmul(x, axes, out=turned[:, :-1])
        return cls(turned, mean, axes if span is None else span @ axes, np.maximum(spread, 0.0))

    def there(self, coef: Matrix, bias: Matrix) -> Matrix:
        """Return weights [classes, features] and biases [classes] in these coordinates, [axes + 1, classes]."""
        return np.concatenate([self.axes.T @ coef.T, (bias + coef @ self.mean)[None]])

    def back(self, weights: Matrix) -> tuple[Matrix, Matrix]:
        """Undo `there`."""
        coef = (self.axes @ weights[:-1]).T
        return coef, weights[-1] - coef @ self.mean


def minimise(
    x: Matrix, y: npt.NDArray[np.int64], w: Matrix, spread: Matrix, penalty: float, start: Matrix, tolerance: float
) -> tuple[Matrix, bool]:
    """Minimise sum_i w_i CE(x_i W, y_i) / sum_i w_i + penalty / 2 * |W without its last row|^2.

    Args:
        x: Turned features, [rows, axes + 1]; `spread` may be that of more rows than these.
        y: Classes, [rows].
        w: Weight of each row, [rows].
        spread: Variance along each axis: with it, conjugate gradients need few steps.
        penalty: Of the squared weights, above 0.
        start: W to start from, [axes + 1, classes].
        tolerance: How far the weights may be from the solution, relative to their size.

    Returns:
        W, and whether it is as near as it should be.
    """
    w, onehot = (w / w.sum())[:, None], np.eye(start.shape[1])[y]
    ridge = np.append(np.full(len(spread), penalty), 0.0)[:, None]
    spread = np.append(spread, 1.0)[:, None]

    def judge(weights: Matrix) -> tuple[float, Matrix]:
        z = x @ weights
        z -= z.max(1, keepdims=True)
        chances = np.exp(z)
        total = chances.sum(1, keepdims=True)
        loss = (w * (np.log(total) - (z * onehot).sum(1, keepdims=True))).sum()
        return float(loss + (ridge * weights**2).sum() / 2), chances / total

    weights, (value, chances) = start, judge(start)
    for _ in range(_STEPS):
        gradient = x.T @ (w * (chances - onehot)) + ridge * weights
        curvature = np.maximum((w * chances * (1 - chances)).sum(0), _FLOOR)
        least = np.where(ridge > 0, ridge, curvature)
        limit = tolerance * max(float(np.linalg.norm(weights[:-1])), _FLOOR)
        if np.linalg.norm(gradient / least) <= limit:
            return weights, True
        step = _newton_step(x, w, chances, ridge, spread * curvature + ridge, gradient, least * limit / 2)
        slope = float((gradient * step).sum())
        for share in 0.5 ** np.arange(_HALVINGS):
            lower, there = judge(weights + share * step)
            if lower <= value + 1e-4 * share * slope + _ROUNDING * value:
                break
        else:
            break
        weights, value, chances = weights + share * step, lower, there
    return weights, False


def _newton_step(
    x: Matrix, w: Matrix, chances: Matrix, ridge: Matrix, near: Matrix, gradient: Matrix, limit: Matrix
) -> Matrix:
    """Solve Hessian * step = -gradient, until little is left of it or, in units of `limit`, less than 1.

    `near` is a diagonal that resembles the Hessian.
    """
    step, left = np.zeros_like(gradient), -gradient
    way = left / near
    size = float((left * way).sum())
    enough = _FORCING**2 * size
    for _ in range(_STEPS):
        change = x @ way
        change -= (chances * change).sum(1, keepdims=True)
        bent = x.T @ (w * chances * change) + ridge * way
        length = size / float((way * bent).sum())
        step, left = step + length * way, left - length * bent
        before, size = size, float((left * left / near).sum())
        if size <= enough or np.linalg.norm(left / limit) <= 1:
            break
        way = left / near + size / before * way
    return step
