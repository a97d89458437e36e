"""What of a table could not be used: a text for each row, and one warning or error for who never looks at the rows.

Every input keeps the problems of its rows. Here they are counted by column, so that a table that is written in another
way than the one that a model was trained on shows at once, and not only to who reads a column of texts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.absent import Lacking
from fusetune.data.choices import OnProblem
from fusetune.data.schema import COLUMNS, Modality
from fusetune.data.table import Table
from fusetune.errors import ConfigError, ImageError, InputWarning, TableError, clipped, listed

_BARE = "no input is present, only class frequencies are left"
_LETTERS = 160


class Notes(Protocol):
    """What is known of the rows of an input: a `Source`, or what is left of one."""

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Whether the row has it, bool [rows]."""

    @property
    def problems(self) -> dict[int, str]:
        """What could not be read, by row position."""

    @property
    def unseen(self) -> dict[int, str]:
        """What was read and says nothing to the model."""


@dataclass(frozen=True)
class Noted:
    """The notes of several pieces of one input, one after the other."""

    present: npt.NDArray[np.bool_]
    problems: dict[int, str]
    unseen: dict[int, str]

    @classmethod
    def joined(cls, pieces: Sequence[Notes]) -> Noted:
        """Put notes one after the other."""
        found, start = cls(np.concatenate([piece.present for piece in pieces]), {}, {}), 0
        for piece in pieces:
            found.problems.update({row + start: text for row, text in piece.problems.items()})
            found.unseen.update({row + start: text for row, text in piece.unseen.items()})
            start += len(piece.present)
        return found


@dataclass(frozen=True)
class Unused:
    """The cells of one column that have a problem.

    Attributes:
        column: Its name; that of the input where an input is several columns.
        texts: What is wrong, by the row's number; never empty.
        filled: How many rows have something in this column.
        lost: Whether it holds pictures, and none of them could be read.
        read: Whether all of it could be read, and says what no training row does.
    """

    column: str
    texts: dict[int, str]
    filled: int
    lost: bool
    read: bool = False

    @property
    def most(self) -> bool:
        """Whether this is most of the column, and not one cell alone."""
        return 1 < len(self.texts) > self.filled / 2

    def __str__(self) -> str:
        shown = clipped(next(iter(self.texts.values())), _LETTERS)
        text = f"{self.column}: {len(self.texts):,} of {self.filled:,} cells, row(s) {listed(self.texts)}: {shown}"
        return text + (" (is this column written as it was for training?)" if self.most and not self.lost else "")


@dataclass(frozen=True)
class Problems:
    """What could not be used of some rows.

    Attributes:
        rows: What is wrong with each row, empty where nothing is.
        columns: The same by column.
        others: The same, of what is no cell: rows without any input.
        lacking: What the table lacks in every row.
    """

    rows: list[str]
    columns: list[Unused]
    others: list[str]
    lacking: list[str]

    @classmethod
    def of(
        cls,
        table: Table,
        modalities: Mapping[str, Modality],
        sources: Mapping[str, Notes],
        lacking: Lacking | None = None,
        start: int = 0,
    ) -> Problems:
        """Gather what the sources of a table say.

        Args:
            table: The rows.
            modalities: The inputs by name.
            sources: What was read of them.
            lacking: Inputs and columns that are not in the table.
            start: The number of the first row, where the rows are a piece of a table.
        """
        gone, others = [] if lacking is None else lacking.lines(), list[str]()
        texts = [gone.copy() for _ in range(len(table))]
        every = Modality(table.name, "columns", tuple(table.frame.columns))
        columns = _unused(table, table.problems, every, np.ones(len(table), dtype=bool), start)
        for row, text in table.problems.items():
            texts[row].append(text)
        for name, source in sources.items():
            found = _noted(source)
            for row, text in found.items():
                texts[row].append(f"{name}: {text}")
            columns += _unused(table, source.problems, modalities[name], source.present, start)
            columns += _unused(table, source.unseen, modalities[name], source.present, start, read=True)
        bare = np.flatnonzero(~np.any([source.present for source in sources.values()], axis=0))
        for row in map(int, bare):
            texts[row].append(_BARE)
        if len(bare):
            others.append(f"{_BARE}: {len(bare):,} row(s), {listed(bare + start)}")
        return cls(["; ".join(several) for several in texts], columns, others, gone)

    def tell(self, table: Table, on_problem: OnProblem, *, listing: bool, notes: Sequence[str] = ()) -> None:
        """Warn of problems, or refuse them.

        Args:
            table: What it is called, and where its relative paths start.
            on_problem: `warn`; `raise`: any problem is an error; `mask`: what cannot be used counts as absent, and
                nothing is said.
            listing: The caller hands out `rows`: only columns that are mostly unused are worth a warning.
            notes: What else is to be said, whatever becomes of problems.

        Raises:
            ImageError: If no picture of a column could be read, unless masks were asked for.
            TableError: If problems are refused, and there are some.
        """
        refuse_choice(on_problem)
        if on_problem != "mask":
            self._refuse_lost(table)
        # A rare category is nothing odd; that most are unknown is.
        columns = [it for it in self.columns if on_problem == "raise" or not it.read or it.most]
        everything = on_problem == "raise" or not listing
        cells = [*columns, *self.others] if everything else [it for it in self.columns if it.most]
        problems = [] if on_problem == "mask" else [*self.lacking, *cells]
        lines = "".join(f"\n  - {line}" for line in [*notes, *problems])
        if not lines:
            return
        counted = f" {sum(map(bool, self.rows)):,} of {len(self.rows):,} rows have a problem:" if problems else ""
        remedy = "\nPredictions as a table say it for each row; on_problem=mask accepts it." if problems else ""
        if on_problem == "raise":
            raise TableError(f"{table.name}:{counted}{lines}\nMend the table; on_problem=warn says this and goes on.")
        warn(f"{table.name}:{counted}{lines}{remedy}")

    def _refuse_lost(self, table: Table) -> None:
        lost = [f"\n  - {it}" for it in self.columns if it.lost]
        if lost:
            file = "" if table.index is None else "give the path of the table's file instead of a DataFrame, or "
            raise ImageError(
                f"{table.name}: no picture can be read at all:{''.join(lost)}\nRelative paths start from {table.root}; "
                f"{file}make the paths absolute. on_problem=mask predicts without the pictures."
            )


def refuse_choice(on_problem: str) -> None:
    """Refuse a word that is none of `OnProblem`.

    Raises:
        ConfigError: Naming it.
    """
    if on_problem not in get_args(OnProblem):
        raise ConfigError(f"on_problem is '{on_problem}', but must be one of {listed(get_args(OnProblem))}")


def ids_with_notes(table: Table, column: str | None) -> tuple[pd.Series, list[str]]:
    """Return the rows' ids as a table has them, repeated and empty ones too, and what is to be said of them."""
    if column is None or column not in table.frame.columns:
        # The answers to a DataFrame carry its index.
        lost = column is not None and table.index is None
        return table.ids(None), [f"no id column '{column}': row_id is the row's number, from 0"] if lost else []
    ids, notes = table.ids(column, unique=False), []
    if (empty := ids.isna()).any():
        notes.append(f"id column '{column}' is empty in row(s) {listed(np.flatnonzero(empty))}, and so is row_id")
    twice = ids.duplicated(keep=False) & ~empty
    if twice.any():
        notes.append(
            f"id column '{column}' repeats {listed(ids[twice].unique())}, {twice.sum():,} rows in all; row_id keeps "
            "them, so join predictions by their order"
        )
    return ids, notes


def warn(text: str) -> None:
    """Issue an `InputWarning` that names the line outside of this package which asked."""
    frame, package = sys._getframe(), __name__.partition(".")[0]
    for level in count(1):
        if frame.f_back is None or frame.f_globals["__name__"].partition(".")[0] != package:
            warnings.warn(text, InputWarning, stacklevel=level)
            return
        frame = frame.f_back


def _noted(source: Notes) -> dict[int, str]:
    """Return what could not be read of an input, and what its model never learnt, by row."""
    notes = dict(source.problems)
    for row, text in source.unseen.items():
        notes[row] = f"{notes[row]}; {text}" if row in notes else text
    return notes


def _unused(
    table: Table,
    notes: Mapping[int, str],
    modality: Modality,
    present: npt.NDArray[np.bool_],
    start: int,
    read: bool = False,
) -> list[Unused]:
    """Return the problems of an input by column."""
    found: dict[str, dict[int, str]] = {}
    for row, text in notes.items():
        for column in _named(text, modality):
            inside = f"; {text}".partition(f"; {column}: ")[2] if modality.kind == COLUMNS else ""
            found.setdefault(column, {})[row] = inside or text
    unused = []
    for column, texts in found.items():
        cells = modality.kind == COLUMNS and column in modality.columns
        there = table.frame[column].notna().to_numpy() if cells else present
        filled = len(np.union1d(np.flatnonzero(there), list(texts)))
        lost = modality.kind == "image" and len(texts) > 1 and not present.any()
        unused.append(Unused(column, {row + start: text for row, text in texts.items()}, filled, lost, read))
    return unused


def _named(text: str, modality: Modality) -> list[str]:
    """Return the columns that a problem of an input speaks of."""
    if modality.kind != COLUMNS:
        return [modality.name]
    return [name for name in modality.columns if f"; {name}: " in f"; {text}"] or [modality.name]
