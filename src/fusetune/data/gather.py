"""A long table made wide: several rows with one id become one row, and their pictures and texts lists in its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.carried import is_absent
from fusetune.data.imprint import content_of
from fusetune.data.several import parts_of
from fusetune.data.spelling import as_words
from fusetune.data.table import Table, with_columns
from fusetune.errors import TableError, clipped, listed

_SHOWN = 2


def gathered(table: Table, column: str, lists: Mapping[str, bool], constant: Iterable[str]) -> Table:
    """Return a table with one row for each id, in the order in which the ids first occur.

    Pictures and texts that differ within an id are gathered in the order of the rows, each once. Other columns must
    have one value for each id, empty cells aside; what has several and is not used becomes empty.

    Args:
        table: The rows; where no id is repeated it is returned as it is.
        column: The column of ids.
        lists: Columns of pictures (True) and texts (False).
        constant: Other columns that are used.

    Raises:
        TableError: If an id is missing, or a column that is used has several values for one id.
    """
    ids = as_words(table.names(column))
    if ids.isna().any():
        rows = listed(np.flatnonzero(ids.isna().to_numpy()))
        raise TableError(
            f"{table.name}: the column '{column}', by which rows are gathered, is empty in row(s) {rows}; fill it in"
        )
    codes, names = pd.factorize(ids)
    if len(names) == len(ids):
        return table
    first = np.unique(codes, return_index=True)[1]
    used = set(constant)
    columns: dict[str, Any] = {}
    for name in map(str, table.frame.columns):
        cells = table.frame[name]
        if name in lists:
            columns[name] = _lists(cells, codes, len(names), lists[name], table)
        elif name != column:
            columns[name] = _constant(table, name, codes, names, refuse=name in used)
    few = table.take(first)
    problems = dict[int, str]()
    for row, text in table.problems.items():
        at = int(codes[row])
        problems[at] = f"{problems[at]}; {text}" if at in problems else text
    index = None if table.index is None else pd.Index(table.frame[column].iloc[first], name=column)
    return replace(few, frame=with_columns(few.frame, columns), index=index, problems=problems)


def _lists(cells: pd.Series, codes: npt.NDArray[np.int64], count: int, pictures: bool, table: Table) -> pd.Series:
    """Return what each id has of a column: a single picture or text as it was, several as a tuple."""
    found: list[dict[Any, Any]] = [{} for _ in range(count)]
    for row, (code, cell) in enumerate(zip(codes.tolist(), cells, strict=True)):
        try:
            parts = parts_of(cell, pictures, table.root)
        except ValueError:
            parts = (cell,)  # said where lists are read
        for place, part in enumerate(parts):
            if not is_absent(part):
                found[code].setdefault(part if isinstance(part, str) else (row, place), part)
    gathered = np.empty(count, dtype=object)
    for code, parts_by_key in enumerate(found):
        parts = tuple(parts_by_key.values())
        gathered[code] = None if not parts else parts[0] if len(parts) == 1 else parts
    words = all(cell is None or isinstance(cell, str) for cell in gathered)
    return pd.Series(gathered, dtype="str" if words else object)


def _constant(table: Table, name: str, codes: npt.NDArray[np.int64], names: pd.Index, refuse: bool) -> pd.Series:
    cells = table.frame[name]
    there = np.flatnonzero(cells.notna().to_numpy())
    # The first row of each id that has a value, or its first row.
    chosen = np.unique(codes, return_index=True)[1]
    owners, at = np.unique(codes[there], return_index=True)
    chosen[owners] = there[at]
    meant = pd.Series(_meanings(cells.iloc[there]))
    several = meant.groupby(codes[there]).nunique()
    clashes = several.index[several > 1]
    if len(clashes) and refuse:
        code = clashes[0]
        values = listed([clipped(str(value), 40) for value in _firsts(cells.iloc[there[codes[there] == code]])], 3)
        more = f", and so have {len(clashes) - 1:,} more" if len(clashes) > 1 else ""
        raise TableError(
            f"{table.name}: rows of '{names[code]}' are gathered into one, but have different values in column "
            f"'{name}' ({values}){more}; make them one, or leave the column out with --inputs"
        )
    result = cells.iloc[chosen].reset_index(drop=True)
    return result.mask(np.isin(np.arange(len(names)), clashes)) if len(clashes) else result


def _meanings(cells: pd.Series) -> list[Any]:
    """Return what each cell says, so that equal ones are equal whatever type carries them."""
    if cells.dtype == object:
        return [content_of(cell) for cell in cells]
    return as_words(cells).tolist()


def _firsts(cells: pd.Series) -> list[Any]:
    firsts = ~pd.Series(_meanings(cells)).duplicated().to_numpy()
    return cells.iloc[np.flatnonzero(firsts)[: _SHOWN + 1]].tolist()
