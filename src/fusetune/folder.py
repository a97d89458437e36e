"""The folder of a run: where it is, whether a run may start or continue in it, and whether it is finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fusetune.config import Config
from fusetune.data.schema import Schema
from fusetune.data.table import Table
from fusetune.errors import UserError, listed
from fusetune.files import expanded, plain_name, sweep
from fusetune.prepare import NEUTRAL

# What a run writes before it has trained anything.
_START = {"config.yaml", "schema.json", "split.parquet", "log.jsonl", "findings.json", "findings.html"}


def open_folder(out: str | Path | None, table: Table, label: str, resume: bool) -> Path:
    """Return the folder of a run, created if need be.

    Without `out`, it is `runs/<table>-<label>` (and a hash, where these cannot stand in a name as they are), with a
    number where that is taken by a finished run.

    Raises:
        UserError: If the folder is a file, cannot be created, or holds something else and the run is not resumed.
    """
    name = f"{Path(table.name).stem}-{label}"
    folder = expanded(out) if out is not None else Path("runs") / plain_name(name)
    if out is None and is_finished(folder) and not resume:
        number = 2
        while folder.with_name(f"{folder.name}-{number}").exists():
            number += 1
        folder = folder.with_name(f"{folder.name}-{number}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --out")
    if folder.exists() and not resume and not _untrained(folder):
        raise UserError(
            f"{folder} is not empty; choose another folder with --out, or continue the run in it with --resume"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder: a second process that wants it is refused. The lock ends with the process, however it ends.

    What a killed run left half-written there is removed first.

    Raises:
        UserError: If another run is working in the folder, or nothing can be written there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another run is working in {folder}; wait for it, or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
    try:
        sweep(folder)
        yield
    finally:
        lock.release()


def is_finished(folder: Path) -> bool:
    """Return whether the run in a folder has come to its end; `metrics.json` is written last of all."""
    return (folder / "metrics.json").exists()


def refuse_other_run(folder: Path, settings: Config, schema: Schema) -> None:
    """Refuse to continue a run with settings or columns that would change its result.

    Raises:
        UserError: Naming what differs.
    """
    if _untrained(folder):
        return
    changed: list[str] = []
    if (folder / "config.yaml").exists():
        before, now = Config.build(folder / "config.yaml").leaves(NEUTRAL), settings.leaves(NEUTRAL)
        changed += [f"{key}: {before.get(key)} then, {now[key]} now" for key in now if before.get(key) != now[key]]
    if (folder / "schema.json").exists():
        old, new = _roles(Schema.load(folder / "schema.json")), _roles(schema)
        differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        changed += [
            f"column '{name}': {old.get(name, 'absent')} then, {new.get(name, 'absent')} now" for name in differing
        ]
    if changed:
        raise UserError(
            f"the run in {folder} was started with other settings ({listed(changed)}); resume it with the same "
            "settings, or choose another --out"
        )


def _untrained(folder: Path) -> bool:
    """Return whether nothing would be lost by starting anew: only the files of a start, no checkpoint."""
    if any(path.name not in _START | {"stages"} and not path.name.startswith(".") for path in folder.iterdir()):
        return False
    return not any((folder / "stages").rglob("*.pt"))


def _roles(schema: Schema) -> dict[str, str]:
    roles = {column.name: f"{column.role}, {column.kind}" for column in schema.columns}
    return roles | {f"vector {name}": listed(columns) for name, columns in schema.vectors.items()}
