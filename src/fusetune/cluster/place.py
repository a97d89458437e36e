"""The folder of a job: what is handed to workers and what they leave, a file per chunk, each whole or not there.

A chunk's name follows from its rows and from a hash of all that its result depends on. Whoever works on it writes the
same file, however often it is done, so that no row is lost and none is doubled; and whoever continues a job finds what
stands. What is handed out is a pickle: its hash travels through Ray, and a file that does not match it is not opened.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusetune.errors import RunError, UserError
from fusetune.files import file_hash, names_in, sweep, write_text, written_aside
from fusetune.folder import held

MARK, MANIFEST = "job.json", "manifest.json"
_LOCK = ".lock"  # of who is at work in the folder
_GIVEN, _DONE, _SUMS, _TRIES = "given", "done", "sums", "tries"
_FORMAT = 1
_CHUNK = r"\d{12}-\d{12}-[0-9a-f]{32}"
_OURS = re.compile(
    rf"{MARK}|{MANIFEST}|{_GIVEN}/{_CHUNK}\.pkl|{_DONE}/{_CHUNK}\.(parquet|safetensors)|{_SUMS}/{_CHUNK}\.sha256"
    rf"|{_TRIES}/{_CHUNK}\.(\d+|row)|(.*/)?\.[^/]*\.fusetune-[0-9a-f]{{8}}(\.\w+)?"
)


@dataclass(frozen=True)
class Chunk:
    """Rows that are worked on together.

    Attributes:
        start: The first row.
        stop: The row behind the last.
        digest: SHA-256 of what is handed out.
        name: Of its files: rows, and a hash of all that its result depends on.
    """

    start: int
    stop: int
    digest: str
    name: str

    @property
    def rows(self) -> str:
        """Its rows in words."""
        return f"row {self.start:,}" if self.stop - self.start == 1 else f"rows {self.start:,} to {self.stop - 1:,}"


@dataclass(frozen=True)
class Place:
    """The folder of a job, which every worker sees under the same path.

    Attributes:
        folder: It.
        suffix: Of results: .parquet or .safetensors.
    """

    folder: Path
    suffix: str

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Hold the folder, which is made or was left by an earlier attempt; one without any result goes with an error.

        Args:
            what: What the job does, for people who find the folder.

        Raises:
            UserError: If something else is in it, or another command works in it.
            WriteError: If it cannot be written.
        """
        with held(self.folder):
            self._open(what)
            try:
                yield
            except BaseException:
                if not any((self.folder / _DONE).iterdir()):
                    self.discard()
                raise

    def _open(self, what: str) -> None:
        if self.folder.exists() and not is_job(self.folder):
            raise UserError(
                f"{self.folder} is where chunks go until all are done, and holds something else: move it away, or "
                "choose another name"
            )
        if not (self.folder / MARK).exists():
            write_text(self.folder / MARK, json.dumps({"format": _FORMAT, "what": what}))
        for name in (_GIVEN, _DONE, _SUMS, _TRIES):
            (self.folder / name).mkdir(exist_ok=True)
        for file in (self.folder / _TRIES).iterdir():  # what ended processes then may have been mended since
            file.unlink(missing_ok=True)

    def hand(self, start: int, stop: int, piece: Any, how: str) -> Chunk:
        """Write down what a worker is given, unless its result stands.

        Args:
            start: The first row.
            stop: The row behind the last.
            piece: All that the work needs of them.
            how: Hash of what else the result depends on.
        """
        content = pickle.dumps(piece, protocol=5)
        digest = hashlib.sha256(content).hexdigest()
        key = hashlib.sha256(f"{how}\n{digest}".encode()).hexdigest()
        chunk = Chunk(start, stop, digest, f"{start:012d}-{stop:012d}-{key[:32]}")
        path = self._given(chunk)
        if not (self.done(chunk).exists() or path.exists()):
            with written_aside(path) as aside:
                aside.write_bytes(content)
        return chunk

    def piece(self, chunk: Chunk) -> Any:
        """Return what was handed out for a chunk.

        Raises:
            RunError: If the file is not the one that was written.
        """
        content = self._given(chunk).read_bytes()
        if hashlib.sha256(content).hexdigest() != chunk.digest:
            raise RunError(f"{self._given(chunk)} was changed since it was written; remove {self.folder}, start again")
        return pickle.loads(content)

    @property
    def mark(self) -> Path:
        """The file that says what the folder is, by which nodes are asked whether they see it."""
        return self.folder / MARK

    def done(self, chunk: Chunk) -> Path:
        """Return where a chunk's result is."""
        return self.folder / _DONE / f"{chunk.name}{self.suffix}"

    def vouch(self, chunk: Chunk, aside: Path) -> None:
        """Note the hash of a result that is about to take its name."""
        write_text(self._sum(chunk), file_hash(aside))

    def tries(self, chunk: Chunk) -> int:
        """Return how often the work on a chunk was begun and did not end."""
        return sum(1 for path in (self.folder / _TRIES).glob(f"{chunk.name}.*") if path.suffix != ".row")

    def begin(self, chunk: Chunk) -> None:
        """Note that the work on a chunk begins."""
        (self.folder / _TRIES / f"{chunk.name}.{self.tries(chunk)}").touch()

    def at(self, chunk: Chunk, row: int) -> None:
        """Note which row of a chunk is worked on."""
        (self.folder / _TRIES / f"{chunk.name}.row").write_text(str(row), encoding="ascii")

    def last(self, chunk: Chunk) -> int | None:
        """Return which row of a chunk was noted last."""
        with suppress(OSError, ValueError):
            return int((self.folder / _TRIES / f"{chunk.name}.row").read_text(encoding="ascii"))
        return None

    def end(self, chunk: Chunk) -> None:
        """Note that the work on a chunk came to an end, good or bad."""
        for path in (self.folder / _TRIES).glob(f"{chunk.name}.*"):
            path.unlink(missing_ok=True)

    def seal(self, chunks: Sequence[Chunk], rows: int) -> None:
        """Write the manifest: which file holds which rows, with its hash. What workers left half-written goes.

        Raises:
            RunError: If a chunk is missing or was changed, or chunks do not hold every row once.
        """
        at = 0
        for chunk in sorted(chunks, key=lambda one: one.start):
            if chunk.start != at or chunk.stop <= chunk.start:
                raise RunError(f"chunks do not hold every row once: after row {at:,} comes {chunk.rows}")
            at = chunk.stop
        if at != rows or (missing := [chunk for chunk in chunks if not self.done(chunk).exists()]):
            lost = f"rows from {at:,} on" if at != rows else f"{len(missing):,} of {len(chunks):,} chunks"
            raise RunError(f"{lost} are missing in {self.folder}; do the same again to continue")
        for name in (_DONE, _SUMS):
            sweep(self.folder / name, r"\d{12}-\d{12}-[0-9a-f]+")
        listing = []
        for one in chunks:
            path, found = self.done(one), file_hash(self.done(one))
            if not self._sum(one).exists() or self._sum(one).read_text("utf-8") != found:
                raise RunError(f"{path} was changed after it was written; remove {self.folder} and start again")
            listing.append({"start": one.start, "stop": one.stop, "file": f"{_DONE}/{path.name}", "sha256": found})
        write_text(self.folder / MANIFEST, json.dumps({"format": _FORMAT, "rows": rows, "chunks": listing}, indent=1))

    def discard(self) -> None:
        """Remove the folder, once what it held is kept elsewhere; nothing that is not ours."""
        if is_job(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _sum(self, chunk: Chunk) -> Path:
        return self.folder / _SUMS / f"{chunk.name}.sha256"

    def _given(self, chunk: Chunk) -> Path:
        return self.folder / _GIVEN / f"{chunk.name}.pkl"


def is_job(folder: Path) -> bool:
    """Return whether a folder holds a job and nothing else; an empty one does."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    names = names_in(folder) - {_LOCK}
    return not names or (MARK in names and _all_ours(names))


def _all_ours(names: Iterable[str]) -> bool:
    return all(_OURS.fullmatch(name) for name in names)
