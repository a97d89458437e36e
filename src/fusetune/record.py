"""`run.json`: the mark of a run's folder, hashes of all that the run is made from, and of every file that it wrote.

It is the first file of a run, and is written again when the files of its start are there and before `metrics.json`,
which comes last. What is not as it says was changed or damaged since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusetune.errors import UserError, listed
from fusetune.files import facts_hash, file_hash, write_text
from fusetune.version import VERSION

NAME, METRICS = "run.json", "metrics.json"
# What a run writes before it has trained anything, and what it ends with.
START = ("config.yaml", "schema.json", "split.parquet", "findings.json", "findings.html")
END = ("predictions.parquet", "report.html", "model/bundle.json", METRICS)
_FORMAT = 1
_SAID = {"rows", "groups", "gain", "comparisons", "warnings", "rows_hash", "test"}
_REMEDY = "put it back from a copy, or start again in another folder with --out"


@dataclass(frozen=True)
class Record:
    """What a run is made from, and what it wrote.

    Attributes:
        rows: How many rows the table has.
        rows_hash: Hash of which row has which label, after what the doctor dropped.
        columns: Hash of the values of every column that is used for something other than pictures.
        pictures: Hash of the pictures of each image column, wherever they lie; empty until they were read.
        files: Hash of every file that is complete.
    """

    rows: int
    rows_hash: str
    columns: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Return the record in a folder, or None where there is none.

        Raises:
            UserError: If it is damaged, or of a newer version.
        """
        path = folder / NAME
        try:
            facts = json.loads(_content(path))
            whole = facts.pop("checksum") == facts_hash(facts)
            newer = facts["format"] != _FORMAT and facts["fusetune"]
            record = cls(**facts["record"]) if whole and not newer else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({error}), so nobody can tell what is in that folder; {_REMEDY}"
            ) from error
        if not whole:
            raise UserError(f"{path} was changed or damaged after the run wrote it; {_REMEDY}")
        if newer:
            raise UserError(f"{path} was written by fusetune {newer}, a newer version; install that one")
        return record

    def write(self, folder: Path) -> None:
        """Write the record whole or not at all."""
        facts = {"format": _FORMAT, "fusetune": VERSION, "record": self.__dict__}
        write_text(folder / NAME, json.dumps(facts | {"checksum": facts_hash(facts)}, indent=1))

    def seal(self, folder: Path, names: Collection[str], **texts: str) -> Record:
        """Write the record with the hashes of files that are there now, and return it."""
        there = {name: file_hash(folder / name) for name in names if (folder / name).is_file()}
        sealed = replace(self, files=there | texts)
        sealed.write(folder)
        return sealed

    def refuse_damage(self, folder: Path, names: Collection[str]) -> None:
        """Refuse files that are not as the run wrote them.

        Raises:
            UserError: Naming each of them.
        """
        wrong = []
        for name in names:
            path, expected = folder / name, self.files.get(name)
            if expected is None:
                continue
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif _hash(path) != expected:
                wrong.append(f"{name} was changed or damaged after the run wrote it")
        if wrong:
            raise UserError(f"the run in {folder} cannot be used as it is: {listed(wrong, 20)}; {_REMEDY}")

    def changes(self, now: Record) -> list[str]:
        """Say in what other inputs differ from those that the run was made from."""
        if self.rows != now.rows:
            return [f"{self.rows:,} rows then, {now.rows:,} now"]
        names = _differing(self.columns, now.columns)
        values = [name for name in names if name in self.columns and name in now.columns]
        said = [f"other values, or another order of the rows, in column(s) {listed(values, 12)}"] if values else []
        if used := [name for name in names if name not in values]:
            said.append(f"column(s) {listed(used, 12)} used only then or only now")
        if not names and self.rows_hash != now.rows_hash:
            said.append("other rows are left, or have other labels")
        if self.pictures and now.pictures and (names := _differing(self.pictures, now.pictures)):
            said.append(f"other pictures, or pictures that are read in another way, in column(s) {listed(names, 12)}")
        return said


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of a finished run.

    Raises:
        UserError: If there are none, or they are damaged or not those that the run wrote.
    """
    path, record = folder / METRICS, Record.read(folder)
    if record is not None and path.is_file() and METRICS not in record.files:
        raise UserError(f"{path} was not written by the run in {folder}, which is not finished; move it away")
    if record is not None:
        record.refuse_damage(folder, [METRICS])
    try:
        metrics: dict[str, Any] = json.loads(_content(path))
        lacking = _SAID - metrics.keys()
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no finished run: {path} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {_REMEDY}") from error
    if lacking:
        raise UserError(f"{path} is damaged: it says nothing of {listed(sorted(lacking))}; {_REMEDY}")
    return metrics


def is_run(folder: Path) -> bool:
    """Return whether a folder has a run's record, or the files of one by an earlier version, which kept none."""
    return (folder / NAME).exists() or all((folder / name).exists() for name in START[:3])


def is_finished(folder: Path) -> bool:
    """Return whether the run in a folder has come to its end; `metrics.json` is written last of all."""
    return (folder / METRICS).exists()


def text_hash(text: str) -> str:
    """Return the SHA-256 of a file that will hold this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # of a pipe, nobody might ever read the end
        raise ValueError("it is no file")
    return path.read_bytes()


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make it readable") from error
