"""Table cells as numbers and codes (the modality `columns`): scaling and vocabularies fitted on the training part.

Numbers, booleans and dates become standardised numbers beside a missing flag. Categories become codes: 0 missing, 1 not
seen in training, 2 and up the categories. Categories that occur once in training share code 1, so that it is trained.
A category is a word as it is written. Where all of a column's words are numbers as these are printed, they may arrive
as numbers too, and 1.0 is 1: whole numbers turn into fractions where a cell of their column is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fusetune.data.choices import Kind
from fusetune.data.delimited import MISSING_WORDS, NAMES_OR_MISSING
from fusetune.data.source import notes_of, row_digests
from fusetune.data.spelling import folded, printed, tidied
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.data.words import (
    FARTHEST,
    Order,
    are_durations,
    day_order,
    days,
    finite_numbers,
    open_order,
    parse_dates,
    prints_back,
    truth,
)
from fusetune.errors import TableError, clipped, listed

MISSING, UNSEEN, FIRST = 0, 1, 2
DAYS_PER_YEAR = 365.2425
_LONGEST = 60  # characters of a cell in a message


class Scale(BaseModel):
    """Training mean and standard deviation of one number."""

    model_config = ConfigDict(extra="forbid")
    column: str
    part: str
    mean: float
    std: float


class Vocabulary(BaseModel):
    """Training categories of one column, most frequent first.

    Attributes:
        column: Its name.
        categories: The categories that occurred more than once.
        exact: Are there words among the column's that look like numbers and would change if they became some, such as
            007 or 1.10? None: a model of an earlier version does not say.
        twins: Do several of its words mean one number, such as 7 and 007?
        gaps: Did it learn from a table that tells a missing cell from the word None, and were cells missing there?
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    categories: list[str]
    exact: bool | None = None
    twins: bool = False
    gaps: bool = False


class CellInput(BaseModel):
    """Fitted pre-processing of the modality `columns`."""

    model_config = ConfigDict(extra="forbid")
    kinds: dict[str, Kind]
    numbers: list[Scale]
    categories: list[Vocabulary]
    day_first: list[str] = []
    month_first: list[str] | None = None
    durations: list[str] | None = None

    @classmethod
    def fit(cls, table: Table, kinds: dict[str, Kind], train: Rows) -> CellInput:
        """Learn scales and vocabularies from the training rows, and how dates are written from all.

        Raises:
            TableError: If two dates of a column contradict each other about the order of day and month.
        """
        scales, vocabularies, orders = [], [], {}
        for name, kind in kinds.items():
            if kind is Kind.CATEGORY:
                vocabularies.append(_vocabulary(table, name, train))
                continue
            cells = table.column(name)
            if kind is Kind.DATE:
                # Where no row tells, what comes first is taken to be the month, now and later.
                orders[name] = _order(table, name) or ("month" if open_order(cells).any() else None)
            for part, values in _numbers(cells.iloc[train], kind, table.name, orders.get(name)).items():
                present = values[~np.isnan(values)]
                mean, std = (float(present.mean()), float(present.std())) if len(present) else (0.0, 1.0)
                # Of equal numbers, rounding can leave a deviation that would blow up any other value.
                scales.append(Scale(column=name, part=part, mean=mean, std=std if std > 1e-9 * abs(mean) else 1.0))
        day_first, month_first = ([name for name in orders if orders[name] == first] for first in ("day", "month"))
        durations = [name for name, kind in kinds.items() if kind is Kind.NUMBER and are_durations(table.column(name))]
        return cls(
            kinds=kinds, numbers=scales, categories=vocabularies, day_first=day_first, month_first=month_first,
            durations=durations,
        )  # fmt: skip

    @property
    def cardinalities(self) -> list[int]:
        """Number of codes per category column."""
        return [FIRST + len(v.categories) for v in self.categories]

    def bind(self, table: Table) -> CellSource:
        """Apply the fitted pre-processing to a table.

        Raises:
            TableError: If a column's cells came in a form in which some of its categories cannot be told apart, or two
                dates of a column contradict each other.
        """
        parts = {
            name: _numbers(table.column(name), kind, table.name, self._order(table, name, kind))
            for name, kind in self.kinds.items()
            if kind is not Kind.CATEGORY
        }
        for name in parts:
            if self._is_of_another_unit(table.column(name), name):
                parts[name] = {"value": np.full(len(table), np.nan)}
        numbers = np.zeros((len(table), len(self.numbers)), dtype=np.float64)
        for i, scale in enumerate(self.numbers):
            numbers[:, i] = (parts[scale.column][scale.part] - scale.mean) / scale.std
        numbers[np.abs(numbers) > FARTHEST] = np.nan
        codes = np.zeros((len(table), len(self.categories)), dtype=np.int64)
        for i, vocabulary in enumerate(self.categories):
            codes[:, i] = _codes(table, vocabulary)
        source = CellSource.of(numbers.astype(np.float32), codes)
        for i, scale in enumerate(self.numbers):
            if [one.column for one in self.numbers].index(scale.column) == i:
                self._tell_unread(table, scale.column, np.isnan(numbers[:, i]), source)
        for i, vocabulary in enumerate(self.categories):
            _tell_unseen(table, vocabulary, codes[:, i], source)
        return source

    def _order(self, table: Table, name: str, kind: Kind) -> Order | None:
        """Return the order of day and month in a date column: what this table's rows show, else what was learnt."""
        if kind is not Kind.DATE:
            return None
        if self.month_first is None:  # an earlier version took every column for one of the two
            return "day" if name in self.day_first else "month"
        learnt: Order | None = "day" if name in self.day_first else "month" if name in self.month_first else None
        return _order(table, name) or learnt

    def _is_of_another_unit(self, cells: pd.Series, name: str) -> bool:
        """Return whether durations stand where numbers were learnt, whose unit nobody knows, or the reverse.

        An earlier version took both for days.
        """
        if self.kinds[name] is not Kind.NUMBER or self.durations is None:
            return False
        return are_durations(cells) != (name in self.durations)

    def _tell_unread(self, table: Table, name: str, missing: npt.NDArray[np.bool_], source: CellSource) -> None:
        """Note the cells of a column that hold something and count as missing."""
        cells, kind = table.column(name), self.kinds[name]
        unread = missing & cells.notna().to_numpy() & (cells.astype("str").str.strip() != "").to_numpy()
        if not unread.any():
            return
        unclear = open_order(cells) if kind is Kind.DATE else np.zeros(len(cells), dtype=bool)
        another = self._is_of_another_unit(cells, name)
        far = _readable(cells, kind) & (not another)
        expected = "duration" if name in (self.durations or ()) else kind
        for row in map(int, np.flatnonzero(unread)):
            why = f"is no {expected}"
            if unclear[row] or far[row]:
                why = (
                    "may begin with the day or the month" if unclear[row] else f"is too far from any {expected} learnt"
                )
            source.tell(
                source.problems, row, f"{name}: '{clipped(str(cells.iloc[row]), _LONGEST)}' {why} and counts as missing"
            )


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
    unseen: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def tell(notes: dict[int, str], row: int, text: str) -> None:
        """Add a remark on a row to those on others, and on its other cells."""
        notes[row] = f"{notes[row]}; {text}" if row in notes else text

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

    def some(self, rows: Rows) -> CellSource:
        """Return some rows; see `Source`."""
        cells = (self.numbers[rows], self.missing[rows], self.codes[rows])
        notes = (notes_of(self.problems, rows), notes_of(self.unseen, rows))
        return CellSource(*cells, self.present[rows], self.digests[rows], None, *notes)


def _numbers(series: pd.Series, kind: Kind, table: str, order: Order | None) -> dict[str, npt.NDArray[np.float64]]:
    """Return the number(s) that a cell stands for, NaN where it is missing."""
    match kind:
        case Kind.NUMBER:
            return {"value": finite_numbers(series)}
        case Kind.BOOLEAN:
            return {"value": truth(series)}
        case Kind.DATE:
            since = days(series, order)
            turn = 2 * np.pi * since / DAYS_PER_YEAR
            return {"days since 1970": since, "season, sine": np.sin(turn), "season, cosine": np.cos(turn)}
        case _:
            raise TableError(f"{table}: column '{series.name}' of kind {kind} holds no cells")


def _readable(cells: pd.Series, kind: Kind) -> npt.NDArray[np.bool_]:
    """Return which cells are numbers or dates at all, be they ever so large."""
    if kind is Kind.DATE:
        return parse_dates(cells, "month").notna().to_numpy()
    return (pd.to_numeric(cells, errors="coerce").notna() & (kind is Kind.NUMBER)).to_numpy(dtype=bool)


def _order(table: Table, name: str) -> Order | None:
    """Return which of day and month dates begin with, as this table shows, if it does."""
    cells = table.column(name)
    order = day_order(cells)
    if order == "mixed":
        rows = {day_order(cells.iloc[row : row + 1]): row for row in range(len(cells))}
        day, month = (f"'{cells.iloc[rows[first]]}' in row {rows[first]}" for first in ("day", "month"))
        raise TableError(
            f"{table.name}: column '{name}' has dates in two orders: {day} begins with the day and {month} with the "
            "month; write all of them as year-month-day"
        )
    return order


def _words(cells: pd.Series) -> pd.Series:
    """Return names as tidy words, missing where nothing is left of one; numbers as they are printed, 1.0 as 1."""
    words = tidied(printed(cells))
    return words.mask((words == "").to_numpy(dtype=bool))


def _whole(words: pd.Series) -> pd.Series:
    return words.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def _canonical(words: pd.Series, exact: bool, known: pd.Series) -> pd.Series:
    """Return words as numbers and truth values are printed, where that loses nothing of those that are known."""
    if len(known) and known.str.lower().isin(["true", "false"]).all():
        return words.str.capitalize()
    return words if exact else _whole(words)


def _exact(words: pd.Series) -> tuple[bool, bool]:
    """Return whether some words look like numbers and would change, or be equal, and are equal, if read as such."""
    words = words.drop_duplicates()
    numbers = words[pd.to_numeric(words, errors="coerce").notna()]
    twins = pd.to_numeric(numbers).nunique() < len(numbers)
    return twins or not numbers.map(prints_back).all(), twins


def _vocabulary(table: Table, name: str, train: Rows) -> Vocabulary:
    words = _words(table.names(name))
    exact, twins = _exact(words.dropna())
    words = _canonical(words, exact, words.dropna())
    counts = words.iloc[train].value_counts()
    # Equal counts in order of the alphabet, so that the codes do not depend on the order of the rows.
    common = sorted(counts[counts > 1].items(), key=lambda item: (-item[1], str(item[0])))
    gaps = not table.spelled and bool(words.iloc[train].isna().any())
    known = [str(word) for word, _ in common]
    return Vocabulary(column=name, categories=known, exact=exact, twins=twins, gaps=gaps)


def _codes(table: Table, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """Return the code of each row's category, refusing cells which another reader of the table has changed."""
    name, known = vocabulary.column, vocabulary.categories
    cells = table.names(name, known)
    words = _words(cells)
    words = _canonical(words, bool(vocabulary.exact), pd.Series(known, dtype="str"))
    words = words.mask(words.isin(list({*MISSING_WORDS, *NAMES_OR_MISSING} - set(known))))
    places = pd.Index(known, dtype="str").get_indexer(pd.Index(words, dtype="str")).astype(np.int64)
    if vocabulary.exact is not None:
        _refuse_changed(table, vocabulary, cells, words, words[(places < 0) & words.notna().to_numpy()])
    return np.where(words.isna(), MISSING, np.where(places < 0, UNSEEN, places + FIRST))


def _refuse_changed(
    table: Table, vocabulary: Vocabulary, cells: pd.Series, words: pd.Series, unseen: pd.Series
) -> None:
    name, known = vocabulary.column, vocabulary.categories
    remedy = "give the file's path, or read it with pandas.read_csv(..., dtype=str, keep_default_na=False)"
    if vocabulary.exact and _are_numbers(cells) and cells.notna().any():
        raise TableError(
            f"{table.name}: column '{name}' holds numbers such as {cells.dropna().iloc[0]}, but its categories are "
            f"words such as {listed([word for word in known if not prints_back(word)] or known, 3)}, which numbers "
            f"cannot hold; {remedy}"
        )
    if len(unseen):
        _refuse_twins(table, vocabulary, unseen, remedy)
    lost = [word for word in known if word in (*MISSING_WORDS, *NAMES_OR_MISSING)]
    suspect = bool(lost) and not table.spelled and not vocabulary.gaps
    if suspect and cells.isna().any() and not words.isin(lost).any():
        row = table.number(int(np.flatnonzero(cells.isna())[0]))
        raise TableError(
            f"{table.name}: column '{name}' is missing in row {row}, and the model knows the word {lost[0]}, which "
            f"pandas reads as missing; {remedy}, so that an empty cell is an empty word"
        )


def _refuse_twins(table: Table, vocabulary: Vocabulary, unseen: pd.Series, remedy: str) -> None:
    """Refuse words that were not learnt and mean the number of one that was."""
    name, known = vocabulary.column, vocabulary.categories
    numbers = pd.to_numeric(unseen.drop_duplicates(), errors="coerce").dropna()
    equal = pd.to_numeric(pd.Series(known, dtype="str"), errors="coerce").dropna()
    alike = numbers[numbers.isin(equal)]
    if len(alike) and not vocabulary.twins:
        word, twin = unseen[alike.index[0]], known[equal.index[equal == alike.iloc[0]][0]]
        raise TableError(
            f"{table.name}: column '{name}' holds '{word}' in row {table.number(alike.index[0])}, but the model learnt "
            f"'{twin}': zeros were lost or added when one of the two tables was read; {remedy}"
        )


def _are_numbers(cells: pd.Series) -> bool:
    if cells.dtype == object:
        return pd.api.types.infer_dtype(cells, skipna=True) in ("integer", "floating", "mixed-integer-float")
    return pd.api.types.is_numeric_dtype(cells)


def _tell_unseen(table: Table, vocabulary: Vocabulary, codes: npt.NDArray[np.int64], source: CellSource) -> None:
    """Note the cells with a category that was not met in training, or met once only."""
    rows = np.flatnonzero(codes == UNSEEN)
    if not len(rows):
        return
    near = {folded(word): word for word in vocabulary.categories}
    for row, word in zip(map(int, rows), _words(table.names(vocabulary.column).iloc[rows]), strict=True):
        twin = near.get(folded(str(word)))
        hint = f"; it knows '{twin}'" if twin else ""
        source.tell(
            source.unseen,
            row,
            f"{vocabulary.column}: '{clipped(str(word), _LONGEST)}' is no category that was learnt{hint}",
        )
