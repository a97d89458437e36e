"""Augmentation of table cells and vectors: other rows' values, noise on numbers, cells that go missing.

Corrupted cells take the value of another training row (SCARF, Bahri et al. 2022), so every column keeps its marginal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256

from torch import Tensor, cos, sin, stack, where

from fusetune.augment import Augment
from fusetune.augment.random import Moment, integers, normal, uniform
from fusetune.config import ColumnPolicy
from fusetune.data.cells import DAYS_PER_YEAR, MISSING


@dataclass(frozen=True)
class Season:
    """Where the three numbers of a date lie, and how they were standardised: days, sine and cosine of the season.

    Attributes:
        first: Place of the days; sine and cosine follow.
        mean: Training means of the three.
        std: Training deviations of the three.
    """

    first: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def shift(self, numbers: Tensor, by: Tensor) -> Tensor:
        """Return the three numbers [rows, 3] of dates that lie later, in deviations of the days [rows]."""
        days, *turn = numbers[:, self.first : self.first + 3].unbind(1)
        sine, cosine = (turn[i] * self.std[i + 1] + self.mean[i + 1] for i in (0, 1))
        angle = by * (self.std[0] * 2 * math.pi / DAYS_PER_YEAR)
        turned = (sine * cos(angle) + cosine * sin(angle), cosine * cos(angle) - sine * sin(angle))
        return stack([days + by, *((turned[i] - self.mean[i + 1]) / self.std[i + 1] for i in (0, 1))], 1)


@dataclass(frozen=True)
class CellAugment(Augment):
    """Augments cells of the modality `columns`.

    Attributes:
        policy: What may happen.
        donors: Raw inputs of the training rows, from whose columns the new values are drawn.
        columns: Which column each number belongs to, counted from 0; the numbers of one column (a date has three) stay
            together. Default: each number is a column.
        truths: Numbers that stand for truth values, which are not a little more or less true.
        seasons: The dates among the numbers.
    """

    policy: ColumnPolicy
    donors: dict[str, Tensor]
    columns: tuple[int, ...] | None = None
    truths: tuple[int, ...] = ()
    seasons: tuple[Season, ...] = ()

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return any(self.policy.model_dump().values())

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        layout = {"columns": self.columns, "truths": self.truths, "seasons": [asdict(s) for s in self.seasons]}
        return {**self.policy.model_dump(), **layout, "donors": _digest(self.donors.values())}

    def draw(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Corrupt cells, add noise to known numbers, let cells go missing; flags and numbers stay together.

        Args:
            inputs: numbers float [rows, Dn], missing bool [rows, Dn] and codes int64 [rows, Dc].
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.
        """
        p = self.policy
        if p.corrupt:
            inputs = self._corrupted(inputs, keys, moment)
        if p.jitter and inputs["numbers"].shape[1]:
            inputs = {**inputs, "numbers": self._jittered(inputs["numbers"], inputs["missing"], keys, moment)}
        if p.missing:
            inputs = self._emptied(inputs, keys, moment)
        return inputs

    def _corrupted(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        numbers, missing = _corrupt(
            [inputs["numbers"], inputs["missing"]],
            [self.donors["numbers"], self.donors["missing"]],
            self.policy.corrupt,
            keys,
            moment,
            "number",
            self.columns,
        )
        (codes,) = _corrupt([inputs["codes"]], [self.donors["codes"]], self.policy.corrupt, keys, moment, "code")
        return {"numbers": numbers, "missing": missing, "codes": codes}

    def _jittered(self, numbers: Tensor, missing: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        noise = self.policy.jitter * normal(moment, keys, "cell jitter", numbers.shape[1])
        noise[:, list(self.truths)] = 0
        moved = numbers + noise
        for season in self.seasons:
            moved[:, season.first : season.first + 3] = season.shift(numbers, noise[:, season.first])
        return where(missing, numbers, moved)

    def _emptied(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        numbers, missing, codes = inputs["numbers"], inputs["missing"], inputs["codes"]
        flags = _hits(numbers.shape[1], self.policy.missing, keys, moment, "number missing", self.columns)
        gone = _hits(codes.shape[1], self.policy.missing, keys, moment, "code missing")
        # A row that would lose every cell that it has keeps them all.
        left = (~missing & ~flags).any(1) | ((codes != MISSING) & ~gone).any(1)
        flags, gone = flags & left[:, None], gone & left[:, None]
        return {
            "numbers": numbers.masked_fill(flags, 0.0),
            "missing": missing | flags,
            "codes": codes.masked_fill(gone, MISSING),
        }


@dataclass(frozen=True)
class VectorAugment(Augment):
    """Augments single dimensions of a vector.

    Attributes:
        policy: What may happen; a vector's numbers cannot go missing.
        donors: Vectors of the training rows, float [rows, dimensions].
    """

    policy: ColumnPolicy
    donors: Tensor

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return any(self.policy.model_dump().values())

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {**self.policy.model_dump(), "donors": _digest([self.donors])}

    def draw(self, vectors: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Corrupt dimensions, then add noise."""
        if self.policy.corrupt:
            (vectors,) = _corrupt([vectors], [self.donors], self.policy.corrupt, keys, moment, "vector")
        if self.policy.jitter:
            vectors = vectors + self.policy.jitter * normal(moment, keys, "vector jitter", vectors.shape[1])
        return vectors


def _digest(donors: Iterable[Tensor]) -> str:
    digest = sha256()
    for tensor in donors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _hits(
    width: int, share: float, keys: Tensor, moment: Moment, operation: str, columns: tuple[int, ...] | None = None
) -> Tensor:
    """Choose a share of the columns of each row, bool [rows, width]; the numbers of one column are chosen together."""
    column = list(range(width) if columns is None else columns)
    return (uniform(moment, keys, operation, max(column, default=-1) + 1) < share)[:, column]


def _corrupt(
    cells: list[Tensor],
    donors: list[Tensor],
    share: float,
    keys: Tensor,
    moment: Moment,
    operation: str,
    columns: tuple[int, ...] | None = None,
) -> list[Tensor]:
    """Replace the same random cells of each tensor [rows, columns] by those of the same random donor rows."""
    width = cells[0].shape[1]
    if not width:
        return cells
    column = list(range(width) if columns is None else columns)
    hit = _hits(width, share, keys, moment, f"{operation} hit", columns)
    donor = integers(moment, keys, f"{operation} donor", max(column) + 1, len(donors[0]))[:, column]
    return [where(hit, pool.to(cell.device).gather(0, donor), cell) for cell, pool in zip(cells, donors, strict=True)]
