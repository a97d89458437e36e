"""What each column of a table is and does, found from its name and values, with the reason written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from fusetune.data.kinds import Kind, infer_kind, is_list
from fusetune.data.schema import Column, Role, Schema
from fusetune.data.table import Table
from fusetune.errors import SchemaError, TableError, did_you_mean, listed

_ID_NAME = re.compile(r"^(id|uid|uuid|index|row_?id|.*_(id|uid|uuid))$|^unnamed: 0$", re.IGNORECASE)
_ADVICE = "if its rows belong together, name it with --group; if it says something about a new row, with --inputs"


def infer_schema(
    table: Table,
    label: str | None,
    *,
    inputs: Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
) -> Schema:
    """Infer every column's kind and role.

    Args:
        table: The table.
        label: Column to predict.
        inputs: Columns to use; default: all that are not label, group, split or an id. Vector groups are always used.
        kinds: Kinds that are given rather than inferred.
        vectors: Name -> pattern such as ``{"mrna": "mrna__*"}``: number columns that together form one vector.
        group: Column whose rows belong together (patient, video).
        split: Column that says train, valid or test.
        row_id: Column that identifies rows; default: a column named like an id with unique values.

    Raises:
        TableError: If a named column does not exist or a kind is unknown.
        SchemaError: If a vector group has no columns or holds something other than numbers, or a column would have
            two uses.
    """
    given = {name: _kind(name, kind) for name, kind in (kinds or {}).items()}
    groups = {name: _matching(table, name, pattern) for name, pattern in (vectors or {}).items()}
    chosen = None if inputs is None else {name for name in inputs if name not in groups}
    for name in [*given, *sorted(chosen or ())]:
        table.column(name)
    roles = _roles(table, {"label": label, "group": group, "split": split, "id": row_id})
    grouped = _grouped(groups, roles)
    for name in sorted(chosen or ()):
        if name in roles:
            raise SchemaError(f"column '{name}' is the {roles[name]} column and cannot be an input too")
    columns = []
    for name in table.frame.columns:
        if name in grouped:
            found = Column(name=name, kind=Kind.NUMBER, role="input", reason="part of a vector")
        elif name in roles:
            known = given.get(name)
            kind, reason, _ = infer_kind(table.frame[name]) if known is None else (known, "given", True)
            found = Column(name=name, kind=kind, role=roles[name], reason=f"{roles[name]} column; {reason}")
        else:
            found = _infer_column(table.frame[name], name, given.get(name), chosen, "id" in roles.values())
            roles[name] = found.role
        columns.append(found)
    return Schema(columns=columns, vectors=groups)


def _roles(table: Table, named: Mapping[Role, str | None]) -> dict[str, Role]:
    """Return the role of each column that was given one, refusing two for one column."""
    roles: dict[str, Role] = {}
    for role, name in named.items():
        if name is None:
            continue
        table.column(name)
        if name in roles:
            raise SchemaError(f"column '{name}' cannot be both {roles[name]} and {role}; name two columns")
        _refuse_lists(table, name, role)
        roles[name] = role
    return roles


def _refuse_lists(table: Table, name: str, role: Role) -> None:
    """Refuse a column of single answers that holds lists, which cannot be compared or counted."""
    series = table.frame[name]
    if series.dtype == object and (nested := np.flatnonzero(series.map(pd.api.types.is_list_like))).size:
        raise TableError(
            f"{role} column '{name}' of {table.name} holds {str(series.iloc[nested[0]])[:40]} in row {nested[0]}: it "
            "needs words or numbers, not lists"
        )


def _grouped(groups: Mapping[str, list[str]], roles: Mapping[str, Role]) -> set[str]:
    """Return the columns of all vector groups, refusing those that are spoken for: a label would tell the answer."""
    found: set[str] = set()
    for group, columns in groups.items():
        for name in columns:
            if name in roles:
                raise SchemaError(f"--vectors {group}: its pattern also matches the {roles[name]} column '{name}'")
            if name in found:
                raise SchemaError(f"--vectors {group}: column '{name}' is already part of another vector")
            found.add(name)
    return found


def _infer_column(series: pd.Series, name: str, given: Kind | None, chosen: set[str] | None, has_id: bool) -> Column:
    kind, reason, usable = (given, "given", True) if given else infer_kind(series)
    if given is None and kind is Kind.NUMBER and usable and _ID_NAME.match(name):
        kind, reason = Kind.CATEGORY, "named like an id, so its numbers are names"
    if chosen is not None:
        role: Role = "input" if name in chosen else "unused"
        if role == "unused" and not has_id and _looks_like_id(series, name):
            role, reason = "id", "named like an id, all values differ"
        return Column(name=name, kind=kind, role=role, reason=reason if role != "unused" else f"not chosen; {reason}")
    if given is None and _looks_like_id(series, name):
        return Column(
            name=name,
            kind=kind,
            role="unused" if has_id else "id",
            reason="named like an id, all values differ",
        )
    if given is None and usable and _names_things(series, name, kind):
        return Column(name=name, kind=kind, role="unused", reason=f"named like an id: {_ADVICE}")
    return Column(name=name, kind=kind, role="input" if usable else "unused", reason=reason)


def _looks_like_id(series: pd.Series, name: str) -> bool:
    if not _ID_NAME.match(name) or series.isna().any():
        return False
    return not any(is_list(value) for value in series.head(1)) and not series.map(str).duplicated().any()


def _names_things(series: pd.Series, name: str, kind: Kind) -> bool:
    """Return whether a column named like an id has too many values to say anything about a row that is new."""
    many = max(20, 0.05 * len(series))
    return bool(_ID_NAME.match(name)) and kind in (Kind.CATEGORY, Kind.NUMBER) and series.map(str).nunique() > many


def _kind(name: str, kind: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        known = [str(k) for k in Kind]
        raise TableError(
            f"kind '{kind}' of column '{name}' is unknown{did_you_mean(kind, known)}; known: {listed(known, 9)}"
        ) from None


def _matching(table: Table, name: str, pattern: str) -> list[str]:
    found = [column for column in table.frame.columns if fnmatchcase(column, pattern)]
    if not found:
        raise SchemaError(f"--vectors {name}={pattern}: no column of {table.name} matches '{pattern}'")
    wrong = [column for column in found if not pd.api.types.is_numeric_dtype(table.frame[column])]
    if wrong:
        raise SchemaError(f"--vectors {name}={pattern}: column(s) {listed(wrong)} do not hold numbers")
    return found
