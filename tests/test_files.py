"""Files are whole or not there: written aside, renamed at the end, and cleaned up after a failure."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from fusetune.errors import WriteError
from fusetune.files import file_hash, sweep, write_text, written_aside


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


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "No space left on device; free some space"), (errno.EROFS, "Read-only.*; choose a place"),
     (errno.EIO, "; look at the space")],
)  # fmt: skip
def test_what_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, number: int, said: str) -> None:
    def fail() -> None:
        with written_aside(tmp_path / "model") as aside:
            aside.mkdir()
            with written_aside(aside / "part.txt"):
                raise OSError(number, os.strerror(number), "somewhere")

    with pytest.raises(WriteError, match=f"^cannot write {tmp_path / 'model'}: .*{said}"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    kept = {".lock", "model", ".hidden", "a.0123abcd.txt", ".a.0123abcg.txt"}
    for name in kept | {".report.html.0123abcd.html", ".config.yaml.89abcdef.yaml"}:
        (tmp_path / name).write_text("")
    (tmp_path / ".model.0123abcd").mkdir()
    (tmp_path / ".model.0123abcd" / "half").write_text("")
    (tmp_path / ".model.0123abcd.old").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
