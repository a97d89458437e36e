"""What the training rows looked like, as counts: later tables are compared with them, and no row's value is kept.

Numbers are counted between deciles of the training rows, dates as days, texts by their letters, categories by name (the
frequent ones, each of many rows), everything also where it is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

from fusetune.data.choices import Kind
from fusetune.data.images import has_picture
from fusetune.data.schema import Schema
from fusetune.data.spelling import as_words
from fusetune.data.split import group_words
from fusetune.data.table import Table
from fusetune.data.words import day_order, days, finite_numbers, truth
from fusetune.evaluate.metrics import FloatArray, IntArray

_CUTS = np.linspace(0, 1, 11)
_MOST_WORDS, _FEWEST_ROWS = 30, 5
_MOST_CLASSES = 50
What = Literal["numbers", "words", "letters", "presence"]


class Counted(BaseModel):
    """One column.

    Attributes:
        column: Its name.
        what: What is counted: numbers, words, the number of letters, or presence alone.
        cuts: Upper bounds of the counts of numbers; the last is unbounded.
        words: Words that are counted by name; all others together come behind them.
        counts: Training rows by these, and last those where the cell is missing.
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    what: What
    cuts: list[float] = []
    words: list[str] = []
    counts: list[int]

    @model_validator(mode="after")
    def _fits(self) -> Counted:
        size = {
            "numbers": len(self.cuts) + 2,
            "letters": len(self.cuts) + 2,
            "words": len(self.words) + 2,
            "presence": 2,
        }
        if len(self.counts) != size[self.what] or min(self.counts) < 0:
            raise ValueError(f"counts of column '{self.column}' are not those of its {self.what}")
        if not np.isfinite(self.cuts).all() or sorted(self.cuts) != self.cuts:
            raise ValueError(f"bounds of column '{self.column}' are no numbers in order")
        return self

    def of(self, table: Table, kind: Kind) -> IntArray:
        """Count the rows of a table in the same way, int [counts]."""
        codes = _coded(self, table, kind)
        return np.bincount(codes, minlength=len(self.counts))

    def name(self, place: int) -> str:
        """Return what one of the counts is of, in words."""
        if place == len(self.counts) - 1:
            return "missing"
        if self.what == "presence":
            return "present"
        if self.what == "words":
            return f"'{self.words[place]}'" if place < len(self.words) else "other words"
        unit = " letters" if self.what == "letters" else ""
        if place == 0:
            return f"at most {self.cuts[0]:.4g}{unit}" if self.cuts else "any number"
        if place == len(self.cuts):
            return f"above {self.cuts[-1]:.4g}{unit}"
        return f"{self.cuts[place - 1]:.4g} to {self.cuts[place]:.4g}{unit}"


class Profile(BaseModel):
    """The training rows of a model, and how it decided rows that it was not trained on.

    Attributes:
        rows: Training rows.
        groups: Groups of them; None: rows are independent.
        columns: Every input column.
        decided: Class by which held-out rows were decided (first) and class that they are of -> rows; empty where the
            classes are many.
        held: Held-out rows.
        held_groups: Groups of them.
    """

    model_config = ConfigDict(extra="forbid")
    rows: int
    groups: int | None
    columns: list[Counted]
    decided: list[list[int]] = []
    held: int = 0
    held_groups: int | None = None

    @classmethod
    def learn(
        cls,
        table: Table,
        schema: Schema,
        decided: IntArray,
        labels: IntArray,
        classes: int,
        held_groups: int | None,
    ) -> Profile:
        """Count the training rows.

        Args:
            table: These rows.
            schema: What the columns are.
            decided: Decisions on held-out rows.
            labels: Their labels.
            classes: Number of classes.
            held_groups: How many groups they are of.
        """
        matrix = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(matrix, (decided, labels), 1)
        columns = [_learnt(table, column.name, schema.kind_of(column.name)) for column in schema.inputs]
        few = classes <= _MOST_CLASSES
        return cls(
            rows=len(table), groups=group_count(table, schema), columns=columns,
            decided=matrix.tolist() if few else [], held=len(labels), held_groups=held_groups,
        )  # fmt: skip

    def middle(self, column: str) -> tuple[float, float] | None:
        """Return between which numbers four fifths of a column's training cells lie, as far as deciles tell.

        None where the column is no number, or was empty.
        """
        one = next((one for one in self.columns if one.column == column), None)
        if one is None or one.what != "numbers" or not one.cuts:
            return None
        below = np.cumsum(one.counts[:-2])
        low, high = np.searchsorted(below, np.array([0.1, 0.9]) * below[-1])
        return one.cuts[low], one.cuts[high]

    def check(self, inputs: Sequence[str], classes: int) -> None:
        """Refuse counts of other columns or classes.

        Raises:
            ValueError: Naming them.
        """
        if not {one.column for one in self.columns} <= set(inputs):
            raise ValueError("training rows are counted by columns that are no inputs")
        if self.decided and np.shape(self.decided) != (classes, classes):
            raise ValueError(f"decisions are not counted for {classes} classes")


def group_count(table: Table, schema: Schema) -> int | None:
    """Return how many groups the rows of a table are of, or None where it does not say."""
    column = schema.named("group")
    if column is None or column not in table.frame.columns or table.frame[column].isna().any():
        return None
    return int(group_words(table.frame[column], table.ids(None)).nunique())


def _learnt(table: Table, name: str, kind: Kind) -> Counted:
    cells, none = table.column(name), [0, 0]
    match kind:
        case Kind.IMAGE | Kind.VECTOR:
            bare = Counted(column=name, what="presence", counts=none)
        case Kind.CATEGORY:
            common = as_words(table.names(name)).value_counts()
            common = common[common >= _FEWEST_ROWS]
            words = sorted(map(str, common.index), key=lambda word: (-common[word], word))[:_MOST_WORDS]
            bare = Counted(column=name, what="words", words=words, counts=[0] * (len(words) + 2))
        case _:
            values = _values(cells, kind)
            values = values[~np.isnan(values)]
            cuts: list[float] = []
            if len(values):
                inner = np.quantile(values, _CUTS, method="inverted_cdf")
                # Numbers below the least and above the largest are counted by themselves.
                cuts = [float(cut) for cut in np.unique([np.nextafter(inner[0], -np.inf), *inner])]
            what: What = "letters" if kind is Kind.TEXT else "numbers"
            bare = Counted(column=name, what=what, cuts=cuts, counts=[0] * (len(cuts) + 2))
    return bare.model_copy(update={"counts": bare.of(table, kind).tolist()})


def _coded(one: Counted, table: Table, kind: Kind) -> IntArray:
    """Return which of the counts each row adds to."""
    cells, last = table.column(one.column), len(one.counts) - 1
    if one.what == "presence":
        has = has_picture(cells) if kind is Kind.IMAGE else cells.notna().to_numpy()
        return np.where(has, 0, last)
    if one.what == "words":
        words = as_words(table.names(one.column, one.words))
        places = pd.Index(one.words, dtype="str").get_indexer(pd.Index(words, dtype="str"))
        return np.where(words.isna(), last, np.where(places < 0, len(one.words), places))
    values = _values(cells, kind)
    return np.where(np.isnan(values), last, np.searchsorted(one.cuts, values, side="left"))


def _values(cells: pd.Series, kind: Kind) -> FloatArray:
    """Return what is counted of each cell, NaN where it is missing."""
    match kind:
        case Kind.TEXT:
            words = as_words(cells)
            return np.asarray(words.str.len().to_numpy(dtype=np.float64, na_value=np.nan))
        case Kind.BOOLEAN:
            return np.asarray(truth(cells))
        case Kind.DATE:
            order: Any = day_order(cells)
            return np.asarray(days(cells, "month" if order in (None, "mixed") else order))
        case _:
            return np.asarray(finite_numbers(cells))
