"""The cache of decoded images: what comes out is what went in, whoever writes, dies or damages files meanwhile."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fusetune.data import cache as module
from fusetune.data.cache import PixelCache

SIDE = 16
RECORD = SIDE * SIDE * 3
GIGABYTE = 2**30


def record(key: int) -> npt.NDArray[np.uint8]:
    """Pixels that are a function of their key, so that any mix-up shows."""
    return np.random.default_rng(key).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def filled(folder: Path, keys: range, limit_gb: float = 1) -> PixelCache:
    cache = PixelCache(folder, SIDE, limit_gb)
    for key in keys:
        cache.put(key, record(key))
    cache.flush()
    return cache


def check(cache: PixelCache, keys: range) -> int:
    """Every record that is found must be right; return how many are."""
    records = [(key, pixels) for key in keys if (pixels := cache.get(key)) is not None]
    assert all(np.array_equal(pixels, record(key)) for key, pixels in records)
    return len(records)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_SHARD", 4 * RECORD)
    yield


def test_records_come_back_to_this_and_the_next_run(tmp_path: Path, small_shards: None) -> None:
    cache = filled(tmp_path, range(10))
    assert len(list((tmp_path / str(SIDE)).iterdir())) == 3  # 4 + 4 + 2 records
    for one in (cache, PixelCache(tmp_path, SIDE, 1)):
        assert check(one, range(10)) == 10
        assert 3 in one
        assert 10 not in one
        assert one.get(2**64 - 1) is None
    assert PixelCache(tmp_path, SIDE + 1, 1).get(3) is None


def test_one_record_is_kept_once(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, SIDE, 1)
    for _ in range(5):
        cache.put(7, record(7))
    cache.flush()
    (shard,) = (tmp_path / str(SIDE)).iterdir()
    assert np.load(shard / "pixels.npy").shape[0] == 1


def test_an_empty_cache_writes_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", range(0))
    assert cache.get(1) is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("how", ["byte", "cut", "empty", "zeros", "check", "keys", "gone", "text"])
def test_damage_is_noticed_and_what_was_damaged_is_made_again(tmp_path: Path, small_shards: None, how: str) -> None:
    filled(tmp_path, range(8))
    shard = sorted((tmp_path / str(SIDE)).iterdir())[0]
    victim = shard / ("index.npy" if how in ("check", "keys") else "pixels.npy")
    data = bytearray(victim.read_bytes())
    if how in ("byte", "check"):
        data[-1] ^= 1
    elif how == "keys":  # two records exchange their keys
        data[-12:-4], data[-24:-16] = data[-24:-16], data[-12:-4]
    elif how == "zeros":
        data[-RECORD:] = bytes(RECORD)
    elif how in ("cut", "empty"):
        del data[0 if how == "empty" else len(data) - 100 :]
    elif how == "text":
        data = bytearray(b"these are no pixels")
    victim.unlink() if how == "gone" else victim.write_bytes(data)
    cache = PixelCache(tmp_path, SIDE, 1)
    assert 4 <= check(cache, range(8)) < 8
    assert check(cache, range(8)) == 4  # nothing of a shard that lied is believed any more
    assert not shard.exists()
    for key in range(8):
        cache.put(key, record(key))
    cache.flush()
    assert check(PixelCache(tmp_path, SIDE, 1), range(8)) == 8


def test_the_oldest_go_first_and_those_in_use_stay(tmp_path: Path, small_shards: None) -> None:
    limit = 20 * RECORD / GIGABYTE  # nine shards of two records, with what files need besides
    for start in (0, 4, 8, 12):
        before = set((tmp_path / str(SIDE)).glob("*"))
        filled(tmp_path, range(start, start + 4), limit)
        for path in set((tmp_path / str(SIDE)).glob("*")) - before:
            os.utime(path, (start, start))
    cache = PixelCache(tmp_path, SIDE, limit)
    assert 0 in cache  # used now, though the oldest
    for key in range(100, 104):
        cache.put(key, record(key))
    cache.flush()
    assert not cache.full
    counts = [check(PixelCache(tmp_path, SIDE, limit), range(start, start + 4)) for start in (0, 4, 8, 12, 100)]
    assert counts == [2, 4, 4, 4, 4]  # records 2 and 3 lay in the oldest shard that nobody asked for


def test_a_table_larger_than_the_limit_keeps_its_first_part(tmp_path: Path, small_shards: None) -> None:
    limit = 16 * RECORD / GIGABYTE
    first = filled(tmp_path, range(40), limit)
    assert first.full
    kept = check(first, range(40))
    assert 12 <= kept <= 16
    again = PixelCache(tmp_path, SIDE, limit)
    hits = [key for key in range(40) if key in again]
    for key in range(40):
        if key not in hits:
            again.put(key, record(key))
    again.flush()
    assert [key for key in range(40) if key in again] == hits  # no record that is needed makes room for another
    assert hits == list(range(kept))
    assert sum(file.stat().st_size for file in tmp_path.rglob("pixels.npy")) <= 17 * RECORD


def test_sizes_share_the_limit(tmp_path: Path, small_shards: None) -> None:
    filled(tmp_path, range(4))
    os.utime(next((tmp_path / str(SIDE)).iterdir()), (0, 0))
    other = PixelCache(tmp_path, 2 * SIDE, 4 * 4 * RECORD / GIGABYTE)
    for key in range(4):
        other.put(key, np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8))
    other.flush()
    assert check(PixelCache(tmp_path, SIDE, 1), range(4)) == 0


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = filled(tmp_path / "file" / "cache", range(3))
    assert cache.full
    assert check(cache, range(3)) == 0


def test_threads_never_see_a_record_of_another(tmp_path: Path, small_shards: None) -> None:
    cache = PixelCache(tmp_path, SIDE, 1)

    def work(thread: int) -> None:
        for key in range(60):
            pixels = cache.get(key)
            assert pixels is None or np.array_equal(pixels, record(key))
            if pixels is None:
                cache.put(key, record(key))
            if key % 20 == thread:
                cache.flush()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    cache.flush()
    assert check(cache, range(60)) == 60


def write(home: Path, first: int, last: int, progress: Any) -> None:
    """Write records first..last from another process, or without end for last = -1."""
    cache = PixelCache(home, SIDE, 1)
    for key in itertools.count(first):
        if key == last:
            break
        cache.put(key, record(key))
        progress.value = key
    cache.flush()


def writer(home: Path, first: int, last: int) -> tuple[Any, Any]:
    """Start a process that writes; return it and the number of the record it is at."""
    forks = multiprocessing.get_context("fork")  # a fresh interpreter would import for seconds
    progress = forks.Value("q", 0)
    process = forks.Process(target=write, args=(home, first, last, progress))
    process.start()
    return process, progress


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_write_one_cache_at_once_while_another_reads(tmp_path: Path, small_shards: None) -> None:
    writers = [writer(tmp_path, *keys)[0] for keys in ((0, 120), (60, 180), (0, 180))]
    while any(process.is_alive() for process in writers):
        check(PixelCache(tmp_path, SIDE, 1), range(0, 180, 7))
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert check(PixelCache(tmp_path, SIDE, 1), range(180)) == 180


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("reached", [10, 57, 123])
def test_a_killed_writer_leaves_nothing_that_is_believed(tmp_path: Path, small_shards: None, reached: int) -> None:
    process, progress = writer(tmp_path, 0, -1)
    while progress.value < reached:
        time.sleep(0.001)
    process.kill()
    process.join()
    written = progress.value  # it may have been killed between writing the next one and saying so
    assert check(PixelCache(tmp_path, SIDE, 1), range(written + 1)) >= written - 8


def test_what_a_killed_writer_left_half_is_removed_when_it_is_old(tmp_path: Path, small_shards: None) -> None:
    filled(tmp_path, range(4))
    home = tmp_path / str(SIDE)
    halves = [home / f".{'0' * 16}.{name}" for name in ("aaaaaaaa", "bbbbbbbb")]
    for half in halves:
        half.mkdir()
        (half / "pixels.npy").write_bytes(b"half")
    os.utime(halves[0], (0, 0))
    assert check(filled(tmp_path, range(4, 8)), range(8)) == 8
    assert [half.exists() for half in halves] == [False, True]


def test_what_others_keep_in_the_folder_is_never_touched(tmp_path: Path, small_shards: None) -> None:
    theirs = [
        tmp_path / str(SIDE) / "series1" / "slice.png",
        tmp_path / str(SIDE) / "series1" / "pixels.npy",
        tmp_path / str(SIDE) / ("0" * 16) / "pixels.npy",
        tmp_path / str(SIDE) / ("0" * 16) / "notes.txt",
        tmp_path / "photographs" / ("f" * 16) / "pixels.png",
        tmp_path / str(SIDE) / ("a" * 16),
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path.parent, (0, 0))
    for start in range(0, 40, 4):  # with a limit that makes the cache remove its own
        filled(tmp_path, range(start, start + 4), 20 * RECORD / GIGABYTE)
    assert all(path.read_bytes() == b"mine" for path in theirs)


def test_a_sound_shard_outlives_a_failure_to_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, range(4))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", refuse)
        assert check(PixelCache(tmp_path, SIDE, 1), range(4)) == 0
    assert check(PixelCache(tmp_path, SIDE, 1), range(4)) == 4


def test_no_thread_is_started(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    filled(tmp_path, range(3))
    assert set(threading.enumerate()) == before
