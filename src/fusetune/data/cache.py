"""Decoded images on disk, memory-mapped, so that the next run on the same files need not decode them again.

A record is one uint8 square, found by the digest of its file's content and of how it was decoded. Records lie in shards
that are written whole or not at all and never changed, so any number of threads and processes may use one cache; two
that write at once at worst keep a record twice. A checksum per record is verified whenever it is read. The oldest
shards go when the cache grows beyond its limit, those of this run excepted: what no longer fits is then not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from fusetune.data.spread import Pixels
from fusetune.vault import GIGABYTE, Vault, checksum

# Large enough that a run has few shards, small enough that two fit in memory for every thread that writes.
_SHARD = 64 * 2**20
_INDEX = np.dtype([("key", "<u8"), ("check", "<u8")])
_FILES = ("pixels.npy", "index.npy")


@dataclass(frozen=True)
class _Shard:
    """Some records: their keys and checksums [records], and their pixels [records, side, side, 3]."""

    folder: Path
    index: npt.NDArray[np.void]
    pixels: Pixels


@dataclass(frozen=True)
class _Catalogue:
    """Where every record is: keys, sorted; how many records stand before it; and how many before each shard."""

    keys: npt.NDArray[np.uint64]
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    shards: list[_Shard]

    @classmethod
    def of(cls, shards: list[_Shard]) -> _Catalogue:
        """Index shards: 16 bytes per record."""
        keys = np.concatenate([np.empty(0, np.uint64), *(shard.index["key"] for shard in shards)])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], order, np.cumsum([0, *(len(shard.index) for shard in shards)]), shards)

    def locate(self, key: int) -> tuple[_Shard, int] | None:
        """Return a record's shard and its place there."""
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        if at == len(self.keys) or int(self.keys[at]) != key:
            return None
        place = int(self.order[at])
        shard = int(np.searchsorted(self.starts, place, "right")) - 1
        return self.shards[shard], place - int(self.starts[shard])


class PixelCache:
    """Squares of one size; may be used from several threads.

    Args:
        home: Folder of the caches of all sizes, which share the limit.
        side: Side of the squares in pixels.
        limit_gb: Most that all of them may take on disk.

    `freed` says how many bytes of pictures of earlier runs went to make room, the least recently used first.
    """

    def __init__(self, home: Path, side: int, limit_gb: float) -> None:
        self.home, self.folder, self.side = home, home / str(side), side
        self.vault = Vault(home, 16, _FILES, int(limit_gb * GIGABYTE))
        self.full, self.freed = False, 0
        self._lock = Lock()
        self._used: set[Path] = set()
        self._waiting: dict[int, Pixels] = {}
        self._most = max(1, min(_SHARD, self.vault.limit // 8) // (3 * side**2))  # records in a shard
        self._catalogue = self._open()

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
        if checksum(pixels, key) == shard.index["check"][place]:
            return pixels
        self._distrust(shard)
        return None

    def put(self, key: int, pixels: Pixels) -> None:
        """Keep a record, unless there is no room for it. It is found from the next `flush` on."""
        with self._lock:
            if self.full:
                return
            self._waiting.setdefault(key, pixels.copy())
            if len(self._waiting) < self._most:
                return
            records, self._waiting = self._waiting, {}
        self._publish(records)

    def flush(self) -> None:
        """Write what was put so far, and find from now on what this and other processes have written."""
        with self._lock:
            records, self._waiting = self._waiting, {}
        if records:
            self._publish(records)
        self._catalogue = self._open()

    def _publish(self, records: dict[int, Pixels]) -> None:
        """Write records as a shard."""
        path = self.folder / uuid4().hex[:16]
        index = np.array([(key, checksum(pixels, key)) for key, pixels in records.items()], _INDEX)
        try:
            room = self.vault.make_room(3 * self.side**2 * len(records), self._used)
            self.freed += room.freed
            if room:
                self._used.add(path)
                with self.vault.written(path) as folder:
                    np.save(folder / "index.npy", _sealed(index))
                    np.save(folder / "pixels.npy", np.stack(list(records.values())))
            else:
                self.full = True
        except OSError:  # no space, or a read-only folder: the images will be decoded again, which is only slower
            self.full = True

    def _open(self) -> _Catalogue:
        folders = sorted(path for path in self.folder.glob("*") if not path.name.startswith("."))
        return _Catalogue.of([shard for path in folders if (shard := self.vault.read(path, self._shard)) is not None])

    def _shard(self, folder: Path) -> _Shard:
        index = _unsealed(np.load(folder / "index.npy", allow_pickle=False))
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        if pixels.dtype != np.uint8 or pixels.shape != (len(index), self.side, self.side, 3):
            raise ValueError("these are not the pixels that the index is about")
        return _Shard(folder, index, pixels)

    def _locate(self, key: int) -> tuple[_Shard, int] | None:
        located = self._catalogue.locate(key)
        if located is not None and (folder := located[0].folder) not in self._used:
            self._used.add(folder)
            self.vault.touch(folder)
        return located

    def _distrust(self, shard: _Shard) -> None:
        """Forget and remove a shard with a damaged record; all its records are made anew."""
        with self._lock:
            self._catalogue = _Catalogue.of([other for other in self._catalogue.shards if other.folder != shard.folder])
        self.vault.remove(shard.folder)


def _sealed(index: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Append a record with the number and the checksum of the others."""
    seal = np.array([(len(index), checksum(index, len(index)))], _INDEX)
    return np.concatenate([index, seal])


def _unsealed(index: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the index without its last record; raise ValueError if that says that something else was written."""
    if index.dtype != _INDEX or not len(index) or not np.array_equal(_sealed(index[:-1])[-1:], index[-1:]):
        raise ValueError("this is not the index that was written")
    return index[:-1]
