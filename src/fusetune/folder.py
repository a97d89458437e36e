"""The folder of a run: where it is, whether a run may start or continue in it, and whether it is finished.

A folder is a run's if it has the run's record. In any other nothing is removed or replaced, and until the table, its
columns and the settings are checked nothing is created or changed at all.
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

from fusetune.bundle import is_bundle
from fusetune.config import Config
from fusetune.data.schema import Schema
from fusetune.data.table import Table
from fusetune.errors import ConfigError, SchemaError, UserError, listed
from fusetune.files import expanded, plain_name, sweep
from fusetune.prepare import NEUTRAL
from fusetune.progress import Log
from fusetune.record import END, NAME, START, Record, is_finished, is_run
from fusetune.strategies import strategy_of

MODEL, STAGES, LOG = "model", "stages", "log.jsonl"
_LOCK = ".lock"
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)


def find_folder(out: str | Path | None, table: Table, label: str, resume: bool) -> Path:
    """Return the folder of a run, which need not exist; nothing there is changed.

    Without `out`, it is `runs/<table>-<label>` (and a hash, where these cannot stand in a name as they are), with a
    number where that is taken by a finished run. Resumed is the one with the highest number.

    Raises:
        UserError: If nothing can be written there, another run is working there, or it holds something else.
    """
    folder = _default(f"{Path(table.name).stem}-{label}", resume) if out is None else expanded(out)
    try:
        probe(folder)
        refuse_taken(folder, resume)
        if (folder / _LOCK).exists():
            with _locked(folder):
                pass
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use the folder {folder}: {getattr(error, 'strerror', None) or error}") from error
    return folder


def refuse_taken(folder: Path, resume: bool) -> None:
    """Refuse a folder with something in it that a run would replace, or that is no run's and is to be resumed.

    Files whose names begin with a dot do not count, and stay.

    Raises:
        UserError: Saying what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --out")
    lock = folder / _LOCK
    if lock.is_symlink() or (lock.exists() and not (lock.is_file() and lock.stat().st_size == 0)):
        raise UserError(f"{lock} is not the lock of a run; move it away, or choose another folder with --out")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if not names:
        return
    if resume and not is_run(folder):
        raise UserError(
            f"{folder} holds no run that could be continued, but {listed(sorted(names))}; name the folder of the run, "
            "or leave out --resume and choose a new folder with --out"
        )
    if not resume and not _untrained(folder, names):
        raise UserError(
            f"{folder} is not empty; choose another folder with --out"
            + (", or continue the run in it with --resume" if is_run(folder) else "")
        )
    if (folder / MODEL).exists() and not is_bundle(folder / MODEL) and not is_finished(folder):
        raise UserError(f"{folder / MODEL} is not a model as the run writes it; move it away")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a run's folder and hold it: a second process is refused. The lock ends with the process, however it ends.

    Raises:
        UserError: If another run is working in the folder, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot create the folder {folder}: {getattr(error, 'strerror', error)}") from error
    with _locked(folder):
        yield


def sweep_folder(folder: Path) -> None:
    """Remove what a killed run left half-written; the folder must be held, and be a run's."""
    sweep(folder, "|".join(map(re.escape, (NAME, *START, *END, MODEL))))


def refuse_other_run(folder: Path, settings: Config, schema: Schema, now: Record) -> Record | None:
    """Refuse to continue a run with what would change its result, or with damaged files of its start.

    Args:
        folder: The folder of the run.
        settings: The settings.
        schema: The columns.
        now: What the run would be made from.

    Returns:
        What the run was made from, where that is known.

    Raises:
        UserError: Naming what differs.
    """
    before, finished = Record.read(folder), is_finished(folder)
    if before is not None:
        before.refuse_damage(folder, [*START, *(END if finished else ())])
    # A finished run is handed out as it was judged.
    neutral = {name: value for name, value in NEUTRAL.items() if not (finished and name == "evaluate")}
    changed = _changes(folder, settings, schema, neutral)
    if changed:
        raise UserError(
            f"the run in {folder} was started with other settings ({listed(changed)}); resume it with the same "
            "settings, or choose another --out"
        )
    refuse_other_rows(folder, before, now)
    return before


def refuse_other_rows(folder: Path, before: Record | None, now: Record) -> None:
    """Refuse to continue a run with other inputs.

    Raises:
        UserError: Saying in what they differ.
    """
    if before is not None and (changed := before.changes(now)):
        raise UserError(
            f"the run in {folder} was made from other rows ({listed(changed)}); resume it with the table and the files "
            "that it was made from, or choose another --out"
        )


def warn_of_earlier(folder: Path, before: Record | None, log: Log) -> None:
    """Say what nobody can know of a run of an earlier version, which kept no record."""
    if before is None and is_run(folder):
        log.warn(
            f"the run in {folder} is of an earlier version of fusetune, which noted the rows' ids and labels only: "
            "whether other columns and pictures are as they were then cannot be known. If they may have changed, "
            "choose another --out"
        )


def _changes(folder: Path, settings: Config, schema: Schema, neutral: dict[str, Any]) -> list[str]:
    changed: list[str] = []
    path = folder / "config.yaml"
    try:
        if path.exists():
            then = Config.build(path)
            alike = then.strategy.name == settings.strategy.name
            before, now = (_leaves(config, neutral, alike) for config in (then, settings))
            names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
            changed += [f"{name}: {before.get(name)} then, {now.get(name)} now" for name in names]
        path = folder / "schema.json"
        if path.exists():
            old, new = _roles(Schema.load(path)), _roles(schema)
            names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            changed += [
                f"column '{name}': {old.get(name, 'absent')} then, {new.get(name, 'absent')} now" for name in names
            ]
    except (ConfigError, SchemaError) as error:
        raise UserError(
            f"{path} is damaged, was changed after the run wrote it, or is of another version: {error}\n"
            "Put it back from a copy, or start again in another folder with --out"
        ) from error
    return changed


def _leaves(settings: Config, neutral: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Return the settings that count; `whole`: also those of the strategy that were left at their defaults."""
    if not whole:
        return settings.leaves(neutral)
    strategy = strategy_of(settings)[1].model_dump(mode="json")
    return settings.leaves(neutral | {"strategy": True}) | {
        f"strategy.{name}": value for name, value in strategy.items()
    }


def _default(name: str, resume: bool) -> Path:
    first = Path("runs") / plain_name(name)
    places = itertools.chain([first], (first.with_name(f"{first.name}-{number}") for number in itertools.count(2)))
    taken = list(itertools.takewhile(Path.exists, places))
    if resume or not is_finished(first):
        return taken[-1] if resume and taken else first
    return first.with_name(f"{first.name}-{len(taken) + 1}")


def probe(folder: Path) -> None:
    """Look whether anything can be written, by a file without a name, before the table is looked at for minutes."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        if error.errno in _UNWRITABLE:
            what = "write in" if place == folder else "create the folder"
            raise UserError(f"cannot {what} {folder}: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another run is working in {folder}; wait for it, or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _untrained(folder: Path, names: set[str]) -> bool:
    """Return whether nothing would be lost by starting anew: a start's files as it wrote them, no checkpoint."""
    before = Record.read(folder)
    if before is None or not names <= {NAME, *START, LOG, STAGES}:
        return False
    before.refuse_damage(folder, START)
    return not any(path.is_file() for path in (folder / STAGES).rglob("*"))


def _roles(schema: Schema) -> dict[str, str]:
    roles = {column.name: f"{column.role}, {column.kind}" for column in schema.columns}
    roles |= {column.name: f"{roles[column.name]}, several in a row" for column in schema.columns if column.several}
    roles |= {} if schema.gather is None else {schema.gather: "rows are gathered by it"}
    roles |= {f"shared {name}": listed(columns) for name, columns in schema.shared.items()}
    return roles | {f"vector {name}": listed(columns) for name, columns in schema.vectors.items()}
