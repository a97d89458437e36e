"""What a table file says, found without fusetune: a reader of separated values, and how cells are compared.

The reader knows nothing but RFC 4180 and one rule beyond it: a quotation mark that does not enclose a whole cell is a
letter. It is short and slow on purpose, since what it says is what fusetune's own readers are judged by.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from _trials import WrongError

# What stands for a missing cell where it is not quoted, as pandas has it.
_ABSENT = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell: its letters, and whether quotation marks enclosed them."""

    word: str
    quoted: bool = False


Rows = list[list[Cell]]


def read_separated(text: str, separator: str) -> tuple[Rows, bool]:
    """Return the records of a text, and whether it keeps to RFC 4180 (but for the number of cells)."""
    mark = re.escape(separator)
    enclosed = re.compile(rf'"((?:[^"]|"")*+)"(?=[{mark}\r\n]|\Z)')
    plain = re.compile(rf"[^{mark}\r\n]*+")
    ending = re.compile("\r\n|\r|\n")
    rows: Rows = []
    cells: list[Cell] = []
    place, strict = 0, True
    while place < len(text) or cells:
        if found := enclosed.match(text, place):
            cells.append(Cell(found[1].replace('""', '"'), quoted=True))
        else:
            found = plain.match(text, place)
            assert found is not None
            cells.append(Cell(found[0]))
            strict = strict and '"' not in found[0]
        place = found.end()
        if text.startswith(separator, place):
            place += 1
            if place < len(text):
                continue
            cells.append(Cell(""))
        rows.append(cells)
        cells = []
        if end := ending.match(text, place):
            place = end.end()
    return rows, strict


def records(rows: Rows) -> tuple[list[Cell], list[Rows]]:
    """Return the header, and the rows below it: of several columns without empty lines, of one column in both ways.

    Nobody can say whether the empty lines at the end of a file of one column are rows.
    """
    filled = next((place for place, row in enumerate(rows) if not _blank(row)), len(rows))
    header, below = (rows[filled], rows[filled + 1 :]) if filled < len(rows) else ([], [])
    if len(header) > 1:
        return header, [[row for row in below if not _blank(row)]]
    shorter = list(below)
    while shorter and _blank(shorter[-1]):
        shorter.pop()
    return header, [below[:stop] for stop in range(len(shorter), len(below) + 1)]


def _blank(row: list[Cell]) -> bool:
    return row == [Cell("")]


def compare(frame: pd.DataFrame, header: Sequence[Cell], ways: Sequence[Rows], exact: bool) -> None:
    """Compare a table that was read with the ways in which it can be understood.

    Args:
        frame: What was read.
        header: Cells of the header.
        ways: Rows of cells, in each way.
        exact: Must cells be equal, or only but for quotation marks?

    Raises:
        WrongError: If it is none of them.
    """
    found: WrongError | None = None
    for rows in ways:
        try:
            _compare(frame, header, rows, exact)
        except WrongError as error:
            # Cells that differ say more than numbers of rows that differ.
            found = error if found is None or found.kind == "rows" else found
        else:
            return
    raise found or WrongError("rows", f"{len(frame)} rows were read of a file that has none")


def _compare(frame: pd.DataFrame, header: Sequence[Cell], rows: Rows, exact: bool) -> None:
    if len(frame) != len(rows):
        raise WrongError("rows", f"{len(frame)} rows were read, the file has {len(rows)}")
    if len(frame.columns) != len(header) or any(len(row) != len(header) for row in rows):
        raise WrongError("columns", f"{len(frame.columns)} columns were read, the file has {len(header)}")
    for place, cell in enumerate(header):
        name = str(frame.columns[place])
        if cell.word.strip() and header_name(name, exact) != header_name(cell.word, exact):
            raise WrongError("changed", f"column {cell.word!r} became {name!r}")
        _compare_column(frame.iloc[:, place], [row[place] for row in rows], name, exact)


def header_name(word: str, exact: bool = True) -> str:
    """Return a column's name without what does not make it another: spaces at its ends, invisible letters, accents."""
    plain = unicodedata.normalize("NFC", re.sub("[\u200b\u2060\ufeff]", "", word)).replace("\u00a0", " ").strip()
    return plain if exact else plain.replace('"', "").strip()


def _compare_column(values: pd.Series, cells: Sequence[Cell], name: str, exact: bool) -> None:
    numeric = pd.api.types.is_numeric_dtype(values.dtype)
    for row, (value, cell) in enumerate(zip(values.tolist(), cells, strict=True)):
        if not _same(value, cell, numeric, exact):
            raise WrongError("changed", f"row {row} of {name!r}: {cell.word[:80]!r} became {_short(value)}")


def _same(value: Any, cell: Cell, numeric: bool, exact: bool) -> bool:
    word = cell.word
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        # A quoted NA is a word, unless all its column is of numbers.
        return word.strip() in _ABSENT and (not cell.quoted or not word or numeric)
    if isinstance(value, str):
        return value == word or (not exact and value.replace('"', "") == word.replace('"', ""))
    word = word if exact else word.replace('"', "")
    if isinstance(value, bool | np.bool_):
        return word.lower() == str(value).lower()
    # A number, which must print back to the word that it was.
    return word in {str(value), repr(float(value)), *([str(int(value))] if float(value).is_integer() else [])}


def _short(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:80]!r}"


def equal(value: Any, truth: Any) -> bool:
    """Return whether a cell of a typed format holds what was written into it."""
    if truth is None or truth is pd.NaT:
        return value is None or (np.ndim(value) == 0 and bool(pd.isna(value)))
    if isinstance(truth, dict):
        there = {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else None
        wanted = {key: each for key, each in truth.items() if each is not None}
        return there is not None and there.keys() == wanted.keys() and all(equal(there[k], wanted[k]) for k in wanted)
    if isinstance(truth, list):
        return (
            isinstance(value, list | tuple | np.ndarray) and len(value) == len(truth) and all(map(equal, value, truth))
        )
    if isinstance(truth, bool):
        return isinstance(value, bool | np.bool_) and bool(value) == truth
    if isinstance(truth, int):
        return (
            _is_number(value)
            and (not isinstance(value, float | np.floating) or math.isfinite(value))
            and (bool(int(value) == truth and value == truth))
        )
    if isinstance(truth, float):
        return _is_number(value) and bool(value == truth or (math.isnan(truth) and math.isnan(value)))
    return type(value) is not bool and bool(value == truth)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
