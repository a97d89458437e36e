"""Files: found by every spelling that means one file, never without end, and a remedy where there is none."""

from __future__ import annotations

import base64
import os
import re
import threading
import unicodedata
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pandas as pd
import pytest
from PIL import Image

from fusetune.data import stored
from fusetune.data.images import ImageInput
from fusetune.data.stored import read_encoded
from fusetune.data.table import Table
from fusetune.errors import ImageError, ShortageError

ACCENT = unicodedata.normalize("NFC", "é")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table's folder with pictures, an archive and what never ends."""
    (tmp_path / f"bilder {ACCENT}").mkdir()
    for name in ("a.png", "b c.png", f"bilder {ACCENT}/Scan_1.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with ZipFile(tmp_path / "z.zip", "w", ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.png", "in/a.png")
        archive.writestr("zeros", bytes(80 * 2**20))
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def problem(value: str, folder: Path, confined: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        read_encoded(value, folder, False, confined)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a.png", "a.png"),
        ('"a.png"', "a.png"),
        (" 'a.png' ", "a.png"),
        (f"bilder {ACCENT}\\Scan_1.png", "scan"),
        (unicodedata.normalize("NFD", f"bilder {ACCENT}/Scan_1.png"), "scan"),
        ("file://FOLDER/b%20c.png", "b c.png"),
        ("file://localhostFOLDER/b%20c.png", "b c.png"),
        ("FILE://FOLDER/b c.png", "b c.png"),
        ("file:FOLDER/b%20c.png", "b c.png"),
        ("file://FOLDER/bilder%20%C3%A9/Scan_1.png", "scan"),
        ("file://a.png", "a.png"),
        ("local://a.png", "a.png"),
        ("zip://in/a.png::z.zip", "a.png"),
        ("zip://in/a.png::file://z.zip", "a.png"),
        ("simplecache::zip://in/a.png::FOLDER/z.zip", "a.png"),
        ("filecache::file://FOLDER/a.png", "a.png"),
        ("dir://a.png::file://FOLDER", "a.png"),
    ],
)
def test_a_file_is_found_by_what_can_mean_no_other(value: str, name: str, folder: Path) -> None:
    path = folder / (f"bilder {ACCENT}/Scan_1.png" if name == "scan" else name)
    assert read_encoded(value.replace("FOLDER", str(folder)), folder, False).content == path.read_bytes()


def test_the_file_that_is_named_goes_before_what_else_it_may_mean(folder: Path) -> None:
    (folder / "b%20c.png").write_bytes(b"literal")
    (folder / "x\\y.png").write_bytes(b"backslash")
    assert read_encoded(f"file://{folder}/b%20c.png", folder, False).content == b"literal"
    assert read_encoded("x\\y.png", folder, False).content == b"backslash"


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (f"bilder {ACCENT}/scan_1.PNG", "'Scan_1.png' in .* is spelt otherwise"),
        ("b  c.png", "is spelt otherwise"),
        ("b%20c.png", r"'b c.png' is there, and the path is written as in an address \(%20\)"),
        ("/home/somebody/data/a.png", "but a.png is, in the table's folder; is the path of another machine"),
        ("C:\\Users\\me\\b c.png", "but b c.png is, in the table's folder; is the path of another machine"),
        ("/nowhere/x.png", "nor is there '/nowhere'"),
        ("x\\y.png", "the path holds backslashes"),
        ("a.png#frame=two", "'#frame=' takes a number from 1"),
    ],
)
def test_a_path_that_leads_nowhere_gets_the_likely_reason(value: str, remedy: str, folder: Path) -> None:
    text = problem(value, folder)
    assert text.startswith("there is no such file: ")
    assert re.search(remedy, text)


ENDLESS = [
    "/dev/zero", "local:///dev/zero", "file:///dev/zero", "file:/dev/zero", "dir://zero::file:///dev",
    "zip://zero::/dev/zero", "filecache::file:///dev/zero", "simplecache::local:///dev/zero", "pipe", "local://pipe",
    "zip://a::pipe", "zip://a::file://pipe", "tar://a::local://pipe", "simplecache::pipe://x", "dir://pipe::file://.",
]  # fmt: skip


@pytest.mark.parametrize("value", ENDLESS)
def test_what_has_no_end_is_refused_through_every_protocol(value: str, folder: Path) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(problem(value, folder)), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "still waiting for it"
    assert any(text in found[0] for text in ("a folder, a device or a pipe", "needs a network"))


def test_files_have_a_limit_of_bytes_packed_and_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "large.png").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    for value in ("large.png", "zip://zeros::z.zip", "data:image/png;base64," + "A" * 2**27):
        with pytest.raises(ImageError, match=r"more than 67,108,864 bytes.*data\.pixel_limit"):
            read_encoded(value, folder, False, False, stored.byte_limit(1000))
    assert stored.byte_limit(200_000_000) == 1_600_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 300 + ".png", "304 letters are too many for a path"),
        ("x/" * 4000, "letters are too many for a path"),
        ("nul\0l.png", "cannot be opened"),
        ("\ud800.png", "cannot be opened"),
        ("a.png#frame=1#frame=2", "names 2 frames"),
        ("a.png#frame=" + "9" * 5000, "there is no frame"),
        ("data:image/png;base64,@@@", "base64 is damaged"),
        ("zip://nothing::z.zip", "no such file"),
        ("zip://a::a.png", "cannot be opened"),
        ("~nobody/x.png", "no such file"),
        ("::", "no such file"),
        ("://", "network"),
    ],
)
def test_the_fault_of_a_cell_is_one_of_its_row(value: str, text: str, folder: Path) -> None:
    assert text in problem(value, folder)
    frame = pd.DataFrame({"image": pd.Series(["a.png", value, "a.png"], dtype=object)})
    source = ImageInput(column="image", size=8, fit="stretch").bind(Table(frame, "t", folder))
    assert list(source.problems) == [1]
    assert len(source.problems[1]) < 1000
    source.problems[1].encode()


@pytest.mark.parametrize(
    "value",
    [
        "../a.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "local:///etc/passwd",
        "file:/etc/passwd",
        "..\\a.png",
        "'../a.png'",
    ],
)
def test_no_spelling_leads_out_of_the_folder(value: str, folder: Path) -> None:
    inside = folder / f"bilder {ACCENT}"
    assert read_encoded("Scan_1.png", inside, False, True).content
    assert "data.outside=refuse" in problem(value, inside, confined=True)
    for address in ("zip://in/a.png::../z.zip", "dir://a.png::file://..", "simplecache::../a.png://"):
        assert "it is an address" in problem(address, inside, confined=True)


def test_a_cell_may_hold_the_file_itself(folder: Path) -> None:
    content = (folder / "a.png").read_bytes()
    words = base64.b64encode(content).decode()
    for value in (
        f"data:image/png;base64,{words}",
        f" DATA:;base64,{words}",
        words,
        words.rstrip("="),
        words[:20] + "\n" + words[20:],
    ):
        assert read_encoded(value, folder, False, True).content == content


def test_too_little_memory_is_no_fault_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(stored, "_bounded", short)
    with pytest.raises(ShortageError, match="not enough memory"):
        read_encoded("a.png", folder, False)
