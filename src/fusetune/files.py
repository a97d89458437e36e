"""Writing files so that a reader never sees half of one: write aside, flush to disk, then rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name of `path` only if the block succeeds.

    Works for files and for folders (an existing folder of that name is replaced).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}{path.suffix}")
    try:
        yield aside
        if aside.is_dir():
            _replace_folder(aside, path)
        else:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def cache_folder(name: str) -> Path:
    """Return a folder of the user's cache (in `FUSETUNE_CACHE`, else in the system's usual place)."""
    given = os.environ.get("FUSETUNE_CACHE")
    if given:
        return Path(given) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusetune" / name


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace_folder(aside: Path, path: Path) -> None:
    # A folder cannot be renamed over a filled one, so the old one steps aside first and is removed last.
    old = path.with_name(f".{path.name}.{uuid4().hex[:8]}.old")
    if path.exists():
        path.rename(old)
    aside.rename(path)
    if old.exists():
        shutil.rmtree(old)
