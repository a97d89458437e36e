"""Writing files so that a reader never sees half of one: write aside, flush to disk, then rename.

A process that is killed while it writes leaves what it wrote aside under a name that begins with a dot. Nobody takes
that for a result, and `sweep` removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from fusetune.errors import WriteError

_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there, then do the same again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place where files may be written"),
}


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name of `path` only if the block succeeds.

    Works for files and for folders (an existing folder of that name is replaced).

    Raises:
        WriteError: If the disk is full, nothing may be written there, or the block raises another `OSError`.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir():
            _replace_folder(aside, path)
        else:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _discard(aside)


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return the error that says what cannot be written, why, and what to do."""
    # Files within a folder that is written aside have no names yet that would tell anybody anything.
    cause = error.__cause__ if isinstance(error, WriteError) and isinstance(error.__cause__, OSError) else error
    remedy = _REMEDIES.get(cause.errno or 0, "look at the space and the rights there")
    return WriteError(f"cannot write {path}: {cause.strerror or cause}; {remedy}")


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that nobody else is writing to."""
    for path in folder.iterdir():
        if _ASIDE.fullmatch(path.name):
            _discard(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def parse_json(content: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: If it is no JSON, or holds words that no text file can (halves of characters).
    """
    facts = json.loads(content)
    json.dumps(facts, ensure_ascii=False).encode("utf-8")
    return facts


def cache_folder(name: str) -> Path:
    """Return a folder of the user's cache (in `FUSETUNE_CACHE`, else in the system's usual place)."""
    if folder := os.environ.get("FUSETUNE_CACHE"):
        return Path(folder) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusetune" / name


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _discard(path: Path) -> None:
    # Asked first, since on a read-only disk even the removal of what is not there is an error.
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _replace_folder(aside: Path, path: Path) -> None:
    # A folder cannot be renamed over a filled one, so the old one steps aside first and is removed last.
    old = path.with_name(f".{path.name}.{uuid4().hex[:8]}.old")
    if path.exists():
        path.rename(old)
    aside.rename(path)
    if old.exists():
        shutil.rmtree(old)
