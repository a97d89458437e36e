"""Decoded images on disk, memory-mapped, so that the next run on the same files need not decode them again.

A record is one uint8 square, found by the digest of its file's content and of how it was decoded. Records lie in shards
that are written whole or not at all and never changed, so any number of threads and processes may use one cache; two
that write at once at worst keep a record twice. A checksum per record is verified whenever it is read. The oldest
shards go when the cache grows beyond its limit, those of this run excepted: what no longer fits is then not kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from fusetune.data.decode import Pixels
from fusetune.files import written_aside

_GIGABYTE = 2**30
# Large enough that a run has few shards, small enough that one fits in memory for every thread that writes.
_SHARD = 64 * 2**20
_INDEX = np.dtype([("key", "<u8"), ("check", "<u8")])
_ABANDONED = 24 * 3600.0  # seconds
# What a shard's folder is called, also while it is being written, and all that it holds. The cache may lie beside
# somebody's images: nothing else is ever opened, counted or removed.
_NAME = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]{8}")
_FILES = ("index.npy", "pixels.npy")


@dataclass(frozen=True)
class _Shard:
    """Some records: their keys and checksums [records], and their pixels [records, side, side, 3]."""

    folder: Path
    index: npt.NDArray[np.void]
    pixels: Pixels


class _Block:
    """Records in memory that will be written as one shard."""

    def __init__(self, side: int, size: int) -> None:
        self.index = np.empty(size, _INDEX)
        self.pixels = np.empty((size, side, side, 3), np.uint8)
        self.count = 0

    def add(self, key: int, pixels: Pixels) -> bool:
        """Add a record, once; return whether the block is full now."""
        if not (self.index["key"][: self.count] == key).any():
            self.pixels[self.count] = pixels
            self.index[self.count] = key, _checksum(key, self.pixels[self.count])
            self.count += 1
        return self.count == len(self.index)

    def save(self, path: Path) -> None:
        """Write the records as a shard."""
        with written_aside(path) as aside:
            aside.mkdir(parents=True)
            for name, array in zip(_FILES, (_sealed(self.index[: self.count]), self.pixels[: self.count]), strict=True):
                np.save(aside / name, array)


@dataclass(frozen=True)
class _Index:
    """Where every record is: keys, sorted; the record's number over all shards; and each shard's first number."""

    keys: npt.NDArray[np.uint64]
    numbers: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    shards: list[_Shard]

    @classmethod
    def of(cls, shards: list[_Shard]) -> _Index:
        """Index shards: 16 bytes per record."""
        keys = np.concatenate([np.empty(0, np.uint64), *(shard.index["key"] for shard in shards)])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], order, np.cumsum([0, *(len(shard.index) for shard in shards)])[:-1], shards)

    def locate(self, key: int) -> tuple[_Shard, int] | None:
        """Return the shard that holds a record, and the record's place there."""
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        if at == len(self.keys) or int(self.keys[at]) != key:
            return None
        owner = int(np.searchsorted(self.starts, self.numbers[at], "right")) - 1
        return self.shards[owner], int(self.numbers[at] - self.starts[owner])


class PixelCache:
    """Squares of one size; may be used from several threads.

    Args:
        home: Folder of the caches of all sizes, which share the limit.
        side: Side of the squares in pixels.
        limit_gb: Most that all of them may take on disk.
    """

    def __init__(self, home: Path, side: int, limit_gb: float) -> None:
        self.home, self.folder, self.side = home, home / str(side), side
        self.limit = int(limit_gb * _GIGABYTE)
        self.full = False
        self._lock = Lock()
        self._used: set[Path] = set()
        self._block = self._new_block()
        self._index = self._open()

    def __contains__(self, key: int) -> bool:
        """Return whether there is a record; whether it can be trusted is known when it is read."""
        return self._locate(key) is not None

    def get(self, key: int) -> Pixels | None:
        """Return a record, read-only [side, side, 3], or None if there is none that can be trusted."""
        located = self._locate(key)
        if located is None:
            return None
        shard, place = located
        pixels: Pixels = shard.pixels[place]
        if _checksum(key, pixels) == shard.index["check"][place]:
            return pixels
        self._distrust(shard)
        return None

    def put(self, key: int, pixels: Pixels) -> None:
        """Keep a record, unless there is no room for it. It is found from the next `flush` on."""
        with self._lock:
            if self.full or not self._block.add(key, pixels):
                return
            block, self._block = self._block, self._new_block()
        self._publish(block)

    def flush(self) -> None:
        """Write what was put so far, and find from now on what this and other processes have written."""
        with self._lock:
            block, self._block = self._block, self._new_block()
        if block.count:
            self._publish(block)
        self._index = self._open()

    def _new_block(self) -> _Block:
        return _Block(self.side, max(1, min(_SHARD, self.limit // 8) // (3 * self.side**2)))

    def _publish(self, block: _Block) -> None:
        path = self.folder / uuid4().hex[:16]
        try:
            if self._make_room(block.pixels[: block.count].nbytes):
                self._used.add(path)
                block.save(path)
            else:
                self.full = True
        except OSError:  # no space, or a read-only folder: the images will be decoded again, which is only slower
            self.full = True

    def _open(self) -> _Index:
        folders = sorted(path for path in self.folder.glob("*") if _is_shard(path) and not path.name.startswith("."))
        return _Index.of([shard for path in folders if (shard := _load(path, self.side)) is not None])

    def _locate(self, key: int) -> tuple[_Shard, int] | None:
        located = self._index.locate(key)
        if located is not None and (folder := located[0].folder) not in self._used:
            self._used.add(folder)
            # Another process may remove the shard at any time; what is mapped here stays readable.
            with contextlib.suppress(OSError):
                os.utime(folder)
        return located

    def _distrust(self, shard: _Shard) -> None:
        """Forget and remove a shard with a damaged record; all its records are made anew."""
        with self._lock:
            self._index = _Index.of([other for other in self._index.shards if other.folder != shard.folder])
        _remove(shard.folder)

    def _make_room(self, needed: int) -> bool:
        """Remove the oldest shards that this run has not used until so many bytes fit; return whether they do."""
        entries = sorted(filter(None, map(_entry, filter(_is_shard, self.home.glob("*/*")))))
        total = needed + sum(size for _, size, _ in entries)
        for written, size, path in entries:
            # Under a temporary name: another process is writing it, or was killed while it did.
            half = path.name.startswith(".")
            if time.time() - written > _ABANDONED if half else total > self.limit and path not in self._used:
                _remove(path)
                total -= size
        return total <= self.limit


def _checksum(key: int, pixels: Pixels) -> int:
    """Return the sum of 64-bit words, each times an odd number of its own: a changed word always changes it.

    It takes a tenth of a CRC's time, which would be a quarter of what augmenting the picture takes. The key is a word
    too, so that a damaged index does not hand out one image as another.
    """
    data = pixels.reshape(-1)
    whole = data.size // 8 * 8
    words = np.ascontiguousarray(data[:whole]).view("<u8")
    rest = int.from_bytes(data[whole:].tobytes(), "little")
    factors = _factors(len(words) + 2)
    ends = key * int(factors[-1]) + rest * int(factors[-2])
    return (int((words * factors[:-2]).sum()) + ends) % 2**64


def _sealed(index: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Append a record with the number and the checksum of the others."""
    seal = np.array([(len(index), _checksum(len(index), index.view(np.uint8)))], _INDEX)
    return np.concatenate([index, seal])


def _unsealed(index: npt.NDArray[np.void]) -> npt.NDArray[np.void] | None:
    """Return the index without its last record, or None if that says that something else was written."""
    if index.dtype != _INDEX or not len(index) or not np.array_equal(_sealed(index[:-1])[-1:], index[-1:]):
        return None
    return index[:-1]


@cache
def _factors(count: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(0).integers(0, 2**64, count, np.uint64) | np.uint64(1)


def _is_shard(path: Path) -> bool:
    """Return whether a cache wrote this folder: its name has the form, and nothing else lies in it."""
    if not _NAME.fullmatch(path.name):
        return False
    try:
        return all(entry.name in _FILES for entry in path.iterdir())
    except OSError:  # just removed by another process, or no folder
        return False


def _remove(folder: Path) -> None:
    """Remove a shard, but nothing that somebody may have put into its folder."""
    with contextlib.suppress(OSError):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _load(folder: Path, side: int) -> _Shard | None:
    """Open a shard, or remove it if it is damaged."""
    try:
        index = _unsealed(np.load(folder / "index.npy", allow_pickle=False))
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        if index is not None and pixels.dtype == np.uint8 and pixels.shape == (len(index), side, side, 3):
            return _Shard(folder, index, pixels)
    except (EOFError, ValueError, TypeError, FileNotFoundError):
        pass
    except OSError:  # too many open files, a network drive that is away: the shard itself may be sound
        return None
    _remove(folder)
    return None


def _entry(folder: Path) -> tuple[float, int, Path] | None:
    """Return (last use, bytes, folder) of a shard, or None if it was just removed."""
    try:
        return folder.stat().st_mtime, (folder / _FILES[1]).stat().st_size, folder
    except OSError:
        return None
