"""Parquet files that are one table, and other datasets of Arrow: read as a whole or a few rows at a time, some columns.

All files must have the same columns of the same types; the order of rows is that of the files' paths. Folders named
`column=value` (hive) say what a column is in all of their files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from fusetune.data.choices import READERS
from fusetune.data.spelling import repeated, tidy
from fusetune.errors import TableError, listed

SUFFIX = ".parquet"
# How pandas and Arrow name an index that has no name of its own.
_NAMELESS = re.compile(r"__index_level_\d+__")
_BATCH = 1024  # rows that are decoded at a time
_REMEDY = "write it again like the others, or leave it out of the folder"


@dataclass(frozen=True)
class Part:
    """One file of a dataset, or one fragment of another kind.

    Attributes:
        name: What to call it in messages.
        fragment: What Arrow knows of it.
        schema: Its columns, without those that its folders say.
        said: What its folders say, by column.
        rows: How many rows it has.
    """

    name: str
    fragment: Any
    schema: pa.Schema
    said: dict[str, Any]
    rows: int

    def batches(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield its rows, at most `_BATCH` at a time, with the columns and types of `schema`."""
        own = [name for name in schema.names if name in self.schema.names]
        with _named(self.name):
            rows = 0
            for batch in self._stored(own):
                some = pa.Table.from_batches([batch])
                some.validate(full=True)
                rows += len(some)
                yield pa.table([self._column(some, field) for field in schema], schema=schema) if schema.names else some
            if rows != self.rows:
                raise TableError(f"it says that it has {self.rows:,} rows, and holds {rows:,}; export it again")

    def _stored(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if not isinstance(self.fragment, ds.ParquetFileFragment):
            yield from self.fragment.to_batches(columns=columns, batch_size=_BATCH, use_threads=False)
            return
        # Arrow's scanner would decode whole row groups; this reader decodes a batch at a time.
        with self.fragment.open() as content:
            yield from pq.ParquetFile(content, page_checksum_verification=True).iter_batches(_BATCH, columns=columns)

    def _column(self, some: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
        if field.name in self.said:
            return pa.repeat(pa.scalar(self.said[field.name], field.type), len(some))
        column = some[field.name]
        return pa.nulls(len(some), field.type) if pa.types.is_null(column.type) else column


@dataclass(frozen=True)
class Dataset:
    """Rows in files.

    Attributes:
        parts: The files, in the order of their rows.
        schema: The columns of all, as the files name them.
        name: What to call it in messages.
        root: Folder that relative paths of pictures start from.
    """

    parts: tuple[Part, ...]
    schema: pa.Schema
    name: str
    root: Path

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(part.rows for part in self.parts)

    @cached_property
    def names(self) -> list[str]:
        """What a table calls the columns."""
        return [column_name(name, place) for place, name in enumerate(self.schema.names)]

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column, by its name in a table."""
        return dict(zip(self.names, self.schema.types, strict=True))

    def _some(self, columns: Collection[str] | None) -> tuple[pa.Schema, list[str]]:
        """Return the named columns, those that there are: as files have them, and their names; None: all."""
        chosen = [place for place, name in enumerate(self.names) if columns is None or name in columns]
        return pa.schema([self.schema.field(place) for place in chosen]), [self.names[place] for place in chosen]

    def whole(self, columns: Collection[str] | None = None) -> pa.Table:
        """Return all rows.

        Args:
            columns: The columns to read; None: all.

        Raises:
            TableError: Naming the file that cannot be read.
        """
        schema, names = self._some(columns)
        batches = [batch for part in self.parts for batch in part.batches(schema)]
        return pa.concat_tables(batches or [schema.empty_table()]).rename_columns(names)

    def pieces(self, size: int, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
        """Yield all rows, `size` at a time; held are those of one piece, and what is decoded with its last row.

        Args:
            size: Rows of a piece; the last one may have fewer.
            columns: As for `whole`.

        Raises:
            TableError: Naming the file that cannot be read.
        """
        schema, names = self._some(columns)
        waiting, count = list[pa.Table](), 0
        for part in self.parts:
            for batch in part.batches(schema):
                waiting.append(batch)
                count += len(batch)
                while count >= size:
                    held = pa.concat_tables(waiting)
                    yield held.slice(0, size).rename_columns(names)
                    waiting, count = [held.slice(size)], count - size
        if count:
            yield pa.concat_tables(waiting).rename_columns(names)


def dataset_of(source: Any) -> Dataset | None:
    """Return a dataset: a Parquet file, a folder of them, or one of `pyarrow.dataset`; None for any other table.

    Only the ends of files are read here, which say what is in them.

    Args:
        source: A path, or what may be a table.

    Raises:
        TableError: If a folder has no such file, or other tables beside them; a file cannot be read; or files have not
            the same columns, or not of the same types.
    """
    if isinstance(source, ds.Dataset):
        return _joined(list(source.get_fragments()), source.schema, "the dataset", Path.cwd())
    if not isinstance(source, Path):
        return None
    if source.is_dir():
        files = _files(source)
        with _named(source.name):
            found = ds.dataset(
                list(map(str, files)), format="parquet", partitioning="hive", partition_base_dir=str(source)
            )
        return _joined(list(found.get_fragments()), found.schema, source.name, source.resolve())
    if source.suffix.lower() != SUFFIX:
        return None
    with _named(source.name):
        fragments = [ds.ParquetFileFormat().make_fragment(str(source), LocalFileSystem())]
        return _joined(fragments, None, source.name, source.resolve().parent)


def _files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder by their paths; names that begin with a dot or a low line are others'."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().removesuffix(".gz").endswith(READERS) and not _aside(path.relative_to(folder))
    )
    others = [path.relative_to(folder) for path in found if path.suffix.lower() != SUFFIX]
    if not found:
        raise TableError(f"{folder} is a folder without any Parquet file; as a table, one holds {SUFFIX} files only")
    if others:
        raise TableError(
            f"{folder} is a folder with other tables than Parquet files in it, such as {listed(others, 1)}; move them "
            "away, or name one file"
        )
    return found


def _aside(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _joined(fragments: Sequence[Any], known: pa.Schema | None, name: str, root: Path) -> Dataset:
    """Put fragments together; `known` says the types of what only folders say."""
    if not fragments:
        raise TableError(f"{name} has no rows: there is no file in it")
    parts = [_part(fragment, name, root, len(fragments) == 1) for fragment in fragments]
    fields = {field.name: field.remove_metadata() for field in parts[0].schema}
    for part in parts[1:]:
        _refuse_other(parts[0], part)
        for field in part.schema:
            if pa.types.is_null(fields[field.name].type):
                fields[field.name] = field.remove_metadata()
    for part in parts:
        for field in part.schema:
            # In a file without any value of a column, the writer did not know its type.
            if field.type != fields[field.name].type and not pa.types.is_null(field.type):
                raise TableError(
                    f"{part.name}: column '{field.name}' is {field.type}, and {fields[field.name].type} in the other "
                    f"files; {_REMEDY}"
                )
    for column in parts[0].said:
        fields[column] = pa.field(column, known.field(column).type if known is not None else pa.string())
    schema = pa.schema([field.with_nullable(True) for field in fields.values()])
    return Dataset(tuple(parts), schema, name, root)


def _part(fragment: Any, name: str, root: Path, alone: bool) -> Part:
    path = getattr(fragment, "path", None)
    if path is not None and not alone:
        inside = Path(path)
        name = str(inside.relative_to(root)) if inside.is_relative_to(root) else inside.name
    with _named(name):
        said = dict(ds.get_partition_keys(fragment.partition_expression))
        schema = fragment.physical_schema
        if twice := repeated(map(tidy, schema.names)):
            raise TableError(f"{name} has several columns named {listed(twice)}; rename all but one")
        if both := sorted(said.keys() & set(schema.names)):
            raise TableError(f"{name}: column {listed(both)} is in the file and in the name of its folder; drop one")
        return Part(name, fragment, schema, said, fragment.count_rows())


def _refuse_other(first: Part, part: Part) -> None:
    """Refuse a file with other columns than the first."""
    here, there = {*part.schema.names, *part.said}, {*first.schema.names, *first.said}
    if here != there:
        lacks = [f"lacks column {listed(sorted(there - here))}"] if there - here else []
        more = [f"has column {listed(sorted(here - there))}"] if here - there else []
        raise TableError(f"{part.name} {' and '.join(lacks + more)}, unlike {first.name}; {_REMEDY}")
    if part.said.keys() != first.said.keys():
        raise TableError(f"{part.name} is in other kinds of folders than {first.name}; {_REMEDY}")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of an error within the block which file it is about."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever Arrow happens to raise
        if isinstance(error, TableError) and str(error).startswith(name):
            raise
        raise TableError(f"{name} cannot be read: {str(error) or type(error).__name__}") from error


def column_name(name: str, place: int) -> str:
    """Return what a table calls a column of Arrow: tidy, and by its place where it is an index without a name."""
    return f"Unnamed: {place}" if _NAMELESS.fullmatch(name) else tidy(name)
