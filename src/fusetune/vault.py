"""Arrays kept on disk beyond a run, in folders that are written whole or not at all; the least recently used go first.

A vault may lie among somebody's files: folders that do not have the form of its entries, in name and in what they hold,
are never opened, counted, replaced or removed. Any number of threads and processes may use one; another process may
remove an entry at any time, and what is mapped into memory stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.files import written_aside

T = TypeVar("T")
GIGABYTE = 2**30
_ABANDONED = 24 * 3600.0  # seconds
_BLOCK = 2**23  # bytes that are summed at once
_ODD = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Room:
    """What became of the wish for room; true where there is.

    Attributes:
        fits: Is there?
        dropped: How many entries went for it, which were least recently used.
        freed: Their bytes.
    """

    fits: bool
    dropped: int
    freed: int

    def __bool__(self) -> bool:
        return self.fits


@dataclass(frozen=True)
class Vault:
    """Entries: folders two levels below a place, named by hexadecimal digits.

    Attributes:
        home: The place.
        digits: How many digits name an entry.
        files: What an entry holds; the first is the large one, which counts for the limit.
        limit: Most bytes on disk.
    """

    home: Path
    digits: int
    files: tuple[str, ...]
    limit: int

    @contextmanager
    def written(self, path: Path) -> Iterator[Path]:
        """Yield an empty folder; it becomes the entry `path` only if the block succeeds.

        Raises:
            OSError: If it cannot be written, or something that is no entry has its name.
        """
        if path.exists() and not self.holds(path):
            raise FileExistsError(errno.EEXIST, "something else has this name", str(path))
        with contextlib.suppress(OSError):  # which the next line tells
            path.parent.mkdir(parents=True, exist_ok=True)  # it stays if this fails: others may be writing into it
        with written_aside(path, self.holds) as aside:
            aside.mkdir(parents=True)
            yield aside

    def read(self, path: Path, opened: Callable[[Path], T]) -> T | None:
        """Return what an entry holds, or None if it cannot be read now; a damaged one is removed.

        Args:
            path: The entry.
            opened: Reads its folder; raises ValueError, among others, if that is not what was written.
        """
        if not self.holds(path):
            return None
        try:
            return opened(path)
        except (EOFError, ValueError, TypeError, KeyError, FileNotFoundError):
            self.remove(path)
        except OSError:  # too many open files, a network drive that is away: the entry itself may be sound
            pass
        return None

    def touch(self, path: Path) -> None:
        """Note that an entry was used."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def remove(self, path: Path) -> None:
        """Remove an entry, but nothing that somebody may have put into its folder."""
        with contextlib.suppress(OSError):
            for name in self.files:
                (path / name).unlink(missing_ok=True)
            path.rmdir()

    def make_room(self, needed: int, keep: Collection[Path] = ()) -> Room:
        """Remove the oldest entries, except those to keep, until so many bytes fit; return whether they do."""
        entries = sorted(filter(None, map(self._entry, self.home.glob("*/*"))))
        total, dropped, freed = needed + sum(size for _, size, _ in entries), 0, 0
        for used, size, path in entries:
            # Under a temporary name: another process is writing it, or was killed while it did.
            half = path.name.startswith(".")
            if time.time() - used > _ABANDONED if half else total > self.limit and path not in keep:
                self.remove(path)
                total -= size
                dropped, freed = dropped + (not half), freed + (0 if half else size)
        return Room(total <= self.limit, dropped, freed)

    def holds(self, path: Path) -> bool:
        """Return whether a folder has an entry's form, whole or half-written."""
        digits = f"[0-9a-f]{{{self.digits}}}"
        if not re.fullmatch(rf"{digits}|\.{digits}\.(fusetune-)?[0-9a-f]{{8}}", path.name):
            return False
        try:
            return all(file.name in self.files for file in path.iterdir())
        except OSError:  # just removed by another process, or no folder
            return False

    def _entry(self, path: Path) -> tuple[float, int, Path] | None:
        """Return (last use, bytes, folder) of an entry, or None if it is none."""
        try:
            return (path.stat().st_mtime, (path / self.files[0]).stat().st_size, path) if self.holds(path) else None
        except OSError:
            return None


def checksum(array: npt.NDArray[Any], key: int = 0) -> int:
    """Return a sum over an array's 64-bit words, each times an odd number of its own: a changed word always changes it.

    It takes less than half a CRC's time, which for one picture would be a good part of what augmenting it takes. The
    key is a word too, so that a damaged index does not hand out one picture as another.
    """
    data, total = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
    for start in range(0, max(1, data.size), _BLOCK):
        block = data[start : start + _BLOCK]
        words = block[: block.size // 8 * 8].view("<u8")
        rest = int.from_bytes(block[words.nbytes :].tobytes(), "little")
        factors = _factors((len(words) + 1).bit_length())[: len(words) + 2]
        ends = key * int(factors[-1]) + rest * int(factors[-2])
        total = (total * _ODD + int((words * factors[:-2]).sum()) + ends) % 2**64
    return total


@cache
def _factors(bits: int) -> npt.NDArray[np.uint64]:
    factors: npt.NDArray[np.uint64] = np.random.default_rng(0).integers(0, 2**64, 2**bits, np.uint64) | np.uint64(1)
    return factors
