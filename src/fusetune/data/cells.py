"""Table cells as numbers and codes (the modality `columns`): scaling and vocabularies fitted on the training part.

Numbers, booleans and dates become standardised numbers beside a missing flag. Categories become codes: 0 missing, 1 not
seen in training, 2 and up the categories. Categories that occur once in training share code 1, so that it is trained.
The category 1.0 is the category 1: whole numbers turn into fractions where a cell of their column is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fusetune.data.kinds import FALSE_WORDS, TRUE_WORDS, Kind
from fusetune.data.source import row_digests
from fusetune.data.split import Rows
from fusetune.data.table import Table, finite_numbers, first_is_day, parse_dates
from fusetune.errors import TableError

MISSING, UNSEEN, FIRST = 0, 1, 2
DAYS_PER_YEAR = 365.2425


class Scale(BaseModel):
    """Training mean and standard deviation of one number."""

    model_config = ConfigDict(extra="forbid")
    column: str
    part: str
    mean: float
    std: float


class Vocabulary(BaseModel):
    """Training categories of one column, most frequent first."""

    model_config = ConfigDict(extra="forbid")
    column: str
    categories: list[str]


class CellInput(BaseModel):
    """Fitted pre-processing of the modality `columns`."""

    model_config = ConfigDict(extra="forbid")
    kinds: dict[str, Kind]
    numbers: list[Scale]
    categories: list[Vocabulary]
    day_first: list[str] = []

    @classmethod
    def fit(cls, table: Table, kinds: dict[str, Kind], train: Rows) -> CellInput:
        """Learn scales and vocabularies from the training rows."""
        scales, vocabularies, day_first = [], [], []
        for name, kind in kinds.items():
            series = table.column(name).iloc[train]
            if kind is Kind.CATEGORY:
                counts = _words(series).value_counts()
                # Equal counts in order of the alphabet, so that the codes do not depend on the order of the rows.
                common = sorted(counts[counts > 1].items(), key=lambda item: (-item[1], str(item[0])))
                vocabularies.append(Vocabulary(column=name, categories=[str(word) for word, _ in common]))
                continue
            if kind is Kind.DATE and first_is_day(series):
                day_first.append(name)
            for part, values in _numbers(series, kind, table.name, name in day_first).items():
                present = values[~np.isnan(values)]
                mean, std = (float(present.mean()), float(present.std())) if len(present) else (0.0, 1.0)
                # Of equal numbers, rounding can leave a deviation that would blow up any other value.
                scales.append(Scale(column=name, part=part, mean=mean, std=std if std > 1e-9 * abs(mean) else 1.0))
        return cls(kinds=kinds, numbers=scales, categories=vocabularies, day_first=day_first)

    @property
    def cardinalities(self) -> list[int]:
        """Number of codes per category column."""
        return [FIRST + len(v.categories) for v in self.categories]

    def bind(self, table: Table) -> CellSource:
        """Apply the fitted pre-processing to a table."""
        parts = {
            name: _numbers(table.column(name), kind, table.name, name in self.day_first)
            for name, kind in self.kinds.items()
            if kind is not Kind.CATEGORY
        }
        numbers = np.zeros((len(table), len(self.numbers)), dtype=np.float32)
        for i, scale in enumerate(self.numbers):
            numbers[:, i] = (parts[scale.column][scale.part] - scale.mean) / scale.std
        codes = np.zeros((len(table), len(self.categories)), dtype=np.int64)
        for i, vocabulary in enumerate(self.categories):
            codes[:, i] = _codes(table.column(vocabulary.column), vocabulary.categories)
        source = CellSource.of(numbers, codes)
        for name, values in parts.items():
            cells = table.column(name)
            unread = cells.notna().to_numpy() & np.isnan(next(iter(values.values())))
            for row in map(int, np.flatnonzero(unread)):
                text = f"{name}: '{cells.iloc[row]}' is no {self.kinds[name]} and counts as missing"
                source.problems[row] = "; ".join(filter(None, (source.problems.get(row), text)))
        return source


@dataclass
class CellSource:
    """The cells of one table."""

    numbers: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]
    codes: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    lengths: None = None
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, numbers: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> CellSource:
        """Build a source from standardised numbers (NaN where missing) and codes."""
        missing = np.isnan(numbers)
        filled = np.where(missing, np.float32(0), numbers).astype(np.float32)
        present = (~missing).any(1) | (codes != MISSING).any(1)
        return cls(filled, missing, codes, present, row_digests(np.concatenate([numbers.astype(np.float64), codes], 1)))

    def read(self, rows: Rows) -> dict[str, Tensor]:
        """Return numbers float32 [rows, Dn], missing bool [rows, Dn] and codes int64 [rows, Dc]."""
        return {
            "numbers": torch.from_numpy(self.numbers[rows]),
            "missing": torch.from_numpy(self.missing[rows]),
            "codes": torch.from_numpy(self.codes[rows]),
        }


def _numbers(series: pd.Series, kind: Kind, table: str, day_first: bool) -> dict[str, npt.NDArray[np.float64]]:
    """Return the number(s) that a cell stands for, NaN where it is missing."""
    match kind:
        case Kind.NUMBER:
            return {"value": finite_numbers(series)}
        case Kind.BOOLEAN:
            return {"value": _truth(series)}
        case Kind.DATE:
            times = parse_dates(series, day_first)
            days = ((times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
            turn = 2 * np.pi * days / DAYS_PER_YEAR
            return {"days since 1970": days, "season, sine": np.sin(turn), "season, cosine": np.cos(turn)}
        case _:
            raise TableError(f"{table}: column '{series.name}' of kind {kind} holds no cells")


def _truth(series: pd.Series) -> npt.NDArray[np.float64]:
    if pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series):
        return finite_numbers(series)
    words = series.astype("str").str.strip().str.lower().where(series.notna())
    truth = {**dict.fromkeys((*TRUE_WORDS, "1", "1.0"), 1.0), **dict.fromkeys((*FALSE_WORDS, "0", "0.0"), 0.0)}
    return np.asarray(words.map(truth).to_numpy(dtype=np.float64, na_value=np.nan))


def _words(series: pd.Series) -> pd.Series:
    """Return categories as words, missing ones missing, whole numbers without a fraction."""
    words = series.astype("str").where(series.notna())
    return words.str.strip().str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def _codes(series: pd.Series, categories: Sequence[str]) -> npt.NDArray[np.int64]:
    places = pd.Index(list(categories), dtype="str").get_indexer(pd.Index(_words(series), dtype="str")).astype(np.int64)
    return np.where(series.isna(), MISSING, np.where(places < 0, UNSEEN, places + FIRST))
