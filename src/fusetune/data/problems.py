"""What of a table could not be used: a text for each row, and one warning or error for who never looks at the rows.

Every input keeps the problems of its rows. Here they are counted by column, so that a table that is written in another
way than the one that a model was trained on shows at once, and not only to who reads a column of texts.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.absent import Lacking
from fusetune.data.choices import OnProblem
from fusetune.data.schema import COLUMNS, Modality
from fusetune.data.table import Table, row_keys
from fusetune.errors import ConfigError, ImageError, InputWarning, TableError, clipped, listed

_BARE = "no input is present, only class frequencies are left"
_LETTERS = 160
_KEPT = 5  # rows that are named, of however many


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
class Unused:
    """The cells of one column that have a problem.

    Attributes:
        column: Its name; that of the input where an input is several columns.
        input: The input that says so; empty for the table itself.
        texts: What is wrong, by the row's number; never empty. Where pieces were joined, of the first rows.
        count: How many rows have one.
        filled: How many rows have something in this column.
        bare: Of them, those that have nothing but the problem, such as a picture that cannot be read.
        lost: Whether it holds pictures, and none of them could be read.
        read: Whether all of it could be read, and says what no training row does.
    """

    column: str
    input: str
    texts: dict[int, str]
    count: int
    filled: int
    bare: int
    lost: bool
    read: bool = False

    @property
    def most(self) -> bool:
        """Whether this is most of the column, and not one cell alone."""
        return 1 < self.count > self.filled / 2

    def __str__(self) -> str:
        shown = clipped(next(iter(self.texts.values())), _LETTERS)
        rows = listed(self.texts, beyond=self.count - len(self.texts))
        text = f"{self.column}: {self.count:,} of {self.filled:,} cells, row(s) {rows}: {shown}"
        return text + (" (is this column written as it was for training?)" if self.most and not self.lost else "")


@dataclass(frozen=True)
class Problems:
    """What could not be used of some rows.

    Attributes:
        rows: What is wrong with each row, empty where nothing is; of pieces that were joined, nothing.
        columns: The same by column.
        bare: The numbers of rows without any input; where pieces were joined, of the first of them.
        lacking: What the table lacks in every row.
        counts: How many rows there are (`rows`), have a problem (`marked`) and are without any input (`bare`).
        cells: How many rows have something in each column.
        present: How many rows have each input.
        pictures: Inputs that are pictures.
    """

    rows: list[str]
    columns: list[Unused]
    bare: list[int]
    lacking: list[str]
    counts: dict[str, int]
    cells: dict[str, int]
    present: dict[str, int]
    pictures: list[str]

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
        gone = [] if lacking is None else lacking.lines()
        texts = [gone.copy() for _ in range(len(table))]
        every = Modality(table.name, "columns", tuple(table.frame.columns))
        columns = _unused(table, table.problems, every, np.ones(len(table), dtype=bool), start, itself=True)
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
        rows = ["; ".join(several) for several in texts]
        return cls(
            rows,
            columns,
            (bare + start).tolist(),
            gone,
            {"rows": len(rows), "marked": sum(map(bool, rows)), "bare": len(bare)},
            {str(name): int(there) for name, there in table.frame.notna().sum().items()},
            {name: int(source.present.sum()) for name, source in sources.items()},
            [name for name in sources if modalities[name].kind == "image"],
        )

    @classmethod
    def joined(cls, pieces: Sequence[Problems]) -> Problems:
        """Count the problems of pieces of a table together; what is held does not grow with the rows."""
        first = pieces[0]
        counts, cells, present = (
            _summed([getattr(piece, name) for piece in pieces]) for name in ("counts", "cells", "present")
        )
        order = ["", *present]
        found: dict[tuple[int, bool, str], list[Unused]] = {}
        for piece in pieces:
            for it in piece.columns:
                found.setdefault((order.index(it.input), it.read, it.column), []).append(it)
        columns = []
        for (place, read, column), several in sorted(found.items(), key=lambda item: item[0][:2]):
            name = order[place]
            texts = dict(islice(chain.from_iterable(it.texts.items() for it in several), _KEPT))
            count, bare = sum(it.count for it in several), sum(it.bare for it in several)
            lost = name in first.pictures and count > 1 and not present[name]
            filled = (present[name] if name and column == name else cells.get(column, counts["rows"])) + bare
            columns.append(Unused(column, name, texts, count, filled, bare, lost, read))
        few = list(islice(chain.from_iterable(piece.bare for piece in pieces), _KEPT))
        return cls([], columns, few, first.lacking, counts, cells, present, first.pictures)

    def as_facts(self) -> dict[str, Any]:
        """Return what `of_facts` makes the same of, as JSON can hold it; but for `rows`."""
        facts = asdict(self) | {"rows": []}
        return facts | {"columns": [it | {"texts": list(it["texts"].items())} for it in facts["columns"]]}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Problems:
        """Return what `as_facts` was asked of."""
        columns = [Unused(**{**it, "texts": dict(it["texts"])}) for it in facts["columns"]]
        return cls(**{**facts, "columns": columns})

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
        count, marked, whole = (self.counts[name] for name in ("bare", "marked", "rows"))
        others = [f"{_BARE}: {count:,} row(s), {listed(self.bare, beyond=count - len(self.bare))}"] if count else []
        cells = [*columns, *others] if everything else [it for it in self.columns if it.most]
        problems = [] if on_problem == "mask" else [*self.lacking, *cells]
        lines = "".join(f"\n  - {line}" for line in [*notes, *problems])
        if not lines:
            return
        counted = f" {marked:,} of {whole:,} rows have a problem:" if problems else ""
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
        return table.ids(None), [no_ids(column)] if lost else []
    ids = table.ids(column, unique=False)
    return ids, id_notes(column, lambda: [ids])


def no_ids(column: str | None) -> str:
    """Return what is said where a table lacks the column of ids."""
    return f"no id column '{column}': row_id is the row's number, from 0"


def id_notes(column: str, pieces: Callable[[], Iterable[pd.Series]]) -> list[str]:
    """Return what is to be said of ids that are empty or repeated.

    Args:
        column: Their column.
        pieces: Yields the ids piece by piece, and again when it is asked again; 8 bytes are held of each.
    """
    keys, first, empty, rows = [np.zeros(0, np.int64)], list[int](), 0, 0
    for ids in pieces():
        gone = np.flatnonzero(ids.isna())
        first += (gone + rows).tolist()[: _KEPT - len(first)]
        keys.append(row_keys(ids.dropna()))
        empty, rows = empty + len(gone), rows + len(ids)
    notes = []
    if empty:
        notes.append(
            f"id column '{column}' is empty in row(s) {listed(first, beyond=empty - len(first))}, and so is row_id"
        )
    found, counts = np.unique(np.concatenate(keys), return_counts=True)
    twice = found[counts > 1]
    if len(twice):
        names = listed(_first_named(pieces(), twice), beyond=max(0, len(twice) - _KEPT))
        notes.append(
            f"id column '{column}' repeats {names}, {counts[counts > 1].sum():,} rows in all; row_id keeps "
            "them, so join predictions by their order"
        )
    return notes


def _first_named(pieces: Iterable[pd.Series], keys: npt.NDArray[np.int64]) -> list[str]:
    """Return the first few ids that have one of these keys."""
    found: dict[str, None] = {}
    for ids in pieces:
        there = ids.dropna()
        found |= dict.fromkeys(there[np.isin(row_keys(there), keys)])
        if len(found) >= _KEPT:
            break
    return list(found)[:_KEPT]


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


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
    itself: bool = False,
) -> list[Unused]:
    """Return the problems of an input by column; `itself`: of the table, which is no input."""
    found: dict[str, dict[int, str]] = {}
    for row, text in notes.items():
        for column in _named(text, modality):
            inside = f"; {text}".partition(f"; {column}: ")[2] if modality.kind == COLUMNS else ""
            found.setdefault(column, {})[row] = inside or text
    unused = []
    for column, texts in found.items():
        cells = modality.kind == COLUMNS and column in modality.columns
        there = table.frame[column].notna().to_numpy() if cells else present
        bare = int((~there[list(texts)]).sum())
        lost = modality.kind == "image" and len(texts) > 1 and not present.any()
        name, numbered = "" if itself else modality.name, {row + start: text for row, text in texts.items()}
        unused.append(Unused(column, name, numbered, len(texts), int(there.sum()) + bare, bare, lost, read))
    return unused


def _named(text: str, modality: Modality) -> list[str]:
    """Return the columns that a problem of an input speaks of."""
    if modality.kind != COLUMNS:
        return [modality.name]
    return [name for name in modality.columns if f"; {name}: " in f"; {text}"] or [modality.name]
