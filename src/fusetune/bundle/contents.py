"""The files of a model folder: each is read once, what is used is what was hashed, and nothing outside is touched."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fusetune.errors import BundleError

MANIFEST = "bundle.json"
_MB = 1 << 20
# Bytes, several times what the largest models hold: text takes a multiple of its length once it is understood.
_LONGEST = {".yaml": _MB, ".json": 64 * _MB, ".safetensors": 1024 * _MB}
_LONGEST_TOKENIZER = 256 * _MB


@dataclass(frozen=True)
class Contents:
    """A model folder and what its manifest says of its files.

    Attributes:
        folder: The folder.
        digests: Every file but the manifest -> its SHA-256.
    """

    folder: Path
    digests: Mapping[str, str]

    def read(self, name: str) -> bytes:
        """Return a file's bytes, which are those that the manifest speaks of.

        Raises:
            BundleError: If it is not listed, missing, no plain file, outside the folder, too long, or was changed.
        """
        if name not in self.digests:
            raise BundleError(f"{self.folder / MANIFEST} does not list {name}")
        content = read_inside(self.folder, name)
        if hashlib.sha256(content).hexdigest() != self.digests[name]:
            raise BundleError(
                f"{self.folder / name} was changed or cut short after it was written; copy the model again"
            )
        return content


def read_inside(folder: Path, name: str) -> bytes:
    """Return the bytes of a file within a folder, if it is no longer than any that fusetune writes.

    Raises:
        BundleError: As for `open_inside`, or if the file is too long.
    """
    most = _LONGEST_TOKENIZER if name.endswith("/tokenizer.json") else _LONGEST[Path(name).suffix]
    with open_inside(folder, name) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise BundleError(f"{folder / name} is longer than {most:,} bytes, as no model's is; copy the model again")
        return file.read(most)


@contextmanager
def open_inside(folder: Path, name: str) -> Iterator[BinaryIO]:
    """Open a plain file within a folder.

    Raises:
        BundleError: As for `located`.
    """
    with open(located(folder, name), "rb", opener=_at_once) as file:
        # Asked once more, of what was opened.
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _no_file(folder, name)
        yield file


def located(folder: Path, name: str) -> Path:
    """Return where a plain file within a folder is; its path may have links that lead elsewhere in the folder.

    Raises:
        BundleError: If it is missing, no plain file, or outside the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BundleError(f"{folder / MANIFEST} names a file outside the model folder: {name}")
    if not path.exists():
        raise BundleError(f"{folder} is incomplete: {name} is missing; copy the model again from its source")
    if not path.is_file():  # before it is opened, since opening a device may do something
        raise _no_file(folder, name)
    return path


def _no_file(folder: Path, name: str) -> BundleError:
    return BundleError(f"{folder / name} is no plain file; copy the model again from its source")


def _at_once(path: str, flags: int) -> int:
    """Open without following a last link, or waiting for somebody to write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
