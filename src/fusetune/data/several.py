"""Cells that hold several pictures or texts, and the elements of a table's rows as a table of their own.

A cell with several is a list (of a Parquet column, or a Python list or array in a DataFrame), a list that was written
down as words, or paths of pictures with semicolons between them. `Schema.read` makes tuples of all of these.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.carried import is_absent, is_picture
from fusetune.data.paths import DATA_ADDRESS, names_picture
from fusetune.data.table import Table, with_columns
from fusetune.errors import TableError, clipped, listed

SEPARATOR = ";"
# The share of texts that must be lists which were written down, where they are to be read as such.
_MOST = 0.9
Places = npt.NDArray[np.int64]


def is_list(value: object) -> bool:
    """Return whether a cell holds several values."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and not is_picture(value)
    return isinstance(value, list | tuple)


def is_part(value: object) -> bool:
    """Return whether something is a picture, a path or a text, of which a cell can hold several."""
    return isinstance(value, str | PathLike) or is_picture(value)


def are_parts(cell: Any) -> bool:
    """Return whether a list holds pictures, paths or texts and nothing else, empty places aside."""
    return all(is_part(part) or is_absent(part) for part in cell)


def holds_lists(cells: pd.Series) -> bool:
    """Return whether some cells of a column are lists."""
    return cells.dtype == object and any(map(is_list, cells))


def separated(words: str, root: Path | None = None) -> list[str]:
    """Return the paths of pictures that words with semicolons hold; the words themselves where they are none.

    Args:
        words: The words.
        root: Folder that relative paths start from: a file there may have a semicolon in its name.
    """
    if SEPARATOR not in words or DATA_ADDRESS.match(words):
        return [words]
    parts = [part.strip() for part in words.split(SEPARATOR)]
    if not all(names_picture(part) for part in parts if part) or not any(parts):
        return [words]
    return [words] if root is not None and _is_file(root, words) else parts


def written_list(words: str) -> list[Any] | None:
    """Return the words that a list holds which was written down, as JSON or as Python prints it; None of others."""
    words = words.strip()
    if not (words.startswith("[") and words.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(words)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list) and all(isinstance(one, str | None) for one in found) else None
    return None


def holds_several(cells: pd.Series, pictures: bool, root: Path) -> bool:
    """Return whether some cell of a column of pictures or texts holds several of them, or could."""
    if cells.dtype == object and any(is_list(cell) and are_parts(cell) for cell in cells):
        return True
    words = pd.Series([cell for cell in cells if isinstance(cell, str)], dtype="str").drop_duplicates()
    written = words.map(lambda word: written_list(word) is not None).astype(bool)
    # A text in brackets among others is a text; a path in brackets is none.
    if (pictures and written.any()) or (len(words) and written.mean() >= _MOST):
        return True
    return pictures and any(len(separated(word, root)) > 1 for word in words[words.str.contains(SEPARATOR)])


def parts_of(cell: Any, pictures: bool, root: Path | None = None) -> tuple[Any, ...]:
    """Return what a cell holds, one after the other, empty ones too; nothing for an empty cell.

    Raises:
        ValueError: If a list holds lists.
    """
    if is_list(cell):
        if any(is_list(part) for part in cell):
            raise ValueError("a list within a list")
        return tuple(cell)
    if is_absent(cell):
        return ()
    if isinstance(cell, str):
        if (found := written_list(cell)) is not None:
            return tuple(found)
        return tuple(separated(cell, root)) if pictures else (cell,)
    return (cell,)


def as_lists(table: Table, name: str, pictures: bool) -> pd.Series:
    """Return a column with a tuple in each cell, None where nothing is in it.

    Raises:
        TableError: If a list holds lists, naming the rows.
    """
    found: list[tuple[Any, ...] | None] = []
    wrong = []
    for row, cell in enumerate(table.column(name)):
        try:
            parts = parts_of(cell, pictures, table.root)
        except ValueError:
            wrong.append(table.number(row))
            continue
        found.append(None if all(map(is_absent, parts)) else parts)
    if wrong:
        raise TableError(
            f"column '{name}' of {table.name} holds lists within lists in row(s) {listed(wrong)}; put everything that "
            "belongs to a row into one list"
        )
    return pd.Series(as_objects(found), index=table.frame.index)


def as_objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Return values as an array of objects, whatever they are."""
    objects = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        objects[place] = value
    return objects


def joined_words(cells: pd.Series) -> pd.Series:
    """Return a column of lists of texts as one text a row, for whatever looks at texts without a model."""
    return cells.map(
        lambda cell: "\n".join(str(part) for part in cell if not is_absent(part)), na_action="ignore"
    ).astype("str")


def in_words(cell: Any) -> str:
    """Return a cell that holds several as words, for people."""
    parts = [clipped(str(part), 60) for part in cell if not is_absent(part)]
    return f"{SEPARATOR} ".join(parts)


@dataclass(frozen=True)
class Elements:
    """The pictures or texts of the rows of a table, equal words once.

    Attributes:
        table: A row for each element.
        index: Which element is at each place, int64 [places]; those of a row lie side by side, in the table's order.
        row: The row of each place, int64 [places], ascending.
        part: The number of the place in its cell, from 0, int64 [places].
        names: What to call each place within its row, in messages.
        rows: How many rows the table has.
    """

    table: Table
    index: Places
    row: Places
    part: Places
    names: list[str]
    rows: int

    @classmethod
    def of(cls, table: Table, columns: Sequence[str], name: str, beside: Iterable[str], what: str) -> Elements:
        """Take rows apart.

        Args:
            table: The rows.
            columns: Columns of pictures or of texts, that may hold several in a cell; all are of one kind.
            name: What the column of the elements is called.
            beside: Columns with something that is said of all elements of a row.
            what: What an element is, in words: picture or text.
        """
        beside = [one for one in beside if one in table.frame.columns]
        values: list[Any] = []
        first: list[int] = []
        seen: dict[Any, int] = {}
        index, row, part, names = list[int](), list[int](), list[int](), list[str]()
        said = [table.column(one).tolist() for one in beside]
        for at, cells in enumerate(zip(*(table.column(column) for column in columns), strict=True)):
            for column, cell in zip(columns, cells, strict=True):
                many = isinstance(cell, tuple)
                for place, value in enumerate(cell if many else (cell,)):
                    if is_absent(value):
                        continue
                    key = (value, *(str(one[at]) for one in said)) if isinstance(value, str) else len(values)
                    if (element := seen.setdefault(key, len(values))) == len(values):
                        values.append(value)
                        first.append(at)
                    index.append(element)
                    row.append(at)
                    part.append(place)
                    called = [column] if len(columns) > 1 else []
                    names.append(", ".join(called + ([f"{what} {place + 1} of {len(cell)}"] if many else [])))
        words = all(isinstance(value, str) for value in values)
        series = pd.Series(as_objects(values), dtype="str" if words else object)
        frame = table.frame[beside].iloc[first].reset_index(drop=True)
        apart = Table(with_columns(frame, {name: series}), table.name, table.root, unit=what)
        elements, owners, numbers = (np.array(some, dtype=np.int64) for some in (index, row, part))
        return cls(apart, elements, owners, numbers, names, len(table))

    def of_rows(self, rows: Places) -> Places:
        """Return the elements of some rows, each once, ascending."""
        return np.unique(self.index[np.isin(self.row, rows)])


def without_parts(cells: pd.Series, gone: Iterable[tuple[int, int]]) -> pd.Series:
    """Return a column of lists in which some parts are empty, each named by row and place in its list."""
    changed = cells.tolist()
    for row, place in gone:
        # Nothing may be left in the cell, if a place was named before.
        changed[row] = tuple(None if at == place else part for at, part in enumerate(changed[row] or ()))
    empty = [cell is not None and all(map(is_absent, cell)) for cell in changed]
    return pd.Series(as_objects([None if bare else cell for cell, bare in zip(changed, empty, strict=True)]))


def _is_file(root: Path, words: str) -> bool:
    try:
        return (root / words.strip()).is_file()
    except (OSError, ValueError):
        return False
