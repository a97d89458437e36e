"""What each column is: its kind and role, inferred with the reason written down, editable, and checked at prediction.

Columns become modalities. Every image column and every text column is a modality of its own; numbers, categories,
booleans and dates together are the modality `columns`; each group of vector columns is one more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fusetune.data.dicom import FRAME
from fusetune.data.split import PART_WORDS
from fusetune.data.table import LEADING_ZERO, Table, first_is_day, parse_dates
from fusetune.errors import SchemaError, TableError, did_you_mean, listed
from fusetune.files import write_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".dcm", ".dicom")
COLUMNS = "columns"
TRUE_WORDS = frozenset({"true", "yes", "y", "t"})
FALSE_WORDS = frozenset({"false", "no", "n", "f"})
_TRUTH_WORDS = {*TRUE_WORDS, *FALSE_WORDS, "1", "0", "1.0", "0.0"}
_ID_NAME = re.compile(r"^(id|uid|uuid|index|row_?id|.*_(id|uid|uuid))$|^unnamed: 0$", re.IGNORECASE)
# A year of four digits first or last, or day, month and two digits of a year; 1.2.3 is a version, not a date.
_DATE_SHAPE = re.compile(
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d{1,2}:\d{2}(:\d{2})?.*)?\s*$"
)
_SAMPLE = 2000
_ADVICE = "if its rows belong together, name it with --group; if it says something about a new row, with --inputs"


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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.columns]
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if twice:
            raise ValueError(f"column(s) {listed(sorted(twice))} are described twice")
        for role in ("label", "group", "split", "id"):
            holders = [c.name for c in self.columns if c.role == role]
            if len(holders) > 1:
                raise ValueError(f"columns {listed(holders)} cannot all have the role {role}")
        absent = {name for group in self.vectors.values() for name in group} - set(names)
        if absent:
            raise ValueError(f"vectors name column(s) {listed(sorted(absent))}, which are not described")
        return self

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
                values = listed(str(value)[:40] for value in table.frame[column.name].dropna().head(3))
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
        except UnicodeDecodeError as error:
            raise SchemaError(f"{path} is not a valid schema: it is not UTF-8 text") from error
        except ValidationError as error:
            problems = "\n".join(f"  - {'.'.join(map(str, e['loc'])) or 'schema'}: {e['msg']}" for e in error.errors())
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


def infer_kind(series: pd.Series) -> tuple[Kind, str, bool]:
    """Return a column's kind, the reason, and whether it is of use as an input."""
    values = series.dropna()
    if values.empty:
        return Kind.CATEGORY, "empty in every row", False
    if _is_list(values.iloc[0]):
        return _infer_lists(values)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _unless_constant(values, Kind.CATEGORY, "the column's own type is categorical")
    if pd.api.types.is_bool_dtype(series):
        return _unless_constant(values, Kind.BOOLEAN, "true/false values")
    if pd.api.types.is_complex_dtype(series):
        return Kind.CATEGORY, "complex numbers, which no input can hold", False
    if pd.api.types.is_numeric_dtype(series):
        return _unless_constant(values, Kind.NUMBER, "all values are numbers")
    if pd.api.types.is_datetime64_any_dtype(series):
        return _unless_constant(values, Kind.DATE, "all values are dates")
    return _infer_strings(values.map(str).astype("str"))


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _unless_constant(values: pd.Series, kind: Kind, reason: str) -> tuple[Kind, str, bool]:
    if values.nunique() == 1:
        return kind, f"the same {kind} in every row ({values.iloc[0]})", False
    return kind, reason, True


def _infer_lists(values: pd.Series) -> tuple[Kind, str, bool]:
    sizes = {len(value) if _is_list(value) and np.ndim(value) else -1 for value in values}
    if -1 in sizes:
        return Kind.CATEGORY, "lists beside single values, which no input can hold", False
    if len(sizes) > 1:
        return Kind.VECTOR, f"lists of different lengths ({min(sizes)} to {max(sizes)}), which no input can hold", False
    if not all(_is_vector(value) for value in values):
        return Kind.VECTOR, "lists of something other than numbers, which no input can hold", False
    return Kind.VECTOR, f"lists of {min(sizes)} numbers", min(sizes) > 0


def _is_vector(value: Sequence[object]) -> bool:
    try:
        return np.asarray(value, dtype=np.float64).ndim == 1
    except (TypeError, ValueError, OverflowError):
        return False


def _infer_strings(values: pd.Series) -> tuple[Kind, str, bool]:
    distinct = values.nunique()
    sample = values.drop_duplicates().head(_SAMPLE).str.strip()
    share = _share(sample.str.lower().str.replace(FRAME, "", regex=True).str.endswith(IMAGE_SUFFIXES))
    if share >= 0.9:
        return Kind.IMAGE, f"{share:.0%} of the values end like image files", True
    if distinct == 1:
        return Kind.CATEGORY, "the same value in every row", False
    if set(sample.str.lower()) <= set(PART_WORDS):
        return (
            Kind.CATEGORY,
            f"only the words {listed(sorted(set(sample)))}, parts of a split: name it with --split",
            False,
        )
    if set(sample.str.lower()) <= TRUE_WORDS | FALSE_WORDS:
        return Kind.BOOLEAN, f"only the words {listed(sorted(set(sample)))}", True
    numbers = pd.to_numeric(sample, errors="coerce").notna()
    if _share(numbers) >= 0.95 and not sample.str.match(LEADING_ZERO).any():
        return Kind.NUMBER, _with_rest(sample, numbers, "numbers"), True
    dates = sample.str.match(_DATE_SHAPE)
    if _share(dates) >= 0.95 and _share(parse_dates(sample, first_is_day(sample)).notna()) >= 0.95:
        return Kind.DATE, _with_rest(sample, dates, "dates"), True
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


def _with_rest(sample: pd.Series, fitting: pd.Series, what: str) -> str:
    if fitting.all():
        return f"all values are {what}"
    rest = listed(sample[~fitting].str.slice(0, 40), 3)
    return f"{_share(fitting):.0%} of the values are {what}; others, such as {rest}, count as missing"


def _looks_like_id(series: pd.Series, name: str) -> bool:
    if not _ID_NAME.match(name) or series.isna().any():
        return False
    return not any(_is_list(value) for value in series.head(1)) and not series.map(str).duplicated().any()


def _names_things(series: pd.Series, name: str, kind: Kind) -> bool:
    """Return whether a column named like an id has too many values to say anything about a row that is new."""
    many = max(20, 0.05 * len(series))
    return bool(_ID_NAME.match(name)) and kind in (Kind.CATEGORY, Kind.NUMBER) and series.map(str).nunique() > many


def _fits(series: pd.Series, kind: Kind) -> bool:
    values = series.dropna()
    if values.empty:
        return True
    match kind:
        case Kind.NUMBER:
            if _is_list(values.iloc[0]) or pd.api.types.is_datetime64_any_dtype(series):
                return False
            return _share(pd.to_numeric(values, errors="coerce").notna()) >= 0.5
        case Kind.DATE:
            if pd.api.types.is_numeric_dtype(series) or _is_list(values.iloc[0]):
                return False
            return _share(parse_dates(values, first_is_day(values)).notna()) >= 0.5
        case Kind.BOOLEAN:
            numeric = pd.api.types.is_numeric_dtype(series)
            return numeric or _share(values.astype("str").str.strip().str.lower().isin(_TRUTH_WORDS)) >= 0.5
        case Kind.VECTOR:
            return pd.api.types.is_numeric_dtype(series) or _is_list(values.iloc[0])
        case Kind.IMAGE | Kind.TEXT:
            dates = pd.api.types.is_datetime64_any_dtype(series)
            return not (dates or pd.api.types.is_numeric_dtype(series) or _is_list(values.iloc[0]))
        case _:
            return not _is_list(values.iloc[0])


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
