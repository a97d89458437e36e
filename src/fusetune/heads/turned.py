"""Features as a linear head is solved on them: turned to the axes of their covariance, as a whole or read in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from fusetune.heads.design import PIECE, Design

# Rows that the second order is taken from: so many per feature, at least.
_PER_FEATURE, _LEAST = 20, 10_000
_IN_MEMORY = 4_000_000  # numbers of a matrix that is turned as a whole, in float64


@dataclass(frozen=True)
class Turned:
    """Features, centred and turned to the axes of their covariance, where the Hessian is nearly diagonal.

    A penalty on the squared length of the weights does not notice the turn. With fewer rows than features, weights lie
    in the span of the rows: there are never more axes than rows.

    Attributes:
        x: [rows, axes + 1], the last column 1, for the biases.
        mean: Of the features as they were, float64 [features].
        axes: float64 [features, axes], orthonormal.
        spread: Variance along each axis, float64 [axes].
    """

    x: Tensor
    mean: Tensor
    axes: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor) -> Turned:
        """Turn features [rows, features] of rows with weights [rows]; of float32, sums over rows are in float64."""
        w, span = w.double() / w.sum(), None
        mean = sum((w[part] @ x[part].double() for part in _parts(len(x))), torch.zeros(x.shape[1]).to(w))
        x = x - mean.to(x.dtype)
        if x.shape[0] < x.shape[1]:
            span, lower = torch.linalg.qr(x.T)
            x = lower.T
        square = torch.zeros(x.shape[1], x.shape[1]).to(w)
        for part in _parts(len(x)):
            scaled = x[part] * w[part].sqrt()[:, None].to(x.dtype)
            square += scaled.T @ scaled
        spread, axes = torch.linalg.eigh(square)
        turned = torch.ones(len(x), len(spread) + 1, dtype=x.dtype, device=x.device)
        for part in _parts(len(x)):
            turned[part, :-1] = x[part] @ axes.to(x.dtype)
        return cls(turned, mean, axes if span is None else span.double() @ axes, spread.clamp_min(0.0))

    def there(self, coef: Tensor, bias: Tensor) -> Tensor:
        """Return weights [..., classes, features] and biases [..., classes] as [axes + 1, ..., classes]."""
        weights = torch.einsum("fa,...cf->a...c", self.axes, coef)
        return torch.cat([weights, (bias + coef @ self.mean)[None]])

    def back(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `there`."""
        coef = torch.einsum("fa,a...c->...cf", self.axes, weights[:-1])
        return coef, weights[-1] - coef @ self.mean


class Features(Protocol):
    """A matrix of features, or anything that is multiplied like one."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of its products."""

    @property
    def T(self) -> Features:  # noqa: N802 - as tensors call it
        """The transposed matrix."""

    def __matmul__(self, other: Tensor, /) -> Tensor:
        """Return the product with a tensor."""


class Near(Protocol):
    """Features on the axes that weights are given and returned on; as those of `Turned`."""

    @property
    def x(self) -> Features:
        """Features, the last column 1."""

    @property
    def spread(self) -> Tensor:
        """Variance along each axis, float64 [axes]."""

    def there(self, coef: Tensor, bias: Tensor) -> Tensor:
        """Return weights on the axes."""

    def back(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `there`."""


class Rows(Protocol):
    """Rows in pieces, and a sample of them that says where to go.

    Attributes:
        near: The sample: what weights are given and returned on.
        sample: Positions of its rows, or None where it is all of them.
    """

    @property
    def near(self) -> Near:
        """The sample."""

    @property
    def sample(self) -> Tensor | None:
        """Positions of its rows."""

    def pieces(self, precision: torch.dtype) -> Iterator[tuple[slice, Features]]:
        """Yield which rows, and their features with a column of ones, [rows, features + 1]."""

    def enter(self, weights: Tensor) -> Tensor:
        """Return weights [axes + 1, ...] on the features of the pieces, [features + 1, ...]."""

    def leave(self, gradient: Tensor) -> Tensor:
        """Return a gradient on the features of the pieces, [features + 1, ...], on the axes."""


class Whole:
    """Rows that are turned as a whole, in float64."""

    def __init__(self, near: Turned) -> None:
        self.near = near
        self.sample: Tensor | None = None

    def pieces(self, precision: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows, and their turned features."""
        del precision  # they are kept in one
        for part in _parts(len(self.near.x)):
            yield part, self.near.x[part]

    def enter(self, weights: Tensor) -> Tensor:
        """Return the weights."""
        return weights

    def leave(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient


class Streamed:
    """Rows that are read anew in every step; a sample of them is turned, in float32."""

    def __init__(self, design: Design, scale: Tensor, w: Tensor) -> None:
        count = sampled(len(design), design.width)
        order = np.random.default_rng(0).permutation(len(design))[:count]
        order.sort()
        self.design, self.scale = design, scale
        self.sample: Tensor | None = torch.from_numpy(order).to(scale.device)
        self.near = Turned.of(design.some(order) * scale.float(), w[self.sample])

    def pieces(self, precision: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows, and their centred features."""
        scale, mean = self.scale.to(precision), self.near.mean.to(precision)
        for where, x in self.design.pieces():
            piece = torch.ones(len(x), x.shape[1] + 1, dtype=precision, device=x.device)
            torch.addcmul(-mean, x.to(precision), scale, out=piece[:, :-1])
            yield where, piece

    def enter(self, weights: Tensor) -> Tensor:
        """Return weights on the features."""
        return torch.cat([torch.tensordot(self.near.axes, weights[:-1], 1), weights[-1:]])

    def leave(self, gradient: Tensor) -> Tensor:
        """Return a gradient on the axes."""
        return torch.cat([torch.tensordot(self.near.axes.T, gradient[:-1], 1), gradient[-1:]])


@dataclass(frozen=True)
class _Product:
    """A matrix of mostly zeros that is multiplied like a tensor."""

    matrix: Any
    dtype: torch.dtype = torch.float64

    @property
    def T(self) -> _Product:  # noqa: N802 - as tensors call it
        """The transposed matrix."""
        return _Product(self.matrix.T)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Return the product with a tensor."""
        return torch.from_numpy(np.ascontiguousarray(self.matrix @ other.double().numpy()))


@dataclass(frozen=True)
class Plain:
    """Counts of words as they are: turned or centred, they would be zeros no longer.

    That rows are not centred is made up for by the biases, which are not penalised.

    Attributes:
        x: [rows, features + 1], the last column 1.
        mean: Of the features that weights are given for, float64 [features].
        spread: Variance of each feature, float64 [features].
    """

    x: _Product
    mean: Tensor
    spread: Tensor

    def there(self, coef: Tensor, bias: Tensor) -> Tensor:
        """Return weights [..., classes, features] and biases [..., classes] as [features + 1, ..., classes]."""
        return torch.cat([coef.movedim(-1, 0), (bias - coef @ self.mean)[None]])

    def back(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `there`."""
        coef = weights[:-1].movedim(0, -1)
        return coef, weights[-1] + coef @ self.mean


class Thin:
    """Rows of which most features are zero, all of them at once."""

    def __init__(self, matrix: sparse.csr_array, mean: npt.NDArray[np.float64], scale: Tensor, w: Tensor) -> None:
        factor = scale.numpy()
        scaled = sparse.csr_array(matrix * factor)
        share = (w / w.sum()).numpy()
        spread = scaled.power(2).T @ share - (scaled.T @ share) ** 2
        ones = sparse.csr_array(np.ones((scaled.shape[0], 1)))
        self._matrix = sparse.csr_array(sparse.hstack([scaled, ones], format="csr"))
        self.near = Plain(
            _Product(self._matrix), torch.from_numpy(mean * factor), torch.from_numpy(np.maximum(spread, 0.0))
        )
        self.sample: Tensor | None = None

    def pieces(self, precision: torch.dtype) -> Iterator[tuple[slice, _Product]]:
        """Yield which rows, and their features."""
        del precision  # they are kept in one
        for part in _parts(self._matrix.shape[0]):
            yield part, _Product(self._matrix[part])

    def enter(self, weights: Tensor) -> Tensor:
        """Return the weights."""
        return weights

    def leave(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient


def sampled(rows: int, width: int) -> int:
    """Return how many of the rows the second order is taken from."""
    return min(rows, max(_PER_FEATURE * width, _LEAST))


def rows_of(design: Design, scale: Tensor, w: Tensor) -> Rows:
    """Return the rows of a design, its columns multiplied by `scale` [width], as a whole where they are few enough.

    Args:
        design: The rows.
        scale: float64, on the device of the design.
        w: Weight of each row, float64 [rows].
    """
    rows, width = len(design), design.width
    if (found := design.thin()) is not None:
        return Thin(*found, scale, w)
    if rows * width <= _IN_MEMORY:
        x = torch.cat([piece.double() * scale for _, piece in design.pieces()])
        return Whole(Turned.of(x, w))
    return Streamed(design, scale, w)


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + PIECE, rows)) for start in range(0, rows, PIECE))
