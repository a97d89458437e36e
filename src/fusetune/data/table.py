"""The user's table: CSV, Parquet, JSON Lines or a DataFrame, as typed columns with one id per row.

Strings stay in Arrow memory, so that no Python object exists per row. Every row has an id (a column's values, or the
row number) and a 64-bit key derived from it; splits and augmentation depend on the key alone, never on the position.
CSV columns become numbers only where nothing is lost by it: codes such as 007 and endless case numbers stay words.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from fusetune.errors import TableError, listed
from fusetune.files import expanded

# "None" and "-" are not here: they are words that people use as categories.
MISSING_WORDS = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "<NA>"]
WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, force_ascii=False),
}
READERS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
# Numbers that are names: a leading zero would be lost as a number, and so would digits beyond a float's 15.
LEADING_ZERO = r"\s*[+-]?0\d"
_LONG_CODE = r"\s*[+-]?\d{16,}\s*$"
# A cell may be a long document; Arrow wants every row inside one block.
_BLOCK = 2**26


@dataclass(frozen=True)
class Table:
    """A table and where it came from.

    Attributes:
        frame: The columns, with a plain 0..n-1 index.
        name: What to call the table in messages.
        root: Folder that relative image paths start from.
        index: The DataFrame's own index, for results that go back to it.
    """

    frame: pd.DataFrame
    name: str
    root: Path
    index: pd.Index | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> pd.Series:
        """Return one column.

        Raises:
            TableError: If there is no such column.
        """
        if name not in self.frame.columns:
            raise TableError(f"{self.name} has no column '{name}'; its columns are {listed(self.frame.columns, 12)}")
        return self.frame[name]

    def ids(self, column: str | None) -> pd.Series:
        """Return the rows' ids as strings: a column's values, or the row numbers.

        Raises:
            TableError: If the column has missing or repeated values.
        """
        if column is None:
            return pd.Series(np.arange(len(self)), name="row_id").astype("str")
        values = self.column(column)
        if values.isna().any():
            rows = listed(np.flatnonzero(values.isna().to_numpy()))
            raise TableError(f"{self.name}: id column '{column}' is empty in row(s) {rows}; fill it or do not use it")
        twice = values[values.duplicated()].unique()
        if len(twice):
            raise TableError(f"{self.name}: id column '{column}' repeats {listed(twice)}; ids must be unique")
        return values.astype("str").rename("row_id")


def row_keys(ids: pd.Series) -> npt.NDArray[np.int64]:
    """Return a 64-bit key per row id (pandas' SipHash-2-4), equal on every machine and for every order of rows."""
    hashed = pd.util.hash_array(ids.to_numpy(dtype=object), categorize=False)
    return hashed.view(np.int64)


def read_table(source: str | Path | pd.DataFrame) -> Table:
    """Read a table.

    Args:
        source: A `.csv`, `.tsv`, `.parquet`, `.jsonl` or `.ndjson` file (text may end in `.gz`), or a DataFrame.

    Raises:
        TableError: If the file is missing, empty, of an unknown format or malformed.
    """
    if isinstance(source, pd.DataFrame):
        table = Table(source.reset_index(drop=True), "the DataFrame", Path.cwd(), source.index)
    else:
        path = expanded(source)
        table = Table(_read_file(path).reset_index(drop=True), path.name, path.resolve().parent)
    if not len(table):
        raise TableError(f"{table.name} has no rows")
    table.frame.columns = table.frame.columns.astype(str)
    _refuse_repeated(table.frame.columns, table.name)
    _refuse_bytes(table)
    return table


def _refuse_bytes(table: Table) -> None:
    for name, column in table.frame.items():
        if column.dtype == object and pd.api.types.infer_dtype(column) in ("bytes", "mixed", "mixed-integer"):
            rows = [row for row, value in enumerate(column) if isinstance(value, bytes | bytearray | memoryview)]
            if rows:
                raise TableError(
                    f"column '{name}' of {table.name} holds bytes in row(s) {listed(rows)}; decode them to text, or "
                    "write them to files and give their paths"
                )


def _refuse_repeated(names: Iterable[str], table: str) -> None:
    if twice := repeated(names):
        raise TableError(f"{table} has several columns named {listed(twice)}; rename all but one")


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that there are several of."""
    return [name for name, count in Counter(names).items() if count > 1]


def _read_file(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise TableError(f"there is no file {path}")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in READERS:
        raise TableError(f"{path.name}: cannot read '{suffix}' files; use one of {listed(READERS, 9)}")
    try:
        match suffix.lower():
            case ".csv" | ".tsv":
                return _read_csv(path, "\t" if suffix.lower() == ".tsv" else ",")
            case ".parquet":
                return pd.read_parquet(path)
            case _:
                # A quoted number in JSON is a string on purpose, so nothing is converted.
                return pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason}); "
            "save it as UTF-8, for example with `iconv -f latin1 -t utf-8`"
        ) from error
    except TableError:
        raise
    except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
        problem = str(error) or type(error).__name__
        if "columns, got" in problem:
            problem += "; every row needs as many cells as the header, and quotes around a comma"
        raise TableError(f"{path.name} cannot be read: {problem}") from error


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    """Read a CSV file strictly: rows that are shorter or longer than the header are refused, not filled or shifted."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    data.decode("utf-8")
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    header = next(csv.reader(text, delimiter=separator), None)
    if header is None:
        raise TableError(f"{path.name} is empty")
    names = [name if name else f"Unnamed: {place}" for place, name in enumerate(header)]
    _refuse_repeated(names, path.name)
    if data.count(b'"') % 2:
        _refuse_open_quote(data, separator)
    words = arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(
            column_names=names, skip_rows_after_names=1, use_threads=False, block_size=_BLOCK
        ),
        parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=MISSING_WORDS, strings_can_be_null=True
        ),
    )
    frame = words.to_pandas()
    return pd.DataFrame({name: _typed(frame[name]) for name in names})


def _refuse_open_quote(data: bytes, separator: str) -> None:
    # Arrow takes all that follows a quotation mark without a partner as one cell; Python's own reader can object.
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    try:
        deque(csv.reader(text, delimiter=separator, strict=True), maxlen=0)
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError("a quotation mark is opened and never closed") from error


def _typed(words: pd.Series) -> pd.Series:
    """Turn a column of words into numbers or true/false where every cell is one and nothing is lost by it."""
    present = words.dropna()
    if present.empty or present.str.match(LEADING_ZERO).any():
        return words
    if len(present) == len(words) and set(present.drop_duplicates().head(9).str.lower()) <= {"true", "false"}:
        return words.str.lower() == "true"
    try:
        numbers = pd.to_numeric(words)
    except (ValueError, TypeError):
        return words
    if not pd.api.types.is_integer_dtype(numbers) and present.str.match(_LONG_CODE).any():
        return words
    return numbers


def finite_numbers(cells: pd.Series) -> npt.NDArray[np.float64]:
    """Return a column's cells as numbers, NaN where a cell is missing, infinite or no number."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def first_is_day(dates: pd.Series) -> bool:
    """Return whether dates such as 03/04/2020 are to be read as day/month: some other value allows nothing else.

    Dates with dots are always day.month.
    """
    words = dates.dropna().astype("str")
    return bool(words.str.match(r"\s*(1[3-9]|2\d|3[01])[-/]\d{1,2}[-/]|\s*\d{1,2}\.\d{1,2}\.\d").any())


def parse_dates(dates: pd.Series, day_first: bool) -> pd.Series:
    """Return dates as UTC times, missing where a value is no date; those without a zone count as UTC."""
    if pd.api.types.is_datetime64_any_dtype(dates):
        return pd.to_datetime(dates, utc=True)
    words = dates.astype("str")
    # pandas would also swap day and month of 2020-03-04, where the order is not in doubt.
    swapped = day_first & ~words.str.match(r"\s*\d{3,4}", na=False)
    times = pd.to_datetime(words.mask(swapped), errors="coerce", format="mixed", utc=True)
    if not swapped.any():
        return times
    return times.fillna(pd.to_datetime(words.where(swapped), errors="coerce", format="mixed", dayfirst=True, utc=True))
