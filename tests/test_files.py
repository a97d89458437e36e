"""Files are whole or not there: written aside, renamed at the end, and cleaned up after a failure."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from fusetune.errors import WriteError
from fusetune.files import file_hash, names_in, sweep, write_text, written_aside


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
        with written_aside(path, lambda old: [file.name for file in old.iterdir()] == ["one"]) as aside:
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


@pytest.mark.parametrize("there", ["a file", "a filled folder", "a link to a folder"])
def test_what_nobody_said_may_go_stays_as_it_is(tmp_path: Path, there: str) -> None:
    path, other = tmp_path / "model", tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("mine")
    match there:
        case "a file":
            path.write_text("mine")
        case "a filled folder":
            other.rename(path)
        case _:
            path.symlink_to(other)
    before = {file: file.read_text() if file.is_file() else "" for file in tmp_path.rglob("*")}

    def write() -> None:
        with written_aside(path) as aside:
            aside.mkdir()
            (aside / "new").write_text("new")

    with pytest.raises(WriteError, match="something else has this name, and stays as it is: move it away"):
        write()
    assert {file: file.read_text() if file.is_file() else "" for file in tmp_path.rglob("*")} == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with written_aside(tmp_path / "model") as aside:
        aside.mkdir()
        (aside / "new").write_text("new")
    assert names_in(tmp_path) == {"model/new"}


@pytest.mark.parametrize("name", ["a" * 240, "日" * 80 + ".json", "a." + "b" * 200])
def test_a_long_name_is_written_like_any_other(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert names_in(tmp_path) == {name}


OURS = {".model.fusetune-0123abcd", ".a.txt.fusetune-89abcdef.txt"}
# Dates are hexadecimal digits.
THEIRS = {
    ".lock", "model", ".model.20240131", ".model.20240131.old", ".a.txt.20231224.txt", ".bashrc.20240131",
    ".other.fusetune-0123abcd", ".model.fusetune-0123abcg", ".model.fusetune-0123abcd.a.b",
    "a.txt.fusetune-0123abcd.txt",
}  # fmt: skip


def test_what_killed_writers_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    for name in THEIRS | OURS:
        (tmp_path / name).write_text("")
    (tmp_path / ".model.fusetune-00000000").mkdir()
    (tmp_path / ".model.fusetune-00000000" / "half").write_text("")
    (tmp_path / ".model.fusetune-11111111").symlink_to(tmp_path / "model")
    sweep(tmp_path, r"model|a\.txt")
    assert {path.name for path in tmp_path.iterdir()} == THEIRS | {".model.fusetune-11111111"}


def test_what_is_written_aside_has_a_name_that_is_swept(tmp_path: Path) -> None:
    with written_aside(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        sweep(tmp_path, "model")
        assert aside.exists()
        sweep(tmp_path, r"a\.txt")
        assert not aside.exists()
        aside.write_text("whole")
