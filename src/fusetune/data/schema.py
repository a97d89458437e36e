"""What each column is: its kind and role, inferred with the reason written down, editable, and checked at prediction.

Columns become modalities. Every image column and every text column is a modality of its own; numbers, categories,
booleans and dates together are the modality `columns`; each group of vector columns is one more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from fusetune.data.table import Table
from fusetune.errors import SchemaError, TableError, did_you_mean, listed
from fusetune.files import write_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
COLUMNS = "columns"
TRUE_WORDS = frozenset({"true", "yes", "y", "t"})
FALSE_WORDS = frozenset({"false", "no", "n", "f"})
_ID_NAME = re.compile(r"^(id|uid|uuid|index|row_?id|.*_(id|uid|uuid))$|^unnamed: 0$", re.IGNORECASE)
_DATE_SHAPE = re.compile(r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}(:\d{2})?.*)?\s*$")
_SAMPLE = 2000


class Kind(StrEnum):
    """What the values of a column are."""

    IMAGE = "image"
    TEXT = "text"
    NUMBER = "number"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATE = "date"
    VECTOR = "vector"


CELL_KINDS = (Kind.NUMBER, Kind.CATEGORY, Kind.BOOLEAN, Kind.DATE)
Role = Literal["input", "label", "group", "split", "id", "unused"]


class Column(BaseModel):
    """One column's kind, role, and why."""

    model_config = ConfigDict(extra="forbid")
    name: str
    kind: Kind
    role: Role
    reason: str


@dataclass(frozen=True)
class Modality:
    """One input of the model: an encoder's worth of columns."""

    name: str
    kind: Literal["image", "text", "columns", "vector"]
    columns: tuple[str, ...]


class Schema(BaseModel):
    """The columns of a table as the model uses them (`schema.json`)."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    columns: list[Column]
    vectors: dict[str, list[str]] = {}

    def named(self, role: Role) -> str | None:
        """Return the column with this role, if there is one."""
        return next((c.name for c in self.columns if c.role == role), None)

    @property
    def inputs(self) -> list[Column]:
        """The columns that the model reads."""
        return [c for c in self.columns if c.role == "input"]

    def modalities(self) -> dict[str, Modality]:
        """Return the model's inputs by name: images, texts, `columns`, vectors, in this order.

        Raises:
            SchemaError: If no column is an input.
        """
        grouped = {name for columns in self.vectors.values() for name in columns}
        single = [c for c in self.inputs if c.name not in grouped]
        found = [Modality(c.name, "image", (c.name,)) for c in single if c.kind is Kind.IMAGE]
        found += [Modality(c.name, "text", (c.name,)) for c in single if c.kind is Kind.TEXT]
        cells = tuple(c.name for c in single if c.kind in CELL_KINDS)
        if cells:
            found.append(Modality(COLUMNS, "columns", cells))
        found += [Modality(c.name, "vector", (c.name,)) for c in single if c.kind is Kind.VECTOR]
        found += [Modality(name, "vector", tuple(columns)) for name, columns in self.vectors.items()]
        if not found:
            raise SchemaError("no column is left as an input; name some with --inputs")
        names = [m.name for m in found]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SchemaError(f"two inputs are called {listed(sorted(twice))}; rename a column or a vector group")
        return {m.name: m for m in found}

    def kind_of(self, name: str) -> Kind:
        """Return the kind of a column."""
        return next(c.kind for c in self.columns if c.name == name)

    def check(self, table: Table) -> None:
        """Check that a table has the input columns with the same kinds.

        Raises:
            SchemaError: Naming every missing column and every column whose values are of another kind.
        """
        problems = []
        for column in self.inputs:
            if column.name not in table.frame.columns:
                problems.append(f"column '{column.name}' is missing{did_you_mean(column.name, table.frame.columns)}")
            elif not _fits(table.frame[column.name], column.kind):
                values = listed(table.frame[column.name].dropna().head(3))
                problems.append(f"column '{column.name}' must be {column.kind} but holds values such as {values}")
        if problems:
            listing = "\n".join(f"  - {p}" for p in problems)
            raise SchemaError(f"{table.name} does not fit the model:\n{listing}")

    def save(self, path: Path) -> None:
        """Write the schema as readable JSON."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a schema written by `save`, possibly edited since.

        Raises:
            SchemaError: If the file is missing or malformed.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SchemaError(f"cannot read the schema {path}: {error.strerror}") from error
        except ValidationError as error:
            problems = "\n".join(f"  - {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SchemaError(f"{path} is not a valid schema:\n{problems}") from error


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
        inputs: Columns (or vector groups) to use; default: all that are not label, group, split or an id.
        kinds: Kinds that are given rather than inferred.
        vectors: Name -> pattern such as ``{"mrna": "mrna__*"}``: number columns that together form one vector.
        group: Column whose rows belong together (patient, video).
        split: Column that says train, valid or test.
        row_id: Column that identifies rows; default: a column named like an id with unique values.

    Raises:
        TableError: If a named column does not exist or a kind is unknown.
        SchemaError: If a vector group has no columns or holds something other than numbers.
    """
    kinds = {name: _kind(name, kind) for name, kind in (kinds or {}).items()}
    groups = {name: _matching(table, name, pattern) for name, pattern in (vectors or {}).items()}
    roles: dict[str, Role] = {}
    for name, role in ((label, "label"), (group, "group"), (split, "split"), (row_id, "id")):
        if name is not None:
            table.column(name)
            roles[name] = role  # type: ignore[assignment]
    for name in [*kinds, *(n for n in inputs or () if n not in groups)]:
        table.column(name)
    chosen = None if inputs is None else {*inputs, *(c for name in groups for c in groups[name])}
    grouped = {column for columns in groups.values() for column in columns}
    columns = []
    for name in table.frame.columns:
        if name in grouped:
            found = Column(name=name, kind=Kind.NUMBER, role="input", reason="part of a vector")
        elif name in roles:
            kind, reason = kinds.get(name), "given"
            if kind is None:
                kind, reason, _ = infer_kind(table.frame[name])
            found = Column(name=name, kind=kind, role=roles[name], reason=f"{roles[name]} column; {reason}")
        else:
            found = _infer_column(table.frame[name], name, kinds.get(name), chosen, "id" in roles.values())
            roles[name] = found.role
        columns.append(found)
    return Schema(columns=columns, vectors=groups)


def _infer_column(series: pd.Series, name: str, given: Kind | None, chosen: set[str] | None, has_id: bool) -> Column:
    kind, reason, usable = (given, "given", True) if given else infer_kind(series)
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
    return Column(name=name, kind=kind, role="input" if usable else "unused", reason=reason)


def infer_kind(series: pd.Series) -> tuple[Kind, str, bool]:
    """Return a column's kind, the reason, and whether it is of use as an input."""
    values = series.dropna()
    if values.empty:
        return Kind.CATEGORY, "empty in every row", False
    if pd.api.types.is_bool_dtype(series):
        return Kind.BOOLEAN, "true/false values", True
    if pd.api.types.is_numeric_dtype(series):
        if values.nunique() == 1:
            return Kind.NUMBER, f"the same number in every row ({values.iloc[0]})", False
        return Kind.NUMBER, "all values are numbers", True
    if pd.api.types.is_datetime64_any_dtype(series):
        return Kind.DATE, "all values are dates", True
    if isinstance(values.iloc[0], (list, tuple, np.ndarray)):
        return Kind.VECTOR, f"lists of {len(values.iloc[0])} numbers", True
    return _infer_strings(values.astype("str"))


def _infer_strings(values: pd.Series) -> tuple[Kind, str, bool]:
    distinct = values.nunique()
    sample = values.drop_duplicates().head(_SAMPLE).str.strip()
    share = _share(sample.str.lower().str.endswith(IMAGE_SUFFIXES))
    if share >= 0.9:
        return Kind.IMAGE, f"{share:.0%} of the values end like image files", True
    if distinct == 1:
        return Kind.CATEGORY, "the same value in every row", False
    if set(sample.str.lower()) <= TRUE_WORDS | FALSE_WORDS:
        return Kind.BOOLEAN, f"only the words {listed(sorted(set(sample)))}", True
    share = _share(pd.to_numeric(sample, errors="coerce").notna())
    if share >= 0.95:
        return Kind.NUMBER, f"{share:.0%} of the values are numbers", True
    share = _share(sample.str.match(_DATE_SHAPE))
    if share >= 0.95 and _share(pd.to_datetime(sample, errors="coerce", format="mixed").notna()) >= 0.95:
        return Kind.DATE, f"{share:.0%} of the values look like dates", True
    words = float(sample.str.count(r"\s+").mean()) + 1
    length = float(sample.str.len().mean())
    seen = f"{distinct:,} distinct values in {len(values):,} rows, {words:.1f} words on average"
    if words >= 4 or length >= 40:
        return Kind.TEXT, seen, True
    if distinct == len(values) and words < 1.5 and len(values) > 20:
        return Kind.CATEGORY, f"every value differs ({seen}), so it can only name the row", False
    if distinct <= max(20, 0.3 * len(values)) or words < 1.5:
        return Kind.CATEGORY, seen, True
    return Kind.TEXT, seen, True


def _looks_like_id(series: pd.Series, name: str) -> bool:
    return bool(_ID_NAME.match(name)) and not series.isna().any() and series.is_unique


def _fits(series: pd.Series, kind: Kind) -> bool:
    values = series.dropna()
    if values.empty:
        return True
    match kind:
        case Kind.NUMBER:
            return _share(pd.to_numeric(values, errors="coerce").notna()) >= 0.5
        case Kind.DATE:
            found = pd.to_datetime(values.astype("str"), errors="coerce", format="mixed")
            return not pd.api.types.is_numeric_dtype(series) and _share(found.notna()) >= 0.5
        case Kind.VECTOR:
            return isinstance(values.iloc[0], (list, tuple, np.ndarray))
        case Kind.IMAGE | Kind.TEXT:
            return not pd.api.types.is_numeric_dtype(series) and isinstance(values.iloc[0], str)
        case _:
            return not isinstance(values.iloc[0], (list, tuple, np.ndarray))


def _share(found: pd.Series) -> float:
    return float(found.mean()) if len(found) else 0.0


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
