"""What a command is given to read: there, and of the kind that is meant, before anything that takes time is imported.

A folder in the place of a table, a table in the place of a run and both swapped end in one sentence with the command
line as it was probably meant.
"""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fusetune.data.choices import READERS
from fusetune.errors import TableError, UserError, did_you_mean, listed, no_column
from fusetune.record import is_finished, is_run

_MANIFEST = "bundle.json"
_SECRET = "--api-key"  # not to be shown again
_MOST = 200  # files of a folder that are looked at
_FORMATS = listed([*READERS, ".csv.gz"], len(READERS) + 1)


def check_there(*paths: Path | str | None) -> None:
    """Refuse files and folders to read that are not there."""
    for path in paths:
        if path is None:
            continue
        try:
            there = Path(path).expanduser().exists()
        except (OSError, ValueError, RuntimeError):  # what it cannot be is said by who reads it
            continue
        if not there:
            raise UserError(f"there is no file or folder {path}{_near(Path(path))}")


def check_table(table: str | Path, *columns: str | None) -> None:
    """Refuse what is not there, a folder without a Parquet file, and columns that a table's first line does not name.

    Args:
        table: Where it should be.
        columns: Those that were asked for by name.

    Raises:
        UserError: With the command line that was probably meant, where that can be told.
        TableError: If a table of words has no such column.
    """
    check_there(table)
    if not (folder := Path(table).expanduser()).is_dir():
        return _check_columns(folder, [name for name in columns if name is not None])
    if holds_model(folder):
        raise UserError(
            f"{table} is the folder of a run, and a table is meant: a file ({_FORMATS}), or a folder of Parquet files. "
            "What the run found shows:\n"
            f"  fusetune show {table}"
        )
    if any(file.suffix.lower() == ".parquet" for file in folder.rglob("*.[pP]*")):
        return None  # one table, or `data.dataset` says why it is none
    inside = [file for file in _files(folder) if file.name.lower().removesuffix(".gz").endswith(READERS)]
    if len(inside) == 1:
        raise UserError(f"{table} is a folder, and a table is meant: the file in it?{_written({table: inside[0]})}")
    there = f"; in it are {listed(file.name for file in inside)}" if inside else ""
    raise UserError(f"{table} is a folder, and a table is meant: a file ({_FORMATS}){there}")


def check_model(folder: Path) -> None:
    """Refuse what is not there, and a file in the place of a run; raises as `check_table` does."""
    check_there(folder)
    there = folder.expanduser()
    if there.is_file():
        home = next((above for above in list(there.absolute().parents)[:2] if holds_model(above)), None)
        if home is not None:
            home = there.parent if home == there.absolute().parent else there.parent.parent
            raise UserError(
                f"{folder} is a file of a run, and the folder of the run is meant{_written({folder: home})}"
            )
        raise UserError(f"{folder} is a file, and the folder of a run is meant, such as runs/scans")
    if not holds_model(there):
        runs = [one for one in _files(there) if one.is_dir() and holds_model(one)]
        if len(runs) == 1:
            raise UserError(f"{folder} is no run, but holds one{_written({folder: runs[0]})}")
        if runs:
            raise UserError(f"{folder} is no run, but holds several; name one of {listed(runs)}")


def check_model_and_table(folder: Path, table: str) -> None:
    """Refuse a run and a table that are not there, are none, or swapped; raises as `check_table` does."""
    check_there(folder, table)
    run, rows = folder.expanduser(), Path(table).expanduser()
    if run.is_file() and rows.is_dir() and holds_model(rows):
        raise UserError(
            f"{folder} is a table and {table} the folder of a run: the run comes first, then the table"
            + _written({folder: rows, table: run})
        )
    check_model(folder)
    check_table(table)


def holds_model(folder: Path) -> bool:
    """Return whether a folder is one of a run, finished or not, or of a model."""
    try:
        return is_run(folder) or is_finished(folder) or (folder / _MANIFEST).is_file()
    except OSError:
        return False


def _check_columns(table: Path, columns: list[str]) -> None:
    """Refuse a slip in a column's name before the libraries that read tables are imported.

    Only where the names in the first line of a CSV file cannot mean anything else; the rest is left to who reads it.
    """
    if table.suffix.lower() != ".csv" or not columns:
        return
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), ())]
    except (OSError, ValueError, csv.Error):
        return
    plain = all(name and name.isascii() and name.isprintable() for name in header)
    # With another separator than a comma, this is not where names end.
    if len(header) < 2 or not plain or any(mark in name for name in header for mark in ";|\t"):
        return
    for name in columns:
        if name not in header:
            raise TableError(no_column(table.name, name, header))


def _written(instead: Mapping[str | Path, Path]) -> str:
    """Return the command line that was given, with other paths in the place of some; nothing where it shows no such."""
    given = sys.argv[1:]
    meant = [str(next((new for old, new in instead.items() if _same(word, old)), word)) for word in given]
    if meant == given or any(word.startswith(_SECRET) for word in given):
        return "; write " + ", then ".join(map(str, instead.values()))
    words = ["fusetune", *meant]
    return ". Write:\n  " + (subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words))


def _same(word: str, path: str | Path) -> bool:
    return bool(word) and Path(word) == Path(path)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path, _ in zip(folder.iterdir(), range(_MOST), strict=False))
    except OSError:
        return []


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, [other.name for other in path.expanduser().absolute().parent.iterdir()])
    except (OSError, RuntimeError):
        return ""
