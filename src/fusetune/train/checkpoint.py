"""Checkpoints: one file per epoch, written whole or not at all, the last few kept, and the best weights beside them.

Each file begins with the SHA-256 of its name and of all that follows. What does not match, or has no such beginning, is
not gone on with: what it held is trained again, and the log says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fusetune.errors import UserError
from fusetune.files import sweep, written_aside
from fusetune.progress import Log
from fusetune.ranks import Ranks

State = dict[str, Any]
_MARK = b"fusetune checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size
_EPOCH, _BEST = r"epoch-\d{4,}\.pt", "best.pt"
_NAMES = rf"{_EPOCH}|{re.escape(_BEST)}"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training stage.

    Attributes:
        folder: Where they are.
        key: What the stage depends on; a checkpoint of another key is refused.
        keep: How many epochs are kept.
        log: Told what is damaged.
        ranks: Who asks: the first of them reads and writes for all.
    """

    folder: Path
    key: str
    keep: int
    log: Log = field(default_factory=Log)
    ranks: Ranks = field(default_factory=Ranks)

    def save(self, epoch: int, state: State) -> None:
        """Write an epoch's state; remove those that are not among the last few, and what a killed process left."""
        if not self.ranks.first:
            return
        self._write(self.folder / f"epoch-{epoch:04d}.pt", state)
        for path in self._epochs():
            # Later ones are of epochs that are trained again, since their files were damaged.
            if not epoch - self.keep < _number(path) <= epoch:
                path.unlink()
        sweep(self.folder, _NAMES)

    def latest(self) -> State | None:
        """Return the state of the newest epoch whose file is intact, or None.

        Raises:
            UserError: If it belongs to other settings, or cannot be read now.
        """
        return self.ranks.lead(
            lambda: next((state for path in reversed(self._epochs()) if (state := self._read(path)) is not None), None)
        )

    def save_best(self, state: State) -> None:
        """Write the best weights so far."""
        if self.ranks.first:
            self._write(self.folder / _BEST, state)

    def best(self) -> State | None:
        """Return the best weights, or None if their file is not intact; raises as `latest` does."""
        return self.ranks.lead(lambda: self._read(self.folder / _BEST))

    def _epochs(self) -> list[Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((path for path in paths if re.fullmatch(_EPOCH, path.name)), key=_number)

    def _write(self, path: Path, state: State) -> None:
        # Through memory, since torch's own writer does not tell a full disk from any other failure.
        whole = io.BytesIO()
        torch.save({"key": self.key, **state}, whole)
        with written_aside(path) as aside, aside.open("wb") as file:
            file.write(_MARK + _digest(path, whole.getbuffer()))
            file.write(whole.getbuffer())

    def _read(self, path: Path) -> State | None:
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            self._distrust(path, "is missing")
            return None
        except OSError as error:
            raise UserError(
                f"cannot read the checkpoint {path}: {error.strerror or error}; make it readable, or delete it to "
                "train what it holds again"
            ) from error
        start = len(_MARK) + _DIGEST
        body = memoryview(whole)[start:]
        if whole[:start] != _MARK + _digest(path, body):
            old = whole.startswith(b"PK")  # as all files of torch begin
            self._distrust(path, "has no checksum, as those of earlier versions" if old else "is damaged")
            return None
        try:
            state: State = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        except Exception as error:  # written as it is, by another version of torch
            self._distrust(path, f"cannot be read here ({type(error).__name__})")
            return None
        if state.pop("key") != self.key:
            raise UserError(
                f"{path} comes from a run with another table, split or configuration; "
                "resume with the same settings, or start in a new folder"
            )
        return state

    def _distrust(self, path: Path, why: str) -> None:
        self.log.warn(f"the checkpoint {path} {why}: it is not used, and what it held is trained again")


def discard(folder: Path) -> None:
    """Remove the checkpoints of all stages in a folder, and their folders; whatever else is there stays."""
    for stage in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # no folder, or one in which there is something else
            sweep(stage, _NAMES)
            for path in stage.iterdir():
                if re.fullmatch(_NAMES, path.name):
                    path.unlink()
            stage.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))


def _digest(path: Path, body: memoryview) -> bytes:
    # With the name: the file of another epoch is damage, too.
    digest = hashlib.sha256(path.name.encode() + b"\n")
    digest.update(body)
    return digest.digest()
