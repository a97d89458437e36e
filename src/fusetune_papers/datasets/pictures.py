"""Pictures beside the rows of a published data set: which are there, and their paths as they stand in a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from fusetune.errors import UserError, listed
from fusetune_papers.datasets.choices import Missing

Warn = Callable[[str], None]


def with_pictures(
    table: pd.DataFrame, paths: pd.Series, there: set[str], folder: Path,
    missing: Missing, root: Path | None, warn: Warn, rows: str = "rows",
) -> pd.DataFrame:  # fmt: skip
    """Add the column `image`, relative to `root`; complain about rows without picture, mention pictures without row.

    Args:
        table: One row per picture.
        paths: Path of each row's picture below the folder.
        there: Paths of all pictures.
        folder: Where they are.
        missing: What to do about rows without their picture.
        root: Folder of the table.
        warn: Called with a sentence about what is unusual.
        rows: What rows are called in sentences.

    Raises:
        UserError: Pictures are missing, all of them or not to be left out.
    """
    absent = ~paths.isin(there)
    if extra := sorted(there - set(paths)):
        warn(f"{len(extra):,} files in {folder} belong to no row and are left out: {listed(extra, 3)}")
    if absent.any():
        lost = f"{int(absent.sum()):,} of {len(table):,} {rows} have no picture in {folder}: {listed(paths[absent], 3)}"
        if missing == "error" or absent.all():
            raise UserError(
                f"{lost}. Is it the right folder? Fetch them, leave these rows out with --missing drop, or make "
                "a table of the rest with --without-images"
            )
        warn(f"{lost}; these rows are left out")
    start = _relative(folder, root)
    table.insert(1, "image", [f"{start}/{path}" for path in paths])
    return table[~absent.to_numpy()]


def _relative(path: Path, root: Path | None) -> str:
    """Return a path with forward slashes: relative to `root` (the table's folder) where that is possible."""
    whole = path.resolve()
    if root is None:
        return whole.as_posix()
    try:
        return Path(os.path.relpath(whole, root.resolve())).as_posix()
    except ValueError:  # on another drive
        return whole.as_posix()
