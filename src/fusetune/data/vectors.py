"""Ready-made vectors, from lists in one column or from number columns, standardised by the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fusetune.data.source import notes_of, row_digests
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.data.words import FARTHEST, finite_numbers, is_words, spelled_vector
from fusetune.errors import TableError, listed


class VectorInput(BaseModel):
    """Fitted pre-processing of a ready-made vector: standardised per dimension on the training part."""

    model_config = ConfigDict(extra="forbid")
    columns: list[str]
    mean: list[float]
    std: list[float]

    @classmethod
    def fit(cls, table: Table, columns: Sequence[str], train: Rows) -> VectorInput:
        """Learn the scale from the training rows."""
        return cls.learnt(columns, _vectors(table, columns)[train], table.name)

    @classmethod
    def learnt(cls, columns: Sequence[str], values: npt.NDArray[np.float64], table: str) -> VectorInput:
        """Learn the scale from vectors, [rows, dimensions]; those with a missing number do not count.

        Raises:
            TableError: If none is left, naming the table.
        """
        usable = values[~np.isnan(values).any(1)]
        if not len(usable):
            raise TableError(f"{table}: vector {listed(columns)} is incomplete in every training row")
        std, mean = usable.std(0), usable.mean(0)
        return cls(columns=list(columns), mean=mean.tolist(), std=np.where(std > 1e-9 * np.abs(mean), std, 1).tolist())

    def bind(self, table: Table) -> VectorSource:
        """Apply the fitted pre-processing to a table; a vector with any missing or infinite number counts as absent."""
        values = _vectors(table, self.columns)
        if not values.shape[1]:
            values = np.full((len(values), len(self.mean)), np.nan)
        if values.shape[1] != len(self.mean):
            raise TableError(
                f"{table.name}: vector {listed(self.columns)} has {values.shape[1]} numbers, "
                f"the model knows {len(self.mean)}"
            )
        source = self.source(values)
        present = source.present
        filled = table.frame[self.columns].notna().any(axis=1).to_numpy()
        why = "some of its numbers are missing, infinite or far from any learnt, so it counts as absent"
        source.problems = dict.fromkeys(map(int, np.flatnonzero(filled & ~present)), why)
        return source

    def source(self, values: npt.NDArray[np.float64]) -> VectorSource:
        """Return vectors [rows, dimensions] at the scale that was learnt; those with a missing number are absent."""
        scaled = (values - np.asarray(self.mean)) / np.asarray(self.std)
        present = (np.abs(scaled) <= FARTHEST).all(1)
        scaled = np.where(present[:, None], scaled, 0).astype(np.float32)
        return VectorSource(scaled, present, row_digests(scaled))


@dataclass
class VectorSource:
    """The vectors of one table."""

    values: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    lengths: None = None
    problems: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)

    def read(self, rows: Rows) -> Tensor:
        """Return float32 [rows, dimensions]."""
        return torch.from_numpy(self.values[rows])

    def some(self, rows: Rows) -> VectorSource:
        """Return some rows; see `Source`."""
        notes = (notes_of(self.problems, rows), notes_of(self.unseen, rows))
        return VectorSource(self.values[rows], self.present[rows], self.digests[rows], None, *notes)


def _vectors(table: Table, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    if len(columns) > 1 or pd.api.types.is_numeric_dtype(table.column(columns[0])):
        return np.stack([finite_numbers(table.column(name)) for name in columns], 1)
    name = columns[0]
    cells = table.column(name)
    cells = cells.map(spelled_vector).astype(object) if is_words(cells) else cells
    vectors = [_vector(table.name, name, table.number(row), value) for row, value in enumerate(cells)]
    size = next((len(vector) for vector in vectors if vector is not None), 0)
    values = np.full((len(vectors), size), np.nan)
    for row, vector in enumerate(vectors):
        if vector is None:
            continue
        if len(vector) != size:
            raise TableError(
                f"{table.name}: column '{name}' holds {size} numbers, but {len(vector)} in row {table.number(row)}"
            )
        values[row] = vector
    return np.where(np.isfinite(values), values, np.nan)


def _vector(table: str, column: str, row: int, value: object) -> npt.NDArray[np.float64] | None:
    """Return a cell as numbers, or None where it is no list of them but one value or none."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TableError(
            f"{table}: column '{column}' holds {listed(value, 3)} in row {row}, which are no numbers; a vector needs "
            "numbers"
        ) from error
    return numbers if numbers.ndim == 1 else None
