"""Rows of a request as a table for the model: known columns only, each cell of a kind that its column can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fusetune.data.choices import Kind
from fusetune.data.schema import Column, Schema
from fusetune.errors import clipped, did_you_mean
from fusetune.serve.options import Options
from fusetune.serve.pictures import picture
from fusetune.serve.refusal import RefusedError

_LONGEST_LIST, _LONGEST_TEXT, _LARGEST, _MOST_PARTS = 100_000, 100_000, 2**63, 1000
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a request says: its rows, and the files that came with it, by name."""

    rows: Sequence[Row]
    uploads: Mapping[str, bytes]


def frame_of(asked: Asked, schema: Schema, options: Options) -> pd.DataFrame:
    """Return the rows as a table with every input column of a model; what a row does not say is an empty cell.

    Raises:
        RefusedError: If there are too few or many rows, one is no object, or a cell cannot be what its column holds.
    """
    if not asked.rows:
        raise RefusedError(422, "there are no rows; send at least one")
    if len(asked.rows) > options.rows:
        raise RefusedError(413, f"{len(asked.rows):,} rows are more than the {options.rows:,} that a request may have")
    known = {column.name: column for column in schema.columns}
    for number, row in enumerate(asked.rows):
        _check_names(number, row, known)
    return pd.DataFrame(
        {
            column.name: _cells(column, asked, schema, options)
            for column in schema.columns
            if column.role == "input" or column.name == schema.gather or _is_id(column, asked)
        }
    )


def _is_id(column: Column, asked: Asked) -> bool:
    return column.role == "id" and any(column.name in row for row in asked.rows)


def _check_names(number: int, row: Any, known: Mapping[str, Column]) -> None:
    if not isinstance(row, Mapping):
        raise RefusedError(422, f"row {number} is no object with the names of columns")
    strangers = [name for name in row if name not in known]
    if strangers:
        hint = did_you_mean(clipped(strangers[0], 60), known)
        more = f" and {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
        raise RefusedError(
            422,
            f"row {number}: the model knows no column '{clipped(strangers[0], 60)}'{more}{hint or '; see /v1/model'}",
        )
    if not any(known[name].role == "input" for name in row):
        raise RefusedError(422, f"row {number} has none of the columns that the model reads; see /v1/model")


def _cells(column: Column, asked: Asked, schema: Schema, options: Options) -> pd.Series:
    grouped = {name for group in schema.vectors.values() for name in group}
    kind = Kind.NUMBER if column.name in grouped else column.kind
    cells: list[Any] = []
    for number, row in enumerate(asked.rows):
        place, value = f"row {number}, column '{column.name}'", row.get(column.name)
        if column.name == schema.gather:  # rows without a name are not gathered
            cells.append(f"row {number}" if value is None else str(_word(value, place, "a name")))
        elif column.role == "id":
            cells.append(_word(value, place, "an id"))
        elif column.several and isinstance(value, list):
            cells.append([_part(one, kind, asked, options, place) for one in value[:_MOST_PARTS]])
            if len(value) > _MOST_PARTS:
                raise RefusedError(422, f"{place}: {len(value):,} parts are more than {_MOST_PARTS:,}")
        elif kind is Kind.IMAGE:
            cells.append(picture(value, asked.uploads, options, place))
        else:
            cells.append(_cell(value, kind, place))
    return _series(cells, kind)


def _part(value: Any, kind: Kind, asked: Asked, options: Options, place: str) -> Any:
    """Return one of the pictures or texts of a cell."""
    found = picture(value, asked.uploads, options, place) if kind is Kind.IMAGE else _cell(value, kind, place)
    if found is None:
        raise RefusedError(422, f"{place} holds nothing at one place of its list")
    return found


def _series(cells: Sequence[Any], kind: Kind) -> pd.Series:
    if kind is Kind.NUMBER and not any(isinstance(cell, str) for cell in cells):
        return pd.Series(cells, dtype="float64")
    if all(isinstance(cell, str | None) for cell in cells):
        return pd.Series(cells, dtype="str")
    return pd.Series(cells, dtype=object).infer_objects()


def _cell(value: Any, kind: Kind, place: str) -> Any:
    """Return a cell as the model's table holds it.

    Raises:
        RefusedError: If it cannot be of its column's kind.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise RefusedError(422, f"{place}: {value} is no number; leave the cell out, or send null, where it is missing")
    match kind:
        case Kind.VECTOR:
            return _vector(value, place)
        case Kind.TEXT | Kind.DATE:
            if value is not None and not isinstance(value, str):
                raise RefusedError(422, f"{place} must be a word (a JSON string), not {_shown(value)}")
            return _letters(value, place)
        case Kind.NUMBER:
            if isinstance(value, bool) or not isinstance(value, int | float | str | None):
                raise RefusedError(422, f"{place} must be a number, not {_shown(value)}")
            _refuse_large(value, place)
            return float(value) if isinstance(value, int) else _letters(value, place)
        case Kind.BOOLEAN:
            if not isinstance(value, bool | int | float | str | None):
                raise RefusedError(422, f"{place} must be true or false, not {_shown(value)}")
            _refuse_large(value, place)
            return _letters(value, place)
        case _:
            # An empty word: that it is missing was said on purpose, and is no word that a reader of files dropped.
            return "" if value is None else _word(value, place, "a category")


def _word(value: Any, place: str, what: str) -> Any:
    if not isinstance(value, str | bool | int | float | None):
        raise RefusedError(422, f"{place} must be {what} (a word or a number), not {_shown(value)}")
    _refuse_large(value, place)
    return _letters(value, place)


def _letters(value: Any, place: str) -> Any:
    """Return a cell whose letters, if it is a word, are not too many, and whole."""
    if not isinstance(value, str):
        return value
    if len(value) > _LONGEST_TEXT:
        raise RefusedError(422, f"{place}: {len(value):,} letters are more than {_LONGEST_TEXT:,}; send fewer")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RefusedError(422, f"{place} holds half a character (U+D800 to U+DFFF); send whole ones") from None
    return value


def _refuse_large(value: Any, place: str) -> None:
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise RefusedError(422, f"{place}: a number of more than 64 bits")


def _vector(value: Any, place: str) -> Any:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _LONGEST_LIST:
        raise RefusedError(422, f"{place} must be a list of numbers, not {_shown(value)}")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise RefusedError(422, f"{place} must be a list of finite numbers, but holds {_shown(number)}")
        _refuse_large(number, place)
    return [float(number) for number in value]


def _shown(value: Any) -> str:
    match value:
        case list():
            return f"a list of {len(value):,}"
        case dict():
            return "an object"
        case None:
            return "null"
        case _:
            return f"'{clipped(str(value), 40)}'"
