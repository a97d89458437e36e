"""Writing files so that a reader never sees half of one: write aside, flush to disk, then rename.

A process that is killed while it writes leaves what it wrote aside, under a name that begins with a dot and that nobody
but fusetune gives. Nobody takes that for a result, and `sweep` removes it. Nothing else is ever removed or replaced but
the file that is written anew, and a folder only where its caller knows that all in it may go.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from fusetune.errors import WriteError

_OURS = r"\.fusetune-[0-9a-f]{8}(\.\w+)?"
# Of a long name only the beginning is kept, since a file system takes 255 bytes.
_NAME, _SUFFIX = 40, 20
# Names of devices on Windows, whatever comes after a dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there, then do the same again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place where files may be written"),
    **dict.fromkeys(
        (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "something else has this name, and stays as it is: move it away, or choose another name",
    ),
}


@contextmanager
def written_aside(path: Path, replaces: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name of `path` only if the block succeeds.

    Works for files and for folders.

    Args:
        path: What is written.
        replaces: Says whether a filled folder of that name may go.

    Raises:
        WriteError: If the disk is full, nothing may be written there, something else has that name, or the block raises
            another `OSError`.
    """
    path = expanded(path)
    aside = _aside(path)
    made: list[Path] = []  # folders for it, which go again if there is nothing to put into them
    try:
        made += [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir():
            _replace_folder(aside, path, replaces)
        else:
            with aside.open("r+b") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
            aside.replace(path)
        made.clear()
    except WriteError as error:
        if error.place is not None and not error.place.is_relative_to(aside):
            raise  # of another file, written within the block
        raise cannot_write(path, error) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _discard(aside)
        for folder in made:
            with suppress(OSError):  # it is there no more, or something else is in it by now
                folder.rmdir()


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return the error that says what cannot be written, why, and what to do."""
    # Files within a folder that is written aside have no names yet that would tell anybody anything.
    cause = error.__cause__ if isinstance(error, WriteError) and isinstance(error.__cause__, OSError) else error
    remedy = _REMEDIES.get(cause.errno or 0, "look at the space and the rights there")
    refusal = WriteError(f"cannot write {path}: {cause.strerror or cause}; {remedy}")
    refusal.place = path
    return refusal


def rename_folder(aside: Path, path: Path) -> None:
    """Give a folder the name of nothing, or of an empty folder; the system refuses any other.

    Raises:
        OSError: If something else has that name.
    """
    if sys.platform == "win32" and path.is_dir():  # refuses an empty one, too; this removes no other
        path.rmdir()
    aside.rename(path)


def sweep(folder: Path, names: str) -> None:
    """Remove what killed processes left half-written in a folder that nobody else is writing to.

    Args:
        folder: The folder.
        names: What is written there: a regular expression for the names of files and folders.
    """
    for path in folder.iterdir():
        if re.fullmatch(rf"\.({names}){_OURS}", path.name) and not path.is_symlink():
            _discard(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def facts_hash(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what JSON says, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
        return expanded(folder) / name
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "fusetune" / name
    return (_own_temporary() if cache_is_temporary() else Path.home() / ".cache" / "fusetune") / name


def cache_is_temporary() -> bool:
    """Return whether the cache lies among temporary files: no folder is named for it, and the user has no home."""
    return not (has_home() or os.environ.get("FUSETUNE_CACHE") or os.environ.get("XDG_CACHE_HOME"))


def has_home() -> bool:
    """Return whether there is a home folder: HOME is set, or the system knows the user."""
    try:
        return bool(Path.home())
    except RuntimeError:
        return False


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in the place of a leading `~/`; `~x.csv` is a file's name."""
    parts = Path(path).parts
    return Path.home().joinpath(*parts[1:]) if parts[:1] == ("~",) and has_home() else Path(path)


@cache
def _own_temporary() -> Path:
    """Return a temporary folder that nobody else may write to, the same in later processes where that is possible."""
    try:
        user = getattr(os, "getuid", lambda: 0)()  # Windows has none, and a temporary folder for every user
        folder = Path(tempfile.gettempdir()) / f"fusetune-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == user and not facts.st_mode & 0o022:
            return folder
        return Path(tempfile.mkdtemp(prefix="fusetune-"))
    except OSError:  # there is no place for temporary files: nothing is kept
        return Path(os.devnull) / "fusetune"


def cleaned(text: str) -> str:
    """Return letters of a text that can stand in the name of a file on every system: up to 60, no spaces or slashes."""
    letters = re.sub(r"[^\w.-]+", "-", text)[:60].lstrip(".")
    return f"_{letters}" if _RESERVED.match(letters) else letters


def plain_name(text: str) -> str:
    """Return a name for a file or folder: the text if it can be one, else what is left of it and a hash of its own."""
    letters = cleaned(text)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return letters if letters == text else f"{letters}-{digest[:8]}"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in(folder: Path) -> set[str]:
    """Return the names of all files in a folder and in those below it, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name[:_NAME]}.fusetune-{uuid4().hex[:8]}{path.suffix[:_SUFFIX]}")


def _discard(path: Path) -> None:
    # Asked first, since on a read-only disk even the removal of what is not there is an error.
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _replace_folder(aside: Path, path: Path, replaces: Callable[[Path], bool]) -> None:
    # A folder cannot be renamed over a filled one, so the old one steps aside first and is removed last.
    if path.is_dir() and not path.is_symlink() and any(path.iterdir()) and replaces(path):
        old = _aside(path)
        path.rename(old)
        aside.rename(path)
        shutil.rmtree(old)
    else:
        rename_folder(aside, path)
