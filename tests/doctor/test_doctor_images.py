"""Pictures: each way in which a file can be wrong, beside one that is just right."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from planted import ALWAYS, LIMIT, check, kinds, look, named, plain_table, squares, with_pictures

from fusetune.data import images, workers
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.doctor import images as looking
from fusetune.doctor.examine import examine

Damage = Callable[[Path], object]
INPUTS = ["scan", "note", "age"]


def encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def blank(width: int, height: int, grey: int = 90) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


def halves(left: int, right: int) -> Image.Image:
    grey = np.full((72, 72), left, dtype=np.uint8)
    grey[:, 36:] = right
    return Image.fromarray(grey)


JPEG = encoded(photo(), "JPEG", quality=90)
PNG = encoded(photo(), "PNG")
FAULTS: list[tuple[str, str, Damage, str, str]] = [
    ("image_missing", "error", Path.unlink, "there is no such file", "correct the paths"),
    ("image_empty", "error", lambda path: path.write_bytes(b""), "the file has no bytes", "copy them again"),
    ("image_unreadable", "error", lambda path: path.write_text("<html>404"), "known format", "replace the files"),
    ("image_unreadable", "error", lambda path: path.write_bytes(b"\0"), "known format", "replace the files"),
    ("image_truncated", "error", lambda path: path.write_bytes(JPEG[: len(JPEG) * 6 // 10]), "damaged", "too early"),
    ("image_truncated", "error", lambda path: path.write_bytes(PNG[: len(PNG) * 6 // 10]), "damaged", "too early"),
    ("image_enormous", "error", lambda path: blank(1001, 100).save(path), "pixel_limit", "data.pixel_limit"),
    ("image_tiny", "warn", lambda path: photo().resize((15, 40)).save(path), "15 x 40 pixels", "placeholders"),
    ("image_tiny", "warn", lambda path: photo().resize((40, 15)).save(path), "40 x 15 pixels", "placeholders"),
    ("image_tiny", "warn", lambda path: blank(1, 1).save(path), "1 x 1 pixels", "placeholders"),
    ("image_blank", "warn", lambda path: blank(40, 30).save(path), "one colour, 40 x 30", "one colour says nothing"),
    ("image_blank", "warn", lambda path: halves(100, 101).save(path), "one colour, 72 x 72", "one colour"),
    ("image_blank", "warn", lambda path: path.write_bytes(encoded(blank(40, 30), "JPEG")), "one colour", "one colour"),
]


@pytest.mark.parametrize(("kind", "severity", "damage", "words", "remedy"), FAULTS)
def test_a_broken_file_is_found_and_no_other(
    kind: str, severity: str, damage: Damage, words: str, remedy: str, tmp_path: Path
) -> None:
    frame = with_pictures(plain_table(20), tmp_path)
    for row in (4, 11):
        damage(tmp_path / f"scan-{row}.png")
    examination = look(frame, tmp_path, inputs=INPUTS)
    finding = named(examination, kind)
    check(finding, severity, {"r004", "r011"}, ("scan",), remedy)
    assert finding.evidence["what"] == f"2 of 20 pictures in 'scan': {looking.SAID[kind]}"
    assert finding.evidence["files"].keys() == {"r004", "r011"}
    text = finding.evidence["files"]["r011"]
    assert text.startswith("scan-11.png: ")
    assert words in text
    assert {name for name in kinds(examination) if name.startswith("image")} == {kind}


FINE: list[Damage] = [
    lambda path: photo().resize((16, 16)).save(path),
    lambda path: photo().resize((16, 900)).save(path),
    lambda path: halves(99, 101).save(path),  # a spread of exactly one grey value
    lambda path: photo().resize((1000, 100)).save(path),  # exactly the limit of pixels
    lambda path: path.write_bytes(JPEG),
    lambda path: path.write_bytes(JPEG + b"written behind the end"),
    lambda path: path.write_bytes(encoded(photo().convert("P"), "GIF")),
    lambda path: photo().convert("L").save(path),
    lambda path: path.write_bytes(encoded(Image.fromarray(squares(1, seed=9)[0].astype(np.uint16) * 3), "TIFF")),
]


@pytest.mark.parametrize("change", FINE)
def test_a_picture_that_is_just_right_is_not_reported(change: Damage, tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path)
    change(tmp_path / "scan-4.png")
    assert kinds(look(frame, tmp_path, inputs=INPUTS)) <= {*ALWAYS, "label_errors"}


def test_files_of_several_frames_are_said_unless_one_is_named(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path).astype({"scan": object})
    pages = [photo(), photo().rotate(180)]
    for row, kind in ((4, "GIF"), (5, "TIFF"), (6, "WEBP")):
        pages[0].save(tmp_path / f"scan-{row}.png", kind, save_all=True, append_images=pages[1:])
    frame.loc[6, "scan"] = "scan-6.png#frame=2"
    finding = named(look(frame, tmp_path, inputs=INPUTS), "image_frames")
    check(finding, "warn", {"r004", "r005"}, ("scan",), "'#frame=2' after the path")
    assert finding.evidence["files"] == {"r004": "scan-4.png", "r005": "scan-5.png"}


@pytest.mark.parametrize(
    "cell", ["x" * 300, "n\0l.png", "a.png#frame=1#frame=2", b"no picture", "data:image/png;base64,@"]
)
def test_no_cell_ends_the_examination(cell: object, tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path).astype({"scan": object})
    frame.loc[4, "scan"] = cell
    assert named(look(frame, tmp_path, inputs=INPUTS, kinds={"scan": "image"}), "image_unreadable").rows == ("r004",)


def test_cells_that_are_pictures_are_examined(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path)
    carried = frame.assign(scan=[Image.open(tmp_path / name).copy() for name in frame["scan"]])
    carried.loc[7, "scan"] = carried.loc[3, "scan"]
    frame.loc[7, "scan"] = frame.loc[3, "scan"]
    ours, theirs = (look(table, tmp_path, inputs=INPUTS) for table in (carried, frame))
    assert kinds(ours) == kinds(theirs)
    assert np.array_equal(ours.pictures[0].pixels, theirs.pictures[0].pixels)
    assert np.array_equal(ours.pictures[0].thumbs, theirs.pictures[0].thumbs)


def test_cells_without_a_picture_are_no_fault(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path).astype({"scan": object})
    frame.loc[[1, 2, 3], "scan"] = [None, "", "   "]
    frame.loc[4, "scan"] = "  scan-4.png "
    (tmp_path / "scan-5.png").unlink()
    examination = look(frame, tmp_path, inputs=INPUTS, kinds={"scan": "image"})
    assert named(examination, "image_missing").evidence["what"] == "1 of 17 pictures in 'scan': no such file"
    assert examination.pictures[0].usable.sum() == 16


def test_a_column_without_any_picture_is_examined(tmp_path: Path) -> None:
    frame = plain_table(20).assign(scan=None)
    examination = look(frame, tmp_path, inputs=INPUTS, kinds={"scan": "image"})
    assert not any(name.startswith("image") for name in kinds(examination))
    assert named(examination, "column_constant").columns == ("scan",)


def test_each_image_column_has_findings_of_its_own(tmp_path: Path) -> None:
    frame = with_pictures(with_pictures(plain_table(20), tmp_path), tmp_path, "slide", seed=1)
    (tmp_path / "scan-3.png").write_bytes(b"")
    (tmp_path / "slide-7.png").write_bytes(b"")
    examination = look(frame, tmp_path, inputs=[*INPUTS, "slide"])
    empty = {f.columns: f.rows for f in examination.findings if f.kind == "image_empty"}
    assert empty == {("scan",): ("r003",), ("slide",): ("r007",)}


def test_enormous_pictures_are_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = with_pictures(plain_table(20), tmp_path)
    blank(1001, 100).save(tmp_path / "scan-4.png")
    sizes = []
    load = images.load_pixels
    monkeypatch.setattr(images, "load_pixels", lambda it, *more: sizes.append(it.size) or load(it, *more))
    assert named(look(frame, tmp_path, inputs=INPUTS), "image_enormous").rows == ("r004",)
    assert sizes == [(72, 72)] * 19, "all others are, once"


def test_addresses_and_places_outside_are_asked_for_as_the_run_will(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    frame = with_pictures(plain_table(20), inner).astype({"scan": object})
    photo().save(tmp_path / "outside.png")
    frame.loc[[3, 4], "scan"] = ["s3://bucket/a.png", "../outside.png"]
    table = Table(frame, "t", inner)
    schema = infer_schema(table, Roles("organ", inputs=INPUTS, kinds={"scan": "image"}))
    open_, closed = (examine(table, schema, pixel_limit=LIMIT, outside=rule) for rule in ("allow", "refuse"))
    assert named(open_, "image_unreadable").rows == ("r003",)
    assert "allow_download" in named(open_, "image_unreadable").evidence["files"]["r003"]
    assert named(closed, "image_unreadable").rows == ("r003", "r004")
    assert "data.outside" in named(closed, "image_unreadable").evidence["files"]["r004"]


@pytest.mark.parametrize(("address", "threads"), [(False, 3), (True, 12)])
def test_threads_are_those_that_a_container_grants(
    address: bool, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, counts = looking.ThreadPoolExecutor, []
    monkeypatch.setattr(workers, "cores", lambda: 3)
    monkeypatch.setattr(looking, "ThreadPoolExecutor", lambda count: counts.append(count) or pool(count))
    frame = with_pictures(plain_table(20), tmp_path)
    if address:
        frame.loc[3, "scan"] = f"file://{tmp_path}/scan-3.png"
    examination = look(frame, tmp_path, inputs=INPUTS, kinds={"scan": "image"})
    assert examination.pictures[0].usable.all()
    assert counts == [threads]


def test_what_is_kept_of_a_picture(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(20), tmp_path)
    (tmp_path / "scan-9.png").write_bytes(b"")
    (pictures,) = look(frame, tmp_path, inputs=INPUTS).pictures
    grey = squares(20)
    means = grey.reshape(20, 24, 3, 24, 3).astype(np.float32).mean((2, 4)).astype(np.uint8)
    rows = np.delete(np.arange(20), 9)
    assert np.abs(pictures.thumbs[rows].astype(int) - means[rows]).max() <= 1
    assert len(set(pictures.pixels[rows].tolist())) == len(set(pictures.hashes[rows].tolist())) == 19
    assert pictures.pixels[9] == pictures.hashes[9] == pictures.thumbs[9].max() == 0
    assert pictures.read.tolist() == pictures.usable.tolist() == [row != 9 for row in range(20)]
    assert len(set(pictures.contents.tolist())) == 20, "a file that cannot be read is known by its path"
