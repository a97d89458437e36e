"""What each column of a table is and does, found from its name and values, with the reason written down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import pandas as pd

from fusetune.data.carried import are_pictures, is_picture
from fusetune.data.kinds import Kind, infer_kind, is_list
from fusetune.data.paths import lead_to_pictures
from fusetune.data.roles import Roles
from fusetune.data.schema import Column, Role, Schema
from fusetune.data.table import Table
from fusetune.errors import SchemaError, TableError, did_you_mean, listed

_ID_NAME = re.compile(r"^(id|uid|uuid|index|row_?id|.*_(id|uid|uuid))$|^unnamed: 0$", re.IGNORECASE)
_UNIQUE = "named like an id, all values differ"
_ADVICE = "if its rows belong together, name it with --group; if it says something about a new row, with --inputs"


def infer_schema(table: Table, roles: Roles, confined: bool = False) -> Schema:
    """Infer every column's kind and role from what is said of some.

    Words that end like no image file are looked up as paths; with `confined`, in the table's folder only.

    Raises:
        TableError: If a named column does not exist or a kind is unknown.
        SchemaError: If a vector group has no columns or holds something other than numbers, or a column would have
            two uses.
    """
    kinds = {name: _kind(name, kind) for name, kind in (roles.kinds or {}).items()}
    vectors = {name: _matching(table, name, pattern) for name, pattern in (roles.vectors or {}).items()}
    inputs = None if roles.inputs is None else {name for name in roles.inputs if name not in vectors}
    for name in [*kinds, *sorted(inputs or ())]:
        table.column(name)
    role_of = _role_of(table, roles)
    members = _members(vectors, role_of)
    for name in sorted(inputs or ()):
        if name in role_of:
            raise SchemaError(f"column '{name}' is the {role_of[name]} column and cannot be an input too")
    columns = []
    for name in table.frame.columns:
        if name in members:
            column = Column(name=name, kind=Kind.NUMBER, role="input", reason="part of a vector")
        elif name in role_of:
            kind, reason, _ = (kinds[name], "given", True) if name in kinds else infer_kind(table.frame[name])
            column = Column(name=name, kind=kind, role=role_of[name], reason=f"{role_of[name]} column; {reason}")
        else:
            asked = kinds.get(name)
            if asked is not None and asked is not Kind.IMAGE and are_pictures(table.frame[name]):
                raise TableError(f"column '{name}' of {table.name} holds pictures, which are no {asked}")
            column = _infer_column(table.frame[name], name, asked, inputs, "id" in role_of.values())
            if asked is None and _leads_to_pictures(column, table, confined):
                role: Role = "input" if inputs is None or name in inputs else "unused"
                why = "the files that the values name are pictures"
                column = Column(name=name, kind=Kind.IMAGE, role=role, reason=why)
            role_of[name] = column.role
        columns.append(column)
    return Schema(columns=columns, vectors=vectors)


def _leads_to_pictures(column: Column, table: Table, confined: bool) -> bool:
    """Return whether a column of words, without the suffixes of image files, names files that are pictures."""
    words = table.frame[column.name].dropna()
    if column.kind not in (Kind.CATEGORY, Kind.TEXT) or not isinstance(words.dtype, pd.StringDtype):
        return False
    return lead_to_pictures(words, table.root, confined)


def _role_of(table: Table, roles: Roles) -> dict[str, Role]:
    """Return the role of each column that was named for one, refusing two for one column."""
    role_of: dict[str, Role] = {}
    for role, name in roles.named().items():
        table.column(name)
        if name in role_of:
            raise SchemaError(f"column '{name}' cannot be both {role_of[name]} and {role}; name two columns")
        _refuse_lists(table, name, role)
        role_of[name] = role
    return role_of


def _refuse_lists(table: Table, name: str, role: Role) -> None:
    """Refuse a column of single answers that holds lists, which cannot be compared or counted."""
    series = table.frame[name]
    if series.dtype != object:
        return
    for row, value in enumerate(series):
        if pd.api.types.is_list_like(value) or is_picture(value):
            raise TableError(
                f"{role} column '{name}' of {table.name} holds {str(value)[:40]} in row {row}: it needs words or "
                "numbers, not lists or pictures"
            )


def _members(vectors: Mapping[str, list[str]], role_of: Mapping[str, Role]) -> set[str]:
    """Return the columns of all vectors, refusing those that are spoken for: a label would tell the answer."""
    members: set[str] = set()
    for vector, columns in vectors.items():
        for name in columns:
            if name in role_of:
                raise SchemaError(f"--vectors {vector}: its pattern also matches the {role_of[name]} column '{name}'")
            if name in members:
                raise SchemaError(f"--vectors {vector}: column '{name}' is already part of another vector")
            members.add(name)
    return members


def _infer_column(series: pd.Series, name: str, asked: Kind | None, inputs: set[str] | None, has_id: bool) -> Column:
    """Describe a column that was named for no role.

    Args:
        series: Its values.
        name: Its name.
        asked: Its kind, where the user says so.
        inputs: The columns that the user chose, if so.
        has_id: Is there a column already that identifies rows?
    """
    kind, reason, usable = (asked, "given", True) if asked else infer_kind(series)
    if asked is None and kind is Kind.NUMBER and usable and _ID_NAME.match(name):
        kind, reason = Kind.CATEGORY, "named like an id, so its numbers are names"
    role: Role = "input" if usable else "unused"
    if inputs is not None:
        if name in inputs:
            role = "input"
        elif not has_id and _looks_like_id(series, name):
            role, reason = "id", _UNIQUE
        else:
            role, reason = "unused", f"not chosen; {reason}"
    elif asked is None and _looks_like_id(series, name):
        role, reason = "unused" if has_id else "id", _UNIQUE
    elif asked is None and usable and _names_things(series, name, kind):
        role, reason = "unused", f"named like an id: {_ADVICE}"
    return Column(name=name, kind=kind, role=role, reason=reason)


def _looks_like_id(series: pd.Series, name: str) -> bool:
    if not _ID_NAME.match(name) or series.isna().any():
        return False
    if any(is_list(value) or is_picture(value) for value in series.head(1)):
        return False
    return not series.map(str).duplicated().any()


def _names_things(series: pd.Series, name: str, kind: Kind) -> bool:
    """Return whether a column named like an id has too many values to say anything about a row that is new."""
    many = max(20, 0.05 * len(series))
    return bool(_ID_NAME.match(name)) and kind in (Kind.CATEGORY, Kind.NUMBER) and series.map(str).nunique() > many


def _kind(name: str, kind: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise TableError(
            f"kind '{kind}' of column '{name}' is unknown{did_you_mean(kind, Kind)}; known: {listed(Kind, 9)}"
        ) from None


def _matching(table: Table, name: str, pattern: str) -> list[str]:
    columns = [column for column in table.frame.columns if fnmatchcase(column, pattern)]
    if not columns:
        raise SchemaError(f"--vectors {name}={pattern}: no column of {table.name} matches '{pattern}'")
    wrong = [column for column in columns if not pd.api.types.is_numeric_dtype(table.frame[column])]
    if wrong:
        raise SchemaError(f"--vectors {name}={pattern}: column(s) {listed(wrong)} do not hold numbers")
    return columns
