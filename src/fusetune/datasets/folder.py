"""Folders that data commands make: complete or not there, used again, and never in the place of somebody's files."""

from __future__ import annotations

from pathlib import Path

from fusetune.errors import UserError
from fusetune.files import cannot_write

README = "README.txt"


def finished(out: Path, table: str, title: str) -> bool:
    """Say whether `out` is the complete result of an earlier call; it was renamed into place, so never a part."""
    readme = out / README
    return (out / table).is_file() and readme.is_file() and readme.read_text("utf-8", "replace").startswith(title)


def check_free(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: If it does.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and was not made by this command, so it stays as it is. Name another folder.")


def make_parents(out: Path) -> None:
    """Make the folders that `out` will lie in.

    Raises:
        WriteError: If there can be none.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
