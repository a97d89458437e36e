"""How unlike the training rows a new row is, by modality: a distance, and the share of held-out rows as far away.

The distance is the mean of those to the nearest training rows in the features of the model's own encoders (deep nearest
neighbours, Sun et al. 2022, arXiv 2204.06507). As there, features of pictures and texts are scaled to one length
first; those of cells and vectors are not, which would hide numbers that are merely large. Each feature is divided by
its deviation over the training rows. Many features are projected onto few random directions, which keeps distances
well enough to compare them (Johnson and Lindenstrauss) and is all that goes with the model.

What a distance means is learnt on rows that no encoder was trained on: the share of them at least as far away, the
new row counted among them, is a p-value for "drawn as they were" (conformal anomaly detection, Laxhammar and Falkman
2010). With groups each group weighs the same. A small share says that the model was judged on nothing like this row,
not that its answer is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusetune.augment.random import Moment, uniform
from fusetune.data.split import Rows
from fusetune.evaluate.bootstrap import clusters
from fusetune.evaluate.metrics import FloatArray, IntArray

NEIGHBOURS = 5
WIDTH = 128
_AT_ONCE = 1024
UNLIKE = 0.01  # a share of at most this is worth a word


@dataclass(frozen=True, eq=False)
class Likeness:
    """What features of new rows are compared with, of one modality.

    Attributes:
        mean: Of each feature over training rows, float32 [dim].
        scale: What each is divided by, float32 [dim].
        rows: Training rows, projected, float32 [n, at most `WIDTH`].
        far: Distances of held-out rows, float32 [m].
        weight: Of each of them, float32 [m]: one over the rows of its group.
        unit: Are features scaled to one length first?
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    rows: NDArray[np.float32]
    far: NDArray[np.float32]
    weight: NDArray[np.float32]
    unit: bool = False

    @classmethod
    def learn(
        cls, train: FloatArray, held: FloatArray, groups: NDArray[Any] | None, *, unit: bool = False
    ) -> Likeness | None:
        """Learn from features of training rows [n, dim] and of rows that nothing was trained on [m, dim].

        Args:
            train: The former.
            held: The latter.
            groups: Their groups, [m], or None.
            unit: Scale features to one length first.

        Returns:
            None where there are too few rows of either kind.
        """
        if len(train) <= NEIGHBOURS or not len(held):
            return None
        scaled = _unit(train) if unit else train
        mean, deviation = scaled.mean(0), scaled.std(0)
        # A feature that hardly varies must not decide alone; one that never did still counts when it does.
        scale = deviation + 0.1 * np.sqrt(np.mean(deviation**2)) + 1e-9
        where = clusters(groups, len(held))
        weight = 1 / np.bincount(where.member, minlength=where.count)[where.member]
        none = np.zeros(0, np.float32)
        bare = cls(mean.astype(np.float32), scale.astype(np.float32), np.zeros((0, 0), np.float32), none, none, unit)
        # As they will be read again: in half precision, which is finer than distances matter.
        rows = np.clip(bare._projected(train), -60_000, 60_000).astype(np.float16).astype(np.float32)
        known = replace(bare, rows=rows)
        return replace(known, far=known.distances(held), weight=weight.astype(np.float32))

    @cached_property
    def _directions(self) -> NDArray[np.float32] | None:
        """Signs of a random projection, a function of the number of features alone; None where there are few."""
        if len(self.mean) <= WIDTH:
            return None
        drawn = uniform(Moment(0), torch.arange(len(self.mean)), "likeness", WIDTH).numpy()
        return np.asarray(np.where(drawn < 0.5, -1.0, 1.0) / np.sqrt(WIDTH), dtype=np.float32)

    def _projected(self, features: FloatArray) -> NDArray[np.float32]:
        some = _unit(features) if self.unit else features
        scaled = ((some - self.mean) / self.scale).astype(np.float32)
        return scaled if self._directions is None else scaled @ self._directions

    def distances(self, features: FloatArray) -> NDArray[np.float32]:
        """Return the mean distance to the nearest training rows, float32 [rows], for features [rows, dim]."""
        found = [
            np.sqrt(np.partition(squares, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]).mean(1)
            for squares in self._squares(features)
        ]
        return np.concatenate(found or [np.zeros(0)]).astype(np.float32)

    def nearest(self, features: FloatArray, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest training rows of each row, and how far they are, both [rows, count], the nearest first.

        Args:
            features: Of the rows, [rows, dim].
            count: At most the number of training rows. Of equally near ones the first are taken.
        """
        places, far = [np.zeros((0, count), np.int64)], [np.zeros((0, count), np.float32)]
        for squares in self._squares(features):
            order = np.argsort(squares, axis=1, kind="stable")[:, :count]
            places.append(order)
            far.append(np.sqrt(np.take_along_axis(squares, order, 1)).astype(np.float32))
        return np.concatenate(places), np.concatenate(far)

    def _squares(self, features: FloatArray) -> Iterator[FloatArray]:
        """Yield squared distances to all training rows, some rows at a time."""
        for start in range(0, len(features), _AT_ONCE):
            some = self._projected(features[start : start + _AT_ONCE]).astype(np.float64)
            squares = (some**2).sum(1)[:, None] - 2 * some @ self.rows.T.astype(np.float64) + (self.rows**2).sum(1)
            yield np.maximum(squares, 0)

    def shares(self, distances: NDArray[np.float32]) -> FloatArray:
        """Return the share of held-out rows (groups alike) at least as far away, the row itself among them."""
        order = np.argsort(self.far, kind="stable")
        beyond = np.concatenate([np.cumsum(self.weight[order][::-1].astype(np.float64))[::-1], [0.0]])
        place = np.searchsorted(self.far[order], distances, side="left")
        return np.asarray((beyond[place] + 1) / (self.weight.sum(dtype=np.float64) + 1))

    @property
    def limit(self) -> float:
        """The share up to which a row is called unlike; with few held-out rows: farther than all of them."""
        return max(UNLIKE, float(1 / (self.weight.sum(dtype=np.float64) + 1)) * (1 + 1e-9))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `read` needs."""
        return {
            "mean": self.mean, "scale": self.scale, "rows": self.rows.astype(np.float16), "far": self.far,
            "weight": self.weight, "unit": np.array([self.unit], np.uint8),
        }  # fmt: skip

    @classmethod
    def read(cls, arrays: dict[str, NDArray[Any]], dim: int) -> Likeness:
        """Read what `arrays` returned.

        Raises:
            ValueError: If it cannot have been learnt of so many features.
        """
        numbers = {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items() if name != "unit"}
        found = cls(**numbers, unit=bool(arrays["unit"].all()))
        wide = min(dim, WIDTH)
        shapes = (found.mean.shape, found.scale.shape, found.rows.shape[1:], found.far.shape)
        if (
            shapes != ((dim,), (dim,), (wide,), found.weight.shape)
            or len(found.rows) < NEIGHBOURS
            or not len(found.far)
        ):
            raise ValueError(f"distances of {dim} features with arrays of {shapes}")
        sound = all(np.isfinite(array).all() for array in numbers.values())
        if not sound or (found.scale <= 0).any() or (found.weight <= 0).any():
            raise ValueError("distances that are no numbers")
        return found


def _unit(features: FloatArray) -> FloatArray:
    """Return features [rows, dim] scaled to length one; those that are all zero stay so."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def some_rows(rows: Rows, keys: IntArray, most: int) -> Rows:
    """Return at most so many of some rows, in order: the same ones whatever the order of the table."""
    chosen = rows[np.argsort(keys[rows], kind="stable")[:most]]
    return np.sort(chosen)
