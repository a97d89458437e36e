"""Paths of pictures as they stand in a table."""

from __future__ import annotations

import os
from pathlib import Path


def relative_path(path: Path, root: Path | None) -> str:
    """Return a path with forward slashes: relative to `root` (the table's folder) where that is possible."""
    whole = path.resolve()
    if root is None:
        return whole.as_posix()
    try:
        return Path(os.path.relpath(whole, root.resolve())).as_posix()
    except ValueError:  # on another drive
        return whole.as_posix()
