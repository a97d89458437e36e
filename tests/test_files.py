"""Files are whole or not there: written aside, renamed at the end, and cleaned up after a failure."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fusetune.files import file_hash, write_text, written_aside


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.npy"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert aside.parent == path.parent
        assert aside.suffix == ".npy"
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in ("one", "two"):
        with written_aside(path) as aside:
            aside.mkdir()
            (aside / content).write_text(content)
        assert [file.name for file in path.iterdir()] == [content]

    def fail() -> None:
        with written_aside(path) as aside:
            aside.mkdir()
            (aside / "half").write_text("")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [file.name for file in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_and_hashes_are_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "é\n日本")
    assert path.read_bytes() == "é\n日本".encode()
    assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
