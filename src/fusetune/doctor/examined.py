"""The table as the checks look at it: labels, groups and parts as numbers, and a sample where all rows are too many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.choices import CELL_KINDS, Kind, TargetKind
from fusetune.data.schema import Role, Schema
from fusetune.data.several import joined_words
from fusetune.data.spelling import as_words
from fusetune.data.split import Rows, Split, part_codes, seeded_order
from fusetune.data.table import Table, with_columns
from fusetune.data.words import finite_numbers
from fusetune.doctor.findings import INFERRED, Certainty, Finding, Severity
from fusetune.targets import Multilabel, Regression
from fusetune.targets.multilabel import split_labels

# Models of the doctor are fitted on at most this many rows: enough for shares to be right to within a point (a
# standard error below .4 %), and the work no longer grows with the table.
SAMPLE = 20_000
FOLDS = 5
_SEED = 0
Codes = npt.NDArray[np.int64]
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Examined:
    """A table under examination.

    Attributes:
        table: The table.
        schema: What its columns are.
        ids: Row ids.
        labels: Class index per row, -1 where the label is missing; None without a label column.
        classes: Names of the classes.
        groups: Group index per row, -1 where missing; None without a group column.
        parts: Index into `PARTS` per row, -1 where unknown; None without a split.
        several: Columns of which a cell holds several pictures. Several texts are one here, one after the other.
        given: The table with its texts as they were, where it was made by `of`.
        numbers: Where the label is a number: it, NaN where missing; classes are then tenths of all rows.
    """

    table: Table
    schema: Schema
    ids: pd.Series
    labels: Codes | None
    classes: tuple[str, ...]
    groups: Codes | None
    parts: Codes | None
    several: frozenset[str] = frozenset()
    given: Table | None = None
    numbers: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, table: Table, schema: Schema) -> Examined:
        """Read label, group and split columns; nothing in them is refused here.

        Raises:
            TableError: If the id column has missing or repeated values.
        """
        label, group, split = (schema.named(role) for role in ("label", "group", "split"))
        numbers = None
        if label is not None and schema.target == Regression.kind:
            numbers = finite_numbers(table.column(label))
        labels, classes = (None, ()) if label is None else _label_codes(table.column(label), schema.target, numbers)
        groups = None if group is None else _codes(table.column(group))[0]
        parts = None if split is None else part_codes(table.column(split))
        lists = {c.name: c.kind for c in schema.inputs if c.several}
        texts = {name: joined_words(table.column(name)) for name, kind in lists.items() if kind is Kind.TEXT}
        plain = replace(table, frame=with_columns(table.frame, texts))
        several = frozenset(lists) - frozenset(texts)
        ids = table.ids(schema.named("id"))
        return cls(plain, schema, ids, labels, classes, groups, parts, several, table, numbers)

    def with_split(self, split: Split) -> Examined:
        """Return the table with a split that was made; rows that it does not know are in no part."""
        place = pd.Index(split.ids).get_indexer(pd.Index(self.ids))
        return replace(self, parts=np.where(place < 0, -1, split.part[place]).astype(np.int64))

    def names(self, rows: Iterable[Any]) -> tuple[str, ...]:
        """Return the ids of rows."""
        return tuple(self.ids.iloc[np.asarray(rows, dtype=np.int64)].tolist())

    def finding(
        self,
        kind: str,
        severity: Severity,
        what: str,
        remedy: str,
        rows: Any,
        columns: Names,
        /,
        certainty: Certainty | None = None,
        **evidence: Any,
    ) -> Finding:
        """Return a finding about rows, which are positions here; `what` says it in one sentence.

        Without a `certainty` it is that of its kind: sure, unless the kind infers something.
        """
        certainty = certainty or INFERRED.get(kind, "sure")
        return Finding(kind, severity, self.names(rows), columns, {"what": what, **evidence}, remedy, certainty)

    def about(
        self, kind: str, severity: Severity, what: str, remedy: str, rows: Any, columns: Names, /, **evidence: Any
    ) -> list[Finding]:
        """Return the finding about rows, whose number begins the sentence; none without rows."""
        what, evidence = f"{len(rows):,} {what}", {"count": len(rows), **evidence}
        return [self.finding(kind, severity, what, remedy, rows, columns, **evidence)] if len(rows) else []

    def column_of(self, role: Role) -> Names:
        """Return the column of a role, or none."""
        column = self.schema.named(role)
        return () if column is None else (column,)

    def part(self, rows: Rows) -> Table:
        """Return a table of some rows."""
        return self.table.take(rows)

    def columns(self, *kinds: Kind) -> list[str]:
        """Return input columns of some kinds that are not part of a vector."""
        grouped = {name for names in self.schema.vectors.values() for name in names}
        return [c.name for c in self.schema.inputs if c.kind in kinds and c.name not in grouped]

    @property
    def vectors(self) -> list[list[str]]:
        """Columns of each vector."""
        return [*self.schema.vectors.values(), *([name] for name in self.columns(Kind.VECTOR))]

    @property
    def cells(self) -> list[str]:
        """Input columns that hold numbers, categories, truth values or dates."""
        return self.columns(*CELL_KINDS)

    @cached_property
    def units(self) -> Codes:
        """Index of the independent unit of each row: its group, or the row itself."""
        rows = np.arange(len(self.ids), dtype=np.int64)
        if self.groups is None:
            return rows
        return np.where(self.groups < 0, self.groups.max() + 1 + rows, self.groups)

    @cached_property
    def folds(self) -> Codes:
        """Fold of each row, 0 to 4, whole groups at a time."""
        return self._numbers[self.units] % FOLDS

    @cached_property
    def sample(self) -> Rows:
        """Rows that the doctor's models see: all, or whole groups (but the last) up to `SAMPLE` rows."""
        if len(self.ids) <= SAMPLE:
            return np.arange(len(self.ids), dtype=np.int64)
        order = np.lexsort([self.units, self._numbers[self.units]])
        return np.sort(order[:SAMPLE]).astype(np.int64)

    @cached_property
    def _numbers(self) -> Codes:
        # Numbers below 2**40, so that a remainder is as good as uniform.
        order = seeded_order(pd.Series(np.arange(int(self.units.max()) + 1)), _SEED)
        return (order.view(np.uint64) >> np.uint64(24)).astype(np.int64)


def _label_codes(
    series: pd.Series, kind: TargetKind, numbers: npt.NDArray[np.float64] | None
) -> tuple[Codes, tuple[str, ...]]:
    """Return what rows are told apart by: classes, tenths of a number, or the sets of labels that rows have."""
    if numbers is not None:
        codes = np.full(len(numbers), -1, dtype=np.int64)
        known = np.isfinite(numbers)
        if not known.any():
            return codes, ()
        codes[known] = Regression("").strata(numbers[known])
        tenths = [numbers[codes == at] for at in range(int(codes.max()) + 1)]
        return codes, tuple(f"{some.min():.4g} to {some.max():.4g}" if len(some) else "" for some in tenths)
    if kind == Multilabel.kind:
        cells = [split_labels(cell) for cell in series]
        words = ["" if cell is None else ";".join(sorted(cell)) or "[]" for cell in cells]
        there = np.array([cell is not None for cell in cells], dtype=bool)
        return _codes(pd.Series(words, dtype="str").where(there))
    return _codes(series)


def _codes(series: pd.Series) -> tuple[Codes, tuple[str, ...]]:
    codes, names = pd.factorize(as_words(series), sort=True)
    return codes.astype(np.int64), tuple(map(str, names))
