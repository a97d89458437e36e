"""Rows handed out in pieces, to be answered here or elsewhere: of a table whose cells are held, or from files.

Each piece is all that its rows take. Cells of a table in memory are read and bound at once, since how a column is
written may show in the whole of it. Where it does not (`data.apart`), a dataset is read, bound and let go piece by
piece: held are the cells of one piece, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from fusetune.data.absent import Lacking, with_empty_columns
from fusetune.data.dataset import Dataset
from fusetune.data.images import ImageInput
from fusetune.data.kinds import VALUED, Readable
from fusetune.data.ocr import with_words
from fusetune.data.problems import id_notes, no_ids
from fusetune.data.schema import Schema, misfit
from fusetune.data.source import Source
from fusetune.data.table import Table, read_pieces
from fusetune.errors import SchemaError
from fusetune.inputs import Reader
from fusetune.runtime import Runtime

_IDS = 65_536  # rows whose ids alone are read at a time


@dataclass(frozen=True)
class Handed:
    """Some rows of a table with all that answering them takes: nothing of it hangs on the other rows.

    Attributes:
        start: The number of the first row.
        table: The rows.
        ids: Their ids.
        bound: Their inputs by modality, but for pictures.
        lacking: What the table lacks.
    """

    start: int
    table: Table
    ids: pd.Series
    bound: dict[str, Source]
    lacking: Lacking

    def __len__(self) -> int:
        return len(self.table)


class Handing(Protocol):
    """Rows that are handed out in pieces.

    Attributes:
        table: What the rows are called and where their relative paths start.
        notes: What is to be said of their ids.
    """

    @property
    def table(self) -> Table:
        """See above."""

    @property
    def notes(self) -> list[str]:
        """See above."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def pieces(self, size: int) -> Iterator[Handed]:
        """Yield all rows in their order, `size` at a time; raises what can be wrong with cells."""

    def ids(self, size: int) -> Iterator[pd.Series]:
        """Yield the ids of the rows, `size` at a time."""


@dataclass(frozen=True)
class Laid:
    """A table whose cells were read and bound at once.

    Attributes:
        table: The table as the model reads it.
        lacking: What it lacks.
        named: Its row ids.
        notes: What is to be said of them.
        bound: Its inputs by modality, but for pictures.
    """

    table: Table
    lacking: Lacking
    named: pd.Series
    notes: list[str]
    bound: dict[str, Source]

    def __len__(self) -> int:
        return len(self.table)

    def pieces(self, size: int) -> Iterator[Handed]:
        """Yield all rows; see `Handing`."""
        for start, ids in zip(range(0, len(self), size), self.ids(size), strict=True):
            rows = np.arange(start, start + len(ids))
            bound = {name: source.some(rows) for name, source in self.bound.items()}
            yield Handed(start, self.table.take(rows), ids, bound, self.lacking)

    def ids(self, size: int) -> Iterator[pd.Series]:
        """Yield ids; see `Handing`."""
        for start in range(0, len(self), size):
            yield self.named.iloc[start : start + size].reset_index(drop=True)


@dataclass(frozen=True)
class Streamed:
    """A dataset of which every piece is read when it is asked for.

    Attributes:
        stored: The dataset.
        table: Its columns as the model reads them, without rows.
        notes: What is to be said of its ids.
        schema: The columns of the model.
        readers: Fitted pre-processing by modality.
        runtime: With how many threads cells are bound.
    """

    stored: Dataset
    table: Table
    notes: list[str]
    schema: Schema
    readers: Mapping[str, Reader]
    runtime: Runtime

    @classmethod
    def of(cls, stored: Dataset, schema: Schema, readers: Mapping[str, Reader], runtime: Runtime) -> Streamed:
        """Look at a dataset's columns, and at its ids, of which 8 bytes each are held to find repeated ones.

        Raises:
            SchemaError: If a column is missing.
            TableError: If a file cannot be read.
        """
        frame = pd.DataFrame(columns=stored.names)
        table, _ = with_empty_columns(Table(frame, stored.name, stored.root), schema)
        schema.check(table)
        made = cls(stored, table, [], schema, readers, runtime)
        column, there = schema.named("id"), stored.names
        if column in there:
            made.notes.extend(id_notes(column, lambda: made.ids(_IDS)))
        elif column is not None:
            made.notes.append(no_ids(column))
        return made

    def __len__(self) -> int:
        return self.stored.rows

    def pieces(self, size: int) -> Iterator[Handed]:
        """Yield all rows; see `Handing`.

        Raises:
            SchemaError: At the end, if too few values of a column can be read.
        """
        kinds = {column.name: column.kind for column in self.schema.inputs if column.kind in VALUED}
        readable = {name: Readable(kind) for name, kind in kinds.items() if name in self.stored.names}
        start = 0
        for table in read_pieces(self.stored, size, used_columns(self.schema, self.readers)):
            for name, counted in readable.items():
                counted.add(table.frame[name])
            ids = table.ids(self._id(), unique=False)
            whole, lacking = with_empty_columns(table, self.schema)
            read = with_words(self.schema.read(whole), self.schema, pictures_of(self.readers))
            with self.runtime.applied():
                bound = bound_cells(self.readers, read)
            yield Handed(start, read, ids, bound, lacking)
            start += len(read)
        counts = [(column, readable[column.name]) for column in self.schema.inputs if column.name in readable]
        wrong = [misfit(column, counted.examples) for column, counted in counts if not counted.enough]
        if wrong:
            listing = "\n".join(f"  - {text}" for text in wrong)
            raise SchemaError(f"{self.stored.name} does not fit the model:\n{listing}")

    def ids(self, size: int) -> Iterator[pd.Series]:
        """Yield ids, reading their column alone; see `Handing`."""
        column = self._id()
        if column is not None:
            for table in read_pieces(self.stored, size, {column}):
                yield table.ids(column, unique=False)
            return
        for start in range(0, len(self), size):
            yield pd.Series(np.arange(start, min(start + size, len(self))), name="row_id").astype("str")

    def _id(self) -> str | None:
        column = self.schema.named("id")
        return column if column in self.stored.names else None


def bound_cells(readers: Mapping[str, Reader], table: Table) -> dict[str, Source]:
    """Return the sources of a table by modality, but for pictures, which are opened where they are used."""
    return {name: reader.bind(table) for name, reader in readers.items() if not isinstance(reader.fitted, ImageInput)}


def pictures_of(readers: Mapping[str, Reader]) -> dict[str, ImageInput]:
    """Return how the pictures of each column are read."""
    found = ((reader.modality.columns, reader.fitted) for reader in readers.values())
    return {name: fitted for columns, fitted in found if isinstance(fitted, ImageInput) for name in columns}


def used_columns(schema: Schema, readers: Mapping[str, Reader]) -> set[str]:
    """Return the columns that a model reads of a table: inputs, ids, and sizes of pixels."""
    named: Sequence[str | None] = (schema.named("id"), schema.gather, *spacings(readers))
    return {column.name for column in schema.inputs} | {name for name in named if name is not None}


def spacings(readers: Mapping[str, Reader]) -> list[str]:
    """Return the columns with the size of a pixel."""
    found = (reader.fitted.spacing for reader in readers.values() if isinstance(reader.fitted, ImageInput))
    return [name for name in found if name is not None]
