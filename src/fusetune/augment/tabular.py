"""Augmentation of table cells and vectors: cells take another training row's value (SCARF, Bahri et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from torch import Tensor, where

from fusetune.augment.random import Moment, integers, uniform
from fusetune.config import ColumnPolicy


@dataclass(frozen=True)
class CellAugment:
    """Corrupts cells of the modality `columns`.

    Attributes:
        policy: What may happen.
        donors: Raw inputs of the training rows, from whose columns the new values are drawn.
        columns: Which column each number belongs to, counted from 0; the numbers of one column (a date has three) come
            from one donor. Default: each number is a column.
    """

    policy: ColumnPolicy
    donors: dict[str, Tensor]
    columns: tuple[int, ...] | None = None

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {**self.policy.model_dump(), "donors": _digest(self.donors.values())}

    def plain(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cells as they are."""
        return inputs

    def draw(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Corrupt cells at random; a number and its missing flag stay together."""
        if not self.policy.corrupt:
            return inputs
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


@dataclass(frozen=True)
class VectorAugment:
    """Corrupts single dimensions of a vector.

    Attributes:
        policy: What may happen.
        donors: Vectors of the training rows, float [rows, dimensions].
    """

    policy: ColumnPolicy
    donors: Tensor

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {**self.policy.model_dump(), "donors": _digest([self.donors])}

    def plain(self, vectors: Tensor) -> Tensor:
        """Return the vectors as they are."""
        return vectors

    def draw(self, vectors: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Corrupt dimensions at random."""
        if not self.policy.corrupt:
            return vectors
        return _corrupt([vectors], [self.donors], self.policy.corrupt, keys, moment, "vector")[0]


def _digest(donors: Iterable[Tensor]) -> str:
    digest = sha256()
    for tensor in donors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    hit = (uniform(moment, keys, f"{operation} hit", max(column) + 1) < share)[:, column]
    donor = integers(moment, keys, f"{operation} donor", max(column) + 1, len(donors[0]))[:, column]
    return [where(hit, pool.to(cell.device).gather(0, donor), cell) for cell, pool in zip(cells, donors, strict=True)]
