"""The user's table, one id per row: the cells of a CSV, Parquet or JSON Lines file, or of a data frame.

Strings stay in Arrow memory, so that no Python object exists per row. Every row has an id (a column's values, or the
row number) and a 64-bit key derived from it; splits and augmentation depend on the key alone, never on the position.
What a text file says stays words here: `Schema.read` types them, once the kinds of the columns are known.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from numbers import Number
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset

from fusetune.data.carried import is_picture, refuse_objects
from fusetune.data.choices import READERS
from fusetune.data.dataset import SUFFIX, Dataset, column_name, dataset_of
from fusetune.data.delimited import NAMES_OR_MISSING, read_delimited
from fusetune.data.spelling import as_words, printed, repeated, tidy
from fusetune.data.words import is_words
from fusetune.errors import TableError, listed, no_column
from fusetune.files import expanded

_SURROGATE = re.compile("[\ud800-\udfff]")
Blanks = Mapping[str, pd.Series]


class ArrowTable(Protocol):
    """A table that offers the Arrow interface, such as those of pyarrow, polars and DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the table as a stream of Arrow."""
        ...


class Query(Protocol):
    """What becomes such a table when it is run, such as a LazyFrame of polars."""

    def collect(self) -> Any:
        """Return the table."""
        ...

    def collect_schema(self) -> Any:
        """Return its columns."""
        ...


# What is taken for a table wherever one is asked for; `read_table` says more.
TableLike = (
    str
    | Path
    | pd.DataFrame
    | ArrowTable
    | pyarrow.dataset.Dataset
    | Query
    | Mapping[str, Any]
    | Sequence[Mapping[str, Any]]
)


@dataclass(frozen=True)
class Table:
    """A table and where it came from.

    Attributes:
        frame: The columns, with a plain 0..n-1 index.
        name: What to call the table in messages.
        root: Folder that relative image paths start from.
        index: The DataFrame's own index, for results that go back to it.
        spelled: Do its words come from a file that holds nothing but words?
        blanks: Column -> words such as NA that were read as an empty cell, by row.
        problems: What is wrong with cells, by row.
        unit: What a row is, in words.
        numbers: What each row's number was before others were left out, int64 [rows]; None: none were.
        unread: Columns that were left in their file.
    """

    frame: pd.DataFrame
    name: str
    root: Path
    index: pd.Index | None = None
    spelled: bool = False
    blanks: Blanks = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)
    unit: str = "table row"
    numbers: npt.NDArray[np.int64] | None = None
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def number(self, row: int) -> int:
        """Return what the number of a row is in the whole table, for messages."""
        return row if self.numbers is None else int(self.numbers[row])

    def column(self, name: str) -> pd.Series:
        """Return one column.

        Raises:
            TableError: If there is no such column.
        """
        if name not in self.frame.columns.tolist():  # an index of words refuses to look for half a character
            raise TableError(no_column(self.name, name, [*self.frame.columns, *self.unread]))
        return self.frame[name]

    def names(self, name: str, known: Iterable[object] = ()) -> pd.Series:
        """Return a column of names (categories, labels, ids), where None is a word, and so is NA if it is known."""
        cells, said = self.column(name), self.blanks.get(name)
        if said is None:
            return cells
        words = said[said.isin([*NAMES_OR_MISSING, *map(str, known)])]
        cells = cells.astype("str")
        cells.loc[words.index] = words
        return cells

    def empty(self, name: str) -> str:
        """Return a remark on cells of a column that look filled and count as empty, for the end of a message."""
        said = self.blanks.get(name)
        if said is None:
            return ""
        words = listed(said.drop_duplicates().sort_values())
        return f" ({words} without quotation marks counts as empty; write it in them if it is a word)"

    def refuse_empty(self, name: str, role: str, remedy: str) -> None:
        """Refuse empty cells of a column that stands for something, such as its labels.

        Raises:
            TableError: Naming the rows and the remedy.
        """
        missing = np.flatnonzero(as_words(self.column(name)).isna().to_numpy())
        if len(missing):
            where = f"{listed(missing)}{self.empty(name)}"
            raise TableError(f"{role} column '{name}' of {self.name} is empty in row(s) {where}; {remedy}")

    def ids(self, column: str | None, unique: bool = True) -> pd.Series:
        """Return the rows' ids as strings: a column's values, or the row numbers.

        Args:
            column: The column, or None.
            unique: Refuse missing and repeated values; without, they are handed out as they are.

        Raises:
            TableError: If the column has missing or repeated values, or values that are no words or numbers.
        """
        if column is None:
            numbers = np.arange(len(self)) if self.numbers is None else self.numbers
            return pd.Series(numbers, name="row_id").astype("str")
        values = self.names(column)
        _refuse_odd_ids(values, self)
        ids = printed(values).rename("row_id")
        if unique and values.isna().any():
            rows = listed(self.number(int(row)) for row in np.flatnonzero(values.isna().to_numpy()))
            raise TableError(f"{self.name}: id column '{column}' is empty in row(s) {rows}; fill it or do not use it")
        twice = ids[as_words(ids).duplicated()].unique()
        if unique and len(twice):
            raise TableError(f"{self.name}: id column '{column}' repeats {listed(twice)}; ids must be unique")
        return ids

    def take(self, rows: npt.NDArray[Any]) -> Table:
        """Return a table of some rows, by position [n] or as a mask bool [rows]."""
        places = np.flatnonzero(rows) if rows.dtype == bool else rows
        number = pd.Series(np.arange(len(places)), index=places)
        blanks = {}
        for name, said in self.blanks.items():
            kept = said[said.index.isin(places)]
            if len(kept):
                blanks[name] = kept.set_axis(number.loc[kept.index].to_numpy())
        problems = {int(number[row]): text for row, text in self.problems.items() if row in number.index}
        index = None if self.index is None else self.index[places]
        frame = self.frame.iloc[places].reset_index(drop=True)
        numbers = None if self.numbers is None else self.numbers[places]
        return replace(self, frame=frame, index=index, blanks=blanks, problems=problems, numbers=numbers)


def _refuse_odd_ids(values: pd.Series, table: Table) -> None:
    for row, cell in enumerate(values if values.dtype == object else ()):
        if not (isinstance(cell, str | Number | date | np.bool | UUID | None) or cell is pd.NA):
            raise TableError(
                f"{table.name}: id column '{values.name}' holds {cell!a:.40} ({type(cell).__name__}) in row "
                f"{table.number(row)}; "
                "ids are words, numbers or dates"
            )


def row_keys(ids: pd.Series) -> npt.NDArray[np.int64]:
    """Return a 64-bit key per row id (pandas' SipHash-2-4), equal on every machine and for every order of rows."""
    hashed = pd.util.hash_array(ids.to_numpy(dtype=object), categorize=False)
    return hashed.view(np.int64)


def read_table(source: Any, needed: Callable[[list[str]], Collection[str] | None] | None = None) -> Table:
    """Read a table.

    Args:
        source: A `.csv`, `.tsv`, `.parquet`, `.jsonl` or `.ndjson` file (text may end in `.gz`), a folder of Parquet
            files, or a table in memory: a DataFrame, any that offers the Arrow interface (pyarrow, polars, DuckDB), a
            dataset of pyarrow, a `LazyFrame` of polars, a dict of one row, a dict of columns that are lists of one
            length, or a list of dicts, one a row. A named index is a column.
        needed: From the names of the columns to those that are used, None being all: of Parquet files and datasets,
            others are not read.

    Raises:
        TableError: If the file is missing, empty, of an unknown format or malformed.
    """
    blanks: Blanks | None = None
    if (stored := as_dataset(source)) is not None:
        return read_dataset(stored, None if needed is None else needed(stored.names))
    if isinstance(source, str | Path):
        path = expanded(source)
        frame, blanks = _read_file(path)  # which says so if there is none, or none can be called so
        name, root, index = path.name, path.resolve().parent, None
    else:
        name, root = "the DataFrame", Path.cwd()
        frame, index = _in_memory(source)
    return _table(frame, name, root, index, blanks)


def as_dataset(source: Any) -> Dataset | None:
    """Return what can be read piece by piece, a Parquet file or several, as a dataset; None for other tables.

    Raises:
        TableError: As `dataset_of`.
    """
    if isinstance(source, str | Path):
        path = expanded(source)
        return dataset_of(path) if path.exists() else None
    return dataset_of(source)


def read_dataset(stored: Dataset, columns: Collection[str] | None = None) -> Table:
    """Return a dataset as one table; `columns` are those that are read, None: all."""
    table = _table(_from_arrow(stored.whole(columns)), stored.name, stored.root, None, None)
    return replace(table, unread=_unread(stored, columns))


def read_pieces(stored: Dataset, size: int, columns: Collection[str] | None = None) -> Iterator[Table]:
    """Yield the rows of a dataset, `size` at a time, as tables that know the numbers of their rows."""
    start = 0
    for content in stored.pieces(size, columns):
        table = _table(_from_arrow(content), stored.name, stored.root, None, None, start)
        yield replace(table, unread=_unread(stored, columns))
        start += len(table)


def _unread(stored: Dataset, columns: Collection[str] | None) -> tuple[str, ...]:
    return () if columns is None else tuple(name for name in stored.names if name not in columns)


def _table(
    frame: pd.DataFrame,
    name: str,
    root: Path,
    index: pd.Index | None,
    blanks: Blanks | None,
    start: int | None = None,
) -> Table:
    """Return cells as a table, once they were read; those of a piece begin with the row `start`."""
    if not len(frame):
        raise TableError(f"{name} has no rows")
    frame = frame.reset_index(drop=True).set_axis(list(map(_header, frame.columns)), axis=1)
    _refuse_repeated(frame.columns, name)
    frame, problems = _plain(frame)
    said = {_header(column): words for column, words in (blanks or {}).items()}
    numbers = None if start is None else np.arange(start, start + len(frame))
    table = Table(frame, name, root, index, blanks is not None, said, problems, numbers=numbers)
    refuse_objects(frame, name, start or 0)
    return table


def read_index(source: Any) -> pd.Index | None:
    """Return the index that answers to a table go back to, None where it has none."""
    return source.index if isinstance(source, pd.DataFrame) else None


def _header(name: object) -> str:
    # What nobody can see in a name nobody can type.
    return tidy(_SURROGATE.sub("\ufffd", str(name)))


def _in_memory(source: Any) -> tuple[pd.DataFrame, pd.Index | None]:
    if isinstance(source, Mapping):
        source = _from_dict(source)
    if isinstance(source, list | tuple) and all(isinstance(row, Mapping) for row in source):
        if not source:
            raise TableError("the table has no rows: a list without any; give one dict for each row")
        rows = [dict(row) for row in source]
        try:
            source = pd.DataFrame(rows)
        except UnicodeEncodeError:
            names = dict.fromkeys(name for row in rows for name in row)
            source = pd.DataFrame({name: _cells_of([row.get(name) for row in rows]) for name in names})
    if not isinstance(source, pd.DataFrame):
        return _from_other(source), None
    if isinstance(source.columns, pd.MultiIndex):
        raise TableError(
            "the DataFrame's columns have several levels; give each one name: "
            "frame.columns = ['_'.join(map(str, names)) for names in frame.columns]"
        )
    named = [name for name in source.index.names if name is not None and name not in source.columns]
    levels = source.index.to_frame()[named]
    return pd.concat([levels, source], axis=1) if named else source, source.index


def _from_other(source: Any) -> pd.DataFrame:
    """Return a table of another library, which is asked for the Arrow interface, not for its name."""
    kind = type(source).__name__
    if hasattr(source, "collect") and hasattr(source, "collect_schema"):  # a query of polars that was not run yet
        source = source.collect()
    if not hasattr(source, "__arrow_c_stream__"):
        raise TableError(
            f"a table cannot be a {kind}; give a path, a pandas, polars or Arrow table, a dict of columns, or a list "
            "of dicts"
        )
    # Of columns of Python objects, such as PIL pictures, polars hands out addresses in memory.
    schema = getattr(source, "schema", None)
    kinds: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
    objects = [name for name, dtype in kinds.items() if str(dtype) == "Object"]
    try:
        content = pa.table(source.drop(objects) if objects else source)
        content.validate(full=True)
        frame = _from_arrow(content)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TableError(f"a {kind} is no table ({error}); give a DataFrame, of one row frame.iloc[[0]]") from error
    cells = {name: pd.Series(source[name].to_list(), dtype=object) for name in objects}
    return with_columns(frame, cells)[list(kinds)] if objects else frame


def _cells_of(cells: Any) -> pd.Series:
    """Return cells as a column; half a character, which Arrow's strings cannot hold, leaves them objects (`_plain`)."""
    try:
        return pd.Series(cells)
    except UnicodeEncodeError:
        return pd.Series(cells, dtype=object)


def _from_dict(source: Mapping[Any, Any]) -> list[Any] | pd.DataFrame:
    """Return a dict as rows or columns: lists are columns, and so are arrays unless all else says that it is one row.

    Raises:
        TableError: If it may be either.
    """
    lists = [isinstance(value, list | tuple | pd.Series | np.ndarray) for value in source.values()]
    # An array of two dimensions or more may be the picture of one row, or a column of arrays.
    either = {str(name): value for name, value in source.items() if isinstance(value, np.ndarray) and is_picture(value)}
    if any(lists) and not all(lists) and sum(lists) > len(either):
        raise TableError(
            "a dict is one row, or columns that are lists; of one row with a list in a cell write [row], which is "
            "a list of rows"
        )
    if all(lists) and either and sum(lists) == len(either):
        name, value = next(iter(either.items()))
        raise TableError(
            f"'{name}' is an array of shape {value.shape}: the picture of one row, or a column of {len(value)} arrays? "
            f"Write [row] for the former, and {{'{name}': list(array)}} for the latter"
        )
    return _columns(source) if all(lists) and lists else [source]


def _columns(columns: Mapping[Any, Any]) -> pd.DataFrame:
    lengths = {str(name): len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"columns of a dict must have one length; these have {lengths}")
    return pd.DataFrame({name: _cells_of(list(cells)) for name, cells in columns.items()})


def _plain(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """Return columns of nothing but words as such, without half characters, which are said by row."""
    problems: dict[int, str] = {}
    columns: dict[str, pd.Series] = {}
    for name, cells in frame.items():
        if isinstance(cells.dtype, pd.DatetimeTZDtype):
            # The first and the last days of the calendar have no date in another zone.
            columns[str(name)] = cells.dt.tz_convert("UTC")
        if cells.dtype != object:
            continue
        halves = [row for row, cell in enumerate(cells) if isinstance(cell, str) and _SURROGATE.search(cell)]
        for row in halves:
            text = f"{name}: half a character (U+D800 to U+DFFF) was read as \ufffd"
            problems[row] = f"{problems[row]}; {text}" if row in problems else text
        whole = cells.copy()
        for row in halves:
            whole.iloc[row] = _SURROGATE.sub("\ufffd", cells.iloc[row])
        if halves or is_words(whole):
            columns[str(name)] = whole.astype("str").where(cells.notna()) if is_words(whole) else whole
    return with_columns(frame, columns), problems


def with_columns(frame: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return a frame with columns added or replaced, whatever they are called (`assign` has no column `self`)."""
    frame = frame.copy(deep=False)
    for name, cells in columns.items():
        frame[name] = cells
    return frame


def _refuse_repeated(names: Iterable[str], table: str) -> None:
    if twice := repeated(names):
        raise TableError(f"{table} has several columns named {listed(twice)}; rename all but one")


def _read_file(path: Path) -> tuple[pd.DataFrame, Blanks | None]:
    """Return a file's cells and, if it holds nothing but words, those that were read as an empty cell."""
    if not path.exists():
        raise TableError(f"there is no file {path}")
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    if suffix.lower() not in READERS:
        raise TableError(f"{path.name}: cannot read '{suffix}' files; use one of {listed(READERS, 9)}")
    if suffix.lower() == SUFFIX:
        raise TableError(f"{path.name} cannot be read: Parquet files are compressed within; unpack it with gunzip")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
        if suffix.lower() in (".csv", ".tsv"):
            return read_delimited(data, "\t" if suffix.lower() == ".tsv" else ",")
        return _from_json(data), None
    except UnicodeDecodeError as error:
        written = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise TableError(
            f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason}); "
            f"save it as UTF-8, for example with `iconv -f {written} -t utf-8`"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
        problem = str(error) or type(error).__name__
        if "columns, got" in problem:
            problem += "; every row needs as many cells as the header, and quotes around a comma"
        raise TableError(f"{path.name} cannot be read: {problem}") from error


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table's columns, an index among them; whole numbers stay whole beside missing ones."""
    whole = {pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype()}
    whole |= {pa.int64(): pd.Int64Dtype(), pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype()}
    whole |= {pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype()}
    columns = []
    for place, column in enumerate(table.columns):
        half = column.type == pa.float16()  # which pandas cannot compare
        types = whole if column.null_count else {}
        one = pa.table({"": column.cast(pa.float32()) if half else column}).to_pandas(
            types_mapper=types.get, date_as_object=False, ignore_metadata=True, maps_as_pydicts="strict"
        )
        columns.append(one[""].rename(column_name(table.column_names[place], place)))
    return pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(len(table)))


def _from_json(data: bytes) -> pd.DataFrame:
    """Read one JSON object per line; a quoted number is a word on purpose, and whole numbers stay whole."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(io.StringIO(data.decode("utf-8-sig"), newline=None), start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise TableError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise TableError(f"line {number} is no JSON object: write one {{...}} with the column names per line")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _inferred([row.get(name) for row in rows]) for name in names})


def _parsed(text: str) -> Any:
    """Read one JSON value.

    Raises:
        ValueError: If it is none, or an object names a key twice, of which one would be lost.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def _inferred(values: list[Any]) -> pd.Series:
    """Return values as the narrowest type that changes none of them."""
    present = [value for value in values if value is not None]
    large = any(type(value) is int and abs(value) > 2**53 for value in present)
    if len(present) < len(values) and present and all(type(value) is int for value in present):
        try:
            return pd.Series(values, dtype="Int64")
        except OverflowError:
            pass
    cells = pd.Series(values, dtype=object if present else "str")
    try:  # beside fractions or nothing, large numbers would lose their last digits
        return cells if large and len({type(value) for value in values}) > 1 else cells.infer_objects()
    except UnicodeEncodeError:  # half a character, which `read_table` replaces
        return cells
