"""What each column is: its kind and role, editable, and checked at prediction.

Columns become modalities. Every image column and every text column is a modality of its own, unless several share one;
numbers, categories, booleans and dates together are the modality `columns`; each group of vector columns is one more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fusetune.data.choices import CELL_KINDS, Kind, TargetKind
from fusetune.data.gather import gathered
from fusetune.data.kinds import fits
from fusetune.data.several import as_lists
from fusetune.data.spelling import repeated
from fusetune.data.table import Table, with_columns
from fusetune.data.words import are_durations, is_words, numeric, spelled_vector, typed
from fusetune.errors import SchemaError, did_you_mean, listed
from fusetune.files import write_text

COLUMNS = "columns"
_LOOKED_AT, _SHOWN = 100, 3
_DECIMAL_COMMA = re.compile(r"'-?\d+,\d+'")
# Kinds of which a row can have any number.
SEVERAL_KINDS = (Kind.IMAGE, Kind.TEXT)
Role = Literal["input", "label", "group", "split", "id", "weight", "unused"]


def free_name(name: str, taken: Iterable[object]) -> str:
    """Return a name of fusetune's own, marked as often as tells it from what users have called something."""
    used = set(taken)
    while name in used:
        name += "\N{PRIME}"
    return name


class Column(BaseModel):
    """One column's kind, role, and why; with `several`, a cell can hold any number of pictures or texts.

    With `read_in`, its texts are the words in the pictures of another column, where its own cells are empty.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    kind: Kind
    role: Role
    reason: str
    several: bool = False
    read_in: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.several and self.kind not in SEVERAL_KINDS:
            raise ValueError(f"column '{self.name}' is a {self.kind}, of which a cell cannot hold several")
        if self.read_in is not None and (self.kind is not Kind.TEXT or self.several):
            raise ValueError(f"column '{self.name}' is read in pictures, so that its kind is text, with one in a cell")
        return self


@dataclass(frozen=True)
class Modality:
    """One input of the model: an encoder's worth of columns; with `several`, a row has any number of elements."""

    name: str
    kind: Literal["image", "text", "columns", "vector"]
    columns: tuple[str, ...]
    several: bool = False


class Schema(BaseModel):
    """The columns of a table as the model uses them (`schema.json`).

    Attributes:
        columns: Each column.
        vectors: Number columns that form one vector, by its name.
        shared: Columns of pictures, or of texts, that are one input with one encoder, by its name.
        gather: Column of ids: rows with the same one are one row.
        target: What is predicted; why, the label column says.
    """

    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    columns: list[Column]
    vectors: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    gather: str | None = None
    target: TargetKind = "classification"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.columns]
        if twice := repeated(names):
            raise ValueError(f"column(s) {listed(sorted(twice))} are described twice")
        for role in ("label", "group", "split", "id", "weight"):
            holders = [c.name for c in self.columns if c.role == role]
            if len(holders) > 1:
                raise ValueError(f"columns {listed(holders)} cannot all have the role {role}")
        absent = {name for group in self.vectors.values() for name in group} - set(names)
        if absent:
            raise ValueError(f"vectors name column(s) {listed(sorted(absent))}, which are not described")
        for name, group in self.shared.items():
            kinds = {c.kind for c in self.columns if c.name in group}
            if set(group) - set(names) or len(kinds) != 1 or not kinds <= set(SEVERAL_KINDS) or repeated(group):
                raise ValueError(f"shared '{name}' must name columns of pictures only, or of texts only, each once")
        if twice := repeated(name for group in self.shared.values() for name in group):
            raise ValueError(f"column(s) {listed(sorted(twice))} are shared twice")
        pictures = {c.name for c in self.columns if c.kind is Kind.IMAGE and c.role == "input"}
        for column in self.columns:
            if column.role == "input" and column.read_in is not None and column.read_in not in pictures:
                raise ValueError(f"column '{column.name}' is read in '{column.read_in}', which is no input of pictures")
        if self.gather is not None and self.gather not in names:
            raise ValueError(f"rows are gathered by column '{self.gather}', which is not described")
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

        The cells together are called otherwise (`free_name`) where one of the others is called `columns`.

        Raises:
            SchemaError: If no column is an input.
        """
        grouped = {name for groups in (self.vectors, self.shared) for columns in groups.values() for name in columns}
        single = [c for c in self.inputs if c.name not in grouped]
        modalities = []
        for kind in ("image", "text"):
            modalities += [Modality(c.name, kind, (c.name,), c.several) for c in single if c.kind == kind]
            shared = {name: tuple(columns) for name, columns in self.shared.items() if self.kind_of(columns[0]) == kind}
            modalities += [Modality(name, kind, columns, True) for name, columns in shared.items()]
        cells = tuple(c.name for c in single if c.kind in CELL_KINDS)
        if cells:
            taken = {c.name for c in single if c.kind not in CELL_KINDS} | set(self.vectors) | set(self.shared)
            modalities.append(Modality(free_name(COLUMNS, taken), "columns", cells))
        modalities += [Modality(c.name, "vector", (c.name,)) for c in single if c.kind is Kind.VECTOR]
        modalities += [Modality(name, "vector", tuple(columns)) for name, columns in self.vectors.items()]
        if not modalities:
            raise SchemaError("no column is left as an input; name some with --inputs")
        if twice := repeated(m.name for m in modalities):
            more = ", or what is shared" if self.shared else ""
            raise SchemaError(f"two inputs are called {listed(sorted(twice))}; rename a column or a vector group{more}")
        return {m.name: m for m in modalities}

    def kind_of(self, name: str) -> Kind:
        """Return the kind of a column."""
        return next(c.kind for c in self.columns if c.name == name)

    def check(self, table: Table) -> None:
        """Check that a table has the input columns with the same kinds.

        Raises:
            SchemaError: Naming every missing column and every column whose values are of another kind.
        """
        problems, described = [], {column.name for column in self.columns}
        if self.gather is not None and self.gather not in table.frame.columns:
            problems.append(f"column '{self.gather}' is missing: rows with the same value in it are one row")
        for column in self.inputs:
            if column.name not in table.frame.columns:
                others = [name for name in (*table.frame.columns, *table.unread) if name not in described]
                meant = did_you_mean(column.name, others)
                if column.read_in in table.frame.columns and not meant:
                    continue  # it is read
                problems.append(f"column '{column.name}' is missing{meant}{' Then rename it.' if meant else ''}")
            elif not fits(table.frame[column.name], column.kind, column.several or self.gather is not None):
                problems.append(misfit(column, table.frame[column.name]))
        if problems:
            listing = "\n".join(f"  - {p}" for p in problems)
            raise SchemaError(f"{table.name} does not fit the model:\n{listing}")

    def gathered(self, table: Table) -> Table:
        """Return a table whose rows with the same id are one row, where the schema asks for it (`gather`).

        Raises:
            TableError: If an id is missing, or a column that is used has several values for one id.
        """
        if self.gather is None or self.gather not in table.frame.columns:
            return table
        inputs = [c for c in self.columns if c.role == "input" and c.name in table.frame.columns]
        lists = {c.name: c.kind is Kind.IMAGE for c in inputs if c.kind in SEVERAL_KINDS}
        used = {c.name for c in self.columns if c.role != "unused"} - lists.keys() - {self.gather}
        return gathered(table, self.gather, lists, used)

    def read(self, table: Table) -> Table:
        """Return a table with the words of text files typed as the kinds of their columns ask, and its rows gathered.

        Where cells can hold several pictures or texts, each becomes a tuple. Numbers become numbers where all cells are
        some; names (categories, labels, ids, groups) and texts stay words, whatever they look like. Labels become
        numbers or truth values where each prints back as it is written.
        """
        vectors = {name for group in self.vectors.values() for name in group}
        table = self.gathered(table)
        columns = {}
        for column in self.columns:
            if column.several and column.role == "input" and column.name in table.frame.columns:
                columns[column.name] = as_lists(table, column.name, column.kind is Kind.IMAGE)
            elif column.name in table.frame.columns:
                number = column.name in vectors or column.role == "weight"
                kind = Kind.NUMBER if number else column.kind
                columns[column.name] = _read(table, column.name, column.role, kind)
        return replace(table, frame=with_columns(table.frame, columns))

    def save(self, path: Path) -> None:
        """Write the schema as readable JSON."""
        facts = self.model_dump(mode="json", exclude={"shared", "gather", "target"})
        # What a table does not need is not written, so that its file is that of earlier versions.
        facts["columns"] = [c.model_dump(mode="json", exclude_defaults=not c.several) for c in self.columns]
        facts |= {name: value for name, value in (("shared", self.shared), ("gather", self.gather)) if value}
        facts |= {"target": self.target} if self.target != "classification" else {}
        write_text(path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a schema written by `save`, possibly edited since.

        Raises:
            SchemaError: If the file is missing or malformed.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SchemaError(f"cannot read the schema {path}: {error.strerror}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Read a schema from the bytes of a file; `path` is for messages.

        Raises:
            SchemaError: If it is malformed.
        """
        try:
            return cls.model_validate_json(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise SchemaError(f"{path} is not a valid schema: it is not UTF-8 text") from error
        except ValidationError as error:
            problems = "\n".join(f"  - {'.'.join(map(str, e['loc'])) or 'schema'}: {e['msg']}" for e in error.errors())
            raise SchemaError(f"{path} is not a valid schema:\n{problems}") from error


def _read(table: Table, name: str, role: Role, kind: Kind) -> pd.Series:
    cells = table.column(name)
    if not is_words(cells):
        return cells
    if role == "label":
        return typed(table.names(name)) if table.spelled else cells
    if role in ("group", "split", "id") or kind is Kind.CATEGORY:
        return table.names(name)
    if kind is Kind.NUMBER:
        # Durations stay words, so that they are not taken for numbers of some unit.
        numbers = None if are_durations(cells) else numeric(cells)
        return cells if numbers is None else numbers
    if kind is Kind.BOOLEAN:
        return typed(cells) if table.spelled else cells
    return cells.map(spelled_vector).astype(object) if kind is Kind.VECTOR else cells


def misfit(column: Column, cells: pd.Series) -> str:
    """Return what is wrong with a column of another kind, and the remedy."""
    values = list(dict.fromkeys(repr(value)[:40] for value in cells.dropna().head(_LOOKED_AT)))[:_SHOWN]
    comma = column.kind is Kind.NUMBER and any(_DECIMAL_COMMA.fullmatch(value) for value in values)
    remedy = "write decimals with a point" if comma else "write it as it was for training, or leave the column out"
    return f"column '{column.name}' must be {column.kind} but holds values such as {listed(values)}: {remedy}"
