"""The user's table: CSV, Parquet, JSON Lines or a DataFrame, as typed columns with one id per row.

Strings stay in Arrow memory, so that no Python object exists per row. Every row has an id (a column's values, or the
row number) and a 64-bit key derived from it; splits and augmentation depend on the key alone, never on the position.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.errors import TableError, listed

# "None" and "-" are not here: they are words that people use as categories.
MISSING_WORDS = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "<NA>"]
READERS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Table:
    """A table and where it came from.

    Attributes:
        frame: The columns, with a plain 0..n-1 index.
        name: What to call the table in messages.
        root: Folder that relative image paths start from.
    """

    frame: pd.DataFrame
    name: str
    root: Path

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
        repeated = values[values.duplicated()].unique()
        if len(repeated):
            raise TableError(f"{self.name}: id column '{column}' repeats {listed(repeated)}; ids must be unique")
        return values.astype("str").rename("row_id")


def row_keys(ids: pd.Series) -> npt.NDArray[np.int64]:
    """Return a 64-bit key per row id, the same on every machine and for every order of rows."""
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
        table = Table(source.reset_index(drop=True), "the DataFrame", Path.cwd())
    else:
        path = Path(source).expanduser()
        table = Table(_read_file(path).reset_index(drop=True), path.name, path.resolve().parent)
    if not len(table):
        raise TableError(f"{table.name} has no rows")
    repeated = table.frame.columns[table.frame.columns.duplicated()]
    if len(repeated):
        raise TableError(f"{table.name} has several columns named {listed(repeated)}; rename all but one")
    table.frame.columns = table.frame.columns.astype(str)
    return table


def _read_file(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise TableError(f"there is no file {path}")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        match suffix.lower():
            case ".csv" | ".tsv":
                separator = "\t" if suffix.lower() == ".tsv" else ","
                return pd.read_csv(
                    path,
                    sep=separator,
                    keep_default_na=False,
                    na_values=MISSING_WORDS,
                    encoding="utf-8-sig",
                    low_memory=False,
                )
            case ".parquet":
                return pd.read_parquet(path)
            case ".jsonl" | ".ndjson":
                return pd.read_json(path, lines=True, convert_dates=False)
            case _:
                raise TableError(f"{path.name}: cannot read '{suffix}' files; use one of {listed(READERS, 9)}")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason}); "
            "save it as UTF-8, for example with `iconv -f latin1 -t utf-8`"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OSError) as error:
        raise TableError(f"{path.name} cannot be read: {error}") from error
