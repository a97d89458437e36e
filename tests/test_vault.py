"""What all vaults share; that they keep what was put in and touch nothing else is tested with those that use one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fusetune import vault as module
from fusetune.errors import WriteError
from fusetune.vault import Room, Vault, checksum

NAME = "0" * 16


def numbers(path: Path) -> bytes:
    return (path / "numbers").read_bytes()


def put(vault: Vault, name: str, size: int, age: float = 0) -> Path:
    path = vault.home / "a" / name
    with vault.written(path) as folder:
        (folder / "numbers").write_bytes(bytes(size))
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path, 16, ("numbers", "facts"), 100)


def test_room_is_made_by_the_oldest_and_only_as_much_as_is_needed(vault: Vault) -> None:
    paths = [put(vault, str(place) * 16, 30, age) for place, age in enumerate((10, 30, 20))]
    assert vault.make_room(10)
    assert all(path.exists() for path in paths)
    assert vault.make_room(11) == Room(fits=True, dropped=1, freed=30)
    assert [path.exists() for path in paths] == [True, False, True]
    vault.touch(paths[2])
    assert vault.make_room(41)
    assert [path.exists() for path in paths] == [False, False, True]
    assert not vault.make_room(71, [paths[2]])
    assert paths[2].exists()


def test_what_a_killed_process_left_goes_after_a_day(vault: Vault) -> None:
    halves = [vault.home / "a" / f".{NAME}.{mark}" for mark in ("fusetune-0123abcd", "0123abcd")]
    theirs = [
        vault.home / "a" / name
        for name in (".notes.0123abcd", f".{NAME}.fusetune-mine", f".{NAME}.fusetune-0123abcd.x")
    ]
    for folder in [*halves, *theirs]:
        folder.mkdir(parents=True)
        (folder / "numbers").write_bytes(b"half")
    assert vault.make_room(0)
    assert all(folder.exists() for folder in halves)
    for folder in [*halves, *theirs]:
        os.utime(folder, (0, 0))
    assert vault.make_room(0)
    assert not any(folder.exists() for folder in halves)
    assert all((folder / "numbers").read_bytes() == b"half" for folder in theirs)


def test_an_entry_is_whole_or_not_there(vault: Vault) -> None:
    with pytest.raises(RuntimeError), vault.written(vault.home / "a" / NAME) as folder:
        (folder / "numbers").write_bytes(b"half")
        raise RuntimeError
    assert not list((vault.home / "a").iterdir())
    assert vault.read(vault.home / "a" / NAME, numbers) is None
    assert vault.read(put(vault, NAME, 3), numbers) == bytes(3)
    with vault.written(vault.home / "a" / NAME) as folder:
        (folder / "numbers").write_bytes(b"another")
    assert vault.read(vault.home / "a" / NAME, numbers) == b"another"


@pytest.mark.parametrize("error", [ValueError, EOFError, KeyError, TypeError, FileNotFoundError, OSError])
def test_what_is_damaged_goes_and_what_cannot_be_read_now_stays(vault: Vault, error: type[Exception]) -> None:
    def fail(_: Path) -> None:
        raise error

    path = put(vault, NAME, 3)
    assert vault.read(path, fail) is None
    assert path.exists() == (error is OSError)


def test_what_has_the_name_of_an_entry_and_is_none_is_not_replaced(vault: Vault) -> None:
    (vault.home / "a").mkdir()
    (vault.home / "a" / NAME).write_text("mine")
    with pytest.raises(OSError, match="something else has this name"):
        put(vault, NAME, 3)
    assert vault.read(vault.home / "a" / NAME, numbers) is None
    assert (vault.home / "a" / NAME).read_text() == "mine"
    (vault.home / "b").write_text("no folder")
    with pytest.raises(WriteError), vault.written(vault.home / "b" / NAME):
        pass


def test_every_byte_and_the_key_count_in_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)  # 27 bytes: three words and a rest
    for block in (16, 2**23):  # in two blocks, and in one
        monkeypatch.setattr(module, "_BLOCK", block)
        sums = {checksum(pixels, 7), checksum(pixels, 8), checksum(np.roll(pixels, 8)), checksum(np.roll(pixels, 16))}
        for place in range(pixels.size):
            changed = pixels.copy()
            changed.flat[place] ^= 1
            sums.add(checksum(changed, 7))
        assert len(sums) == 4 + pixels.size


def test_the_checksum_is_the_sum_of_products_of_words() -> None:
    values = np.random.default_rng(1).integers(0, 2**64, 5, np.uint64)
    factors = [int(number) | 1 for number in np.random.default_rng(0).integers(0, 2**64, 7, np.uint64)]
    total = sum(int(value) * factor for value, factor in zip(values, factors, strict=False)) + 3 * factors[6]
    assert checksum(values, 3) == checksum(values.view(np.float32), 3) == total % 2**64
    assert checksum(np.empty(0, np.float32)) == 0
