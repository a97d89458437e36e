"""The folder of an export: a mark with the hash of every file, so that nothing else is ever replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusetune.errors import UserError
from fusetune.files import file_hash, names_in, parse_json, write_text, written_aside
from fusetune.version import VERSION

MARK = "export.json"


@contextmanager
def export_folder(path: Path, kind: str, facts: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder aside; it takes its name, with a mark in it, if the block succeeds.

    Args:
        path: The folder; one that holds an earlier export, unchanged, is replaced.
        kind: What it is an export to.
        facts: What else the mark says; may be filled in the block.

    Raises:
        WriteError: As `files.written_aside` does.
    """
    with written_aside(path, is_export) as aside:
        aside.mkdir(parents=True)
        yield aside
        files = {name: file_hash(aside / name) for name in sorted(names_in(aside))}
        content = {"fusetune": VERSION, "to": kind, **facts, "files": files}
        write_text(aside / MARK, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an export as it was written, and nothing else."""
    try:
        files = parse_json((folder / MARK).read_bytes())["files"]
        there = names_in(folder) == {MARK, *files}
        return there and all(file_hash(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def refuse_target(out: Path, home: Path) -> None:
    """Refuse a place for an export before anything is computed.

    Args:
        out: The folder to write.
        home: The folder of what is exported.

    Raises:
        UserError: Saying what is there.
    """
    place, source = out.resolve(), home.resolve()
    if place == source or source.is_relative_to(place) or place.is_relative_to(source):
        raise UserError(f"--out {out} and {home}, which is exported, are one within the other; choose a folder apart")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"--out {out} is no folder; choose another name")
    if out.is_dir() and any(out.iterdir()) and not is_export(out):
        marked = f" (its {MARK} is of an export that was changed since)" if (out / MARK).exists() else ""
        raise UserError(f"--out {out} holds other things{marked}, which stay: move them away, or choose another name")
