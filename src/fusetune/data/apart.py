"""Which datasets can be read a few rows at a time to the cells that they have when they are read at once.

A column's own type (numbers, truth values, dates) says how it is written in every row. Words do not: whether 03/04/2020
begins with the day, or whether a column holds durations, shows in all of its rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from fusetune.data.choices import Kind
from fusetune.data.delimited import MISSING_WORDS, NAMES_OR_MISSING
from fusetune.data.schema import SEVERAL_KINDS, Column, Schema

_TYPES = pa.types
_NUMBERS = (_TYPES.is_integer, _TYPES.is_floating)
_WORDS = (_TYPES.is_string, _TYPES.is_large_string)
_PICTURES = (*_WORDS, _TYPES.is_binary, _TYPES.is_large_binary, _TYPES.is_struct)
# Types of which every row means the same whatever the others hold, by what the model takes the column for.
_APART = {
    Kind.NUMBER: _NUMBERS,
    Kind.BOOLEAN: (_TYPES.is_boolean, *_NUMBERS),
    Kind.DATE: (_TYPES.is_timestamp, _TYPES.is_date),
    Kind.CATEGORY: (*_WORDS, _TYPES.is_boolean, *_NUMBERS),
    Kind.TEXT: _WORDS,
    Kind.IMAGE: _PICTURES,
    Kind.VECTOR: (_TYPES.is_list, _TYPES.is_large_list, _TYPES.is_fixed_size_list),
}
_NAMES = (*_WORDS, *_NUMBERS)
_REMEDY = "give it a type of its own in the files"


def why_together(
    types: Mapping[str, pa.DataType], schema: Schema, spacings: Iterable[str], known: Mapping[str, Iterable[str]]
) -> str | None:
    """Return why a dataset must be read at once for a model, in words; None where its rows stand alone.

    Args:
        types: Type of each column of the dataset.
        schema: The columns of the model.
        spacings: Columns with the size of a pixel.
        known: Categories that were learnt, by column.
    """
    if schema.gather is not None:
        return f"rows with the same '{schema.gather}' are one row, wherever they stand"
    for column in schema.inputs:
        if column.name in types and not _stands_alone(types[column.name], column):
            return f"how column '{column.name}' ({types[column.name]}) is written shows in all rows only; {_REMEDY}"
    for name in spacings:
        if name in types and not any(fits(types[name]) for fits in _NUMBERS):
            return f"how column '{name}' ({types[name]}) is written shows in all rows only; {_REMEDY}"
    ids = types.get(schema.named("id") or "")
    if ids is not None and not any(fits(ids) for fits in _NAMES):
        return f"how ids of type {ids} are written shows in all rows only; {_REMEDY}"
    for name, words in known.items():
        if lost := {*MISSING_WORDS, *NAMES_OR_MISSING} & set(words):
            return f"whether an empty cell of column '{name}' is the word {min(lost)} shows in all rows only"
    shared = [name for name, columns in schema.shared.items() if schema.kind_of(columns[0]) is Kind.TEXT]
    return f"equal texts of '{shared[0]}' are read once" if shared else None


def _stands_alone(kind: pa.DataType, column: Column) -> bool:
    if column.several:  # of texts, equal ones are read once, wherever they stand
        return column.kind is Kind.IMAGE and column.kind in SEVERAL_KINDS
    return any(fits(kind) for fits in _APART[column.kind])
