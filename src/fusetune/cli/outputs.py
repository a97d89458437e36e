"""Refusing outputs that would take the place of an input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from os import stat_result
from pathlib import Path
from typing import TYPE_CHECKING

from fusetune.errors import UserError
from fusetune.record import is_run

if TYPE_CHECKING:
    from fusetune.data.dataset import Dataset
    from fusetune.data.table import Table

_PIECE = 1024  # rows of a dataset that are held
# Ways to write a path in a table that lead to a file on this machine.
_PATH = re.compile(r"^(?:file|local)://|^(?:file|local):|#frame=\d+$")


def refuse_loss(
    option: str, path: Path | None, *sources: Path | str | None, table: Table | Dataset | None = None
) -> None:
    """Refuse an output that would replace what is read: the same file under any name, or one in a folder that is read.

    Args:
        option: What the command line calls the output.
        path: Where it goes; None: nowhere.
        sources: Files and folders that are read. Of a model within a run's folder, it is the whole folder.
        table: The table, if it was read or opened before: no file that a cell of it names may be replaced either. Else
            it is read from those sources that are files, where the output exists already.

    Raises:
        UserError: Naming the output, and what it would replace.
    """
    try:  # resolved, since a folder in it that does not exist yet is made, and `new/..` then leads back
        there = None if path is None else path.expanduser().resolve().stat()
    except (OSError, ValueError):  # nothing is there, or cannot be: writing it says so
        return
    if there is None or path is None:
        return
    for source in filter(None, map(_whole, sources)):
        if _same(source, there):
            raise UserError(f"{option} {path} is {source}, which is read; choose another name")
        if source.is_dir() and any(_same(file, there) for file in source.rglob("*")):
            raise UserError(f"{option} {path} is a file of {source}; choose another name")
    files = [] if table is not None else [source for source in filter(None, map(_whole, sources)) if source.is_file()]
    if table is None and not files:
        return
    from fusetune.data.dataset import Dataset
    from fusetune.data.table import read_pieces, read_table

    tables: Iterable[Table] = map(read_table, files)
    if table is not None:
        tables = read_pieces(table, _PIECE) if isinstance(table, Dataset) else [table]
    for it in tables:
        for column, cell in _named(it, there):
            raise UserError(f"{option} {path} is '{cell}' in column '{column}' of the table; choose another name")


def _whole(source: Path | str | None) -> Path | None:
    """Return a source as a path, and a run's folder for the model in it."""
    path = None if source is None else Path(source).expanduser()
    return path.parent if path is not None and path.is_dir() and is_run(path.absolute().parent) else path


def _named(table: Table, there: stat_result) -> Iterator[tuple[str, str]]:
    import pandas as pd

    for name, cells in table.frame.items():
        if not pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_datetime64_any_dtype(cells):
            for cell in cells:
                if isinstance(cell, str) and _same(table.root / _PATH.sub("", cell.strip()), there):
                    yield str(name), cell


def _same(path: Path, there: stat_result) -> bool:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino)
