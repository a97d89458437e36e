"""The runner prepares rows as the library does, says the same of them, and refuses what it cannot prepare."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image

from fusetune.data.cells import CellInput
from fusetune.data.choices import Kind
from fusetune.data.images import ImageInput
from fusetune.data.square import resize
from fusetune.data.table import Table, read_table
from fusetune.data.vectors import VectorInput
from fusetune.errors import ImageError, TableError
from fusetune.evaluate.threshold import EVEN
from fusetune.export import pictures
from fusetune.export import run as runner
from fusetune.export.preparation import FILE, write_preparation

SIDE = 40
# PyTorch's fast code for bytes is what the runner computes; where a processor has none, its rounding may differ by one.
NEAR = 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1


def settings(**more: Any) -> tuple[ImageInput, dict[str, Any]]:
    """Return how a picture is prepared, as the library and as the runner have it."""
    fitted = ImageInput(column="scan", size=SIDE, fit="stretch").model_copy(update=more)
    kept = fitted.model_dump(include={"fit", "background", "spacing", "extent", "pixel_limit"})
    return fitted, {"name": "scan", "columns": ["scan"], "side": SIDE, "confined": False, **kept}


def noise(height: int, width: int, channels: int = 3, high: int = 256) -> npt.NDArray[Any]:
    """Return blobs: pictures that survive JPEG."""
    draw = np.random.default_rng(height * width + channels)
    small = draw.integers(0, high, (height // 8 + 1, width // 8 + 1, channels))
    return np.kron(small, np.ones((8, 8, 1), int))[:height, :width]


def stored(folder: Path, name: str) -> Path:
    """Write one of the pictures by name."""
    rgb, path = noise(90, 130).astype(np.uint8), folder / name
    match name:
        case "rgb.jpg" | "rgb.png" | "rgb.webp" | "rgb.ppm":
            Image.fromarray(rgb).save(path)
        case "turned.jpg":
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(rgb).save(path, exif=exif)
        case "large.jpg":
            Image.fromarray(noise(330, 420).astype(np.uint8)).save(path)
        case "grey.jpg" | "grey.png":
            Image.fromarray(rgb[..., 0]).save(path)
        case "deep.png":
            Image.fromarray(noise(60, 70, 1, 4000)[..., 0].astype(np.uint16)).save(path)
        case "alpha.png":
            Image.fromarray(np.dstack([rgb, noise(90, 130, 1)[..., 0]]).astype(np.uint8)).save(path)
        case "grey_alpha.png":
            Image.fromarray(np.dstack([rgb[..., 0], rgb[..., 1]])).save(path)
        case "palette.gif":
            Image.fromarray(rgb).convert("P").save(path)
        case "palette.png":
            Image.fromarray(rgb).quantize(12).save(path, transparency=3)
        case "bits.png":
            Image.fromarray(rgb[..., 0]).convert("1").save(path)
        case "turned.png":
            exif = Image.Exif()
            exif[0x0112] = 8
            Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(path, exif=exif)
    return path


NAMES = ("rgb.jpg", "rgb.png", "rgb.webp", "rgb.ppm", "turned.jpg", "grey.jpg", "grey.png", "deep.png", "alpha.png",
         "grey_alpha.png", "palette.gif", "palette.png", "bits.png", "turned.png")  # fmt: skip


@pytest.mark.parametrize("how", [{}, {"fit": "pad", "background": 0}, {"fit": "crop"}, {"extent": 7.0}])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_prepared_as_the_library_does(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    fitted, one = settings(**how)
    path = stored(tmp_path, name)
    expected = fitted.square(fitted.fetch(name, tmp_path), 0.11)
    assert np.abs(pictures.square(path, one, 0.11).astype(int) - expected).max() <= NEAR


def test_a_jpeg_that_is_decoded_smaller_comes_close(tmp_path: Path) -> None:
    """The two decoders reduce in their own ways, to 2 of 255 at any pixel."""
    fitted, one = settings()
    path = stored(tmp_path, "large.jpg")
    expected = fitted.square(fitted.fetch("large.jpg", tmp_path), 1.0).astype(int)
    assert np.abs(pictures.square(path, one, 1.0) - expected).max() <= 2


def test_resizing_is_the_same_at_every_size() -> None:
    draw = np.random.default_rng(0)
    for height, width, tall, wide in [*draw.integers(1, 90, (60, 4)).tolist(), [700, 900, 33, 5]]:
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = pictures._resampled(pictures._resampled(pixels, wide, 1), tall, 0)
        assert np.abs(found.astype(int) - resize(pixels, tall, wide)).max() <= NEAR


@pytest.mark.parametrize("name", ["page.tif", "bitmap.bmp", "scan.dcm", "inks.jpg", "deep.png"])
def test_other_pictures_are_refused(name: str, tmp_path: Path) -> None:
    path, rgb = tmp_path / name, noise(20, 20).astype(np.uint8)
    if name == "scan.dcm":
        path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    elif name == "inks.jpg":
        Image.fromarray(rgb).convert("CMYK").save(path)
    elif name == "deep.png":
        import cv2

        cv2.imwrite(str(path), rgb.astype(np.uint16) * 200)
    else:
        Image.fromarray(rgb).save(path)
    with pytest.raises(pictures.RefusedError, match="save it as"):
        pictures.square(path, settings()[1], 1.0)


def made(readers: dict[str, Any], **facts: Any) -> Any:
    """Return a runner that prepares these inputs, without a graph."""
    one: Any = object.__new__(runner.Runner)
    one.facts = {"missing_words": ["NA", "None"], "id": None, "decision": None} | facts
    one.inputs, one.classes, one.pictures = list(readers.values()), ["a", "b"], pictures
    return one


CELLS: dict[str, tuple[Kind, list[Any], list[Any]]] = {
    # Kind, what was learnt from, what is asked.
    "number": (Kind.NUMBER, ["1", "2.5", "-3e2", "4"],
               ["1", " 2.5 ", "1e400", "abc", "", "NA", "0x10", "1_0", "٣", "9e37"]),
    "boolean": (Kind.BOOLEAN, ["yes", "no", "yes", "no"], ["TRUE", " f", "1", "0.0", "2", "perhaps", "", "NA"]),
    "date": (Kind.DATE, ["2020-01-01", "2021-06-03", "1999-12-31", "2020-05-05"],
             ["2020-02-29", "2020-02-29 12:30", "2020-02-29T12:30:15.5Z", "2020-02-29 00:00+02:00", "", "NA"]),
    "category": (Kind.CATEGORY, ["red", "red", "blue", "blue", "None", "None"],
                 ["red", " red", "blue\u200b", "Red", "None", "NA", "", "green"]),
    "codes": (Kind.CATEGORY, ["007", "007", "10", "10"], ["007", "10", "11", "", "NA"]),
    "whole": (Kind.CATEGORY, ["7", "7", "10", "10"], ["7", "7.0", "10.00", "8", ""]),
    "truths": (Kind.CATEGORY, ["true", "true", "False", "False"], ["TRUE", "false", "no"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_read_as_the_library_reads_them(name: str, tmp_path: Path) -> None:
    kind, learnt, asked = CELLS[name]
    cells = CellInput.fit(_table(learnt, tmp_path), {"cell": kind}, np.arange(len(learnt)))
    source = cells.bind(_table(asked, tmp_path))
    scales = [scale.model_dump() | {"kind": str(kind)} for scale in cells.numbers]
    one = {"name": "columns", "kind": "columns", "columns": ["cell"], "numbers": scales}
    one |= {"categories": [vocabulary.model_dump() for vocabulary in cells.categories]}
    prepare = made({"columns": one})
    rows, words = runner.read_rows(tmp_path / "cells.csv")
    expected = source.read(np.arange(len(asked)))
    for row, cell in enumerate(rows):
        said: list[str] = []
        found = prepare._columns(one, {"cell": prepare._cell(cell["cell"], words)}, cell, tmp_path, said)
        for part in ("numbers", "missing", "codes"):
            np.testing.assert_array_equal(found[part], expected[part][row].numpy(), err_msg=f"{cell} {part}")
        assert found["present"] == source.present[row]
        assert bool(said) == (row in source.problems or row in source.unseen), (cell, said)


def _table(cells: list[Any], folder: Path) -> Table:
    pd.DataFrame({"cell": cells, "more": "x"}).to_csv(folder / "cells.csv", index=False)
    return read_table(folder / "cells.csv")


def test_zeros_that_were_lost_are_refused_as_the_library_does(tmp_path: Path) -> None:
    _, learnt, _ = CELLS["codes"]
    cells = CellInput.fit(_table(learnt, tmp_path), {"cell": Kind.CATEGORY}, np.arange(4))
    with pytest.raises(TableError, match="zeros were lost"):
        cells.bind(_table(["7"], tmp_path))
    with pytest.raises(runner.RefusedError, match="zeros were lost"):
        runner._code(cells.categories[0].model_dump(), "7", [], [])
    with pytest.raises(runner.RefusedError, match="holds the number 7"):
        runner._code(cells.categories[0].model_dump(), 7, [], [])


@pytest.mark.parametrize("word", ["03/04/2020", "4. Mai 2020", "2020", "20200101", 3])
def test_dates_in_another_form_are_refused(word: Any) -> None:
    with pytest.raises(runner.RefusedError, match="year-month-day"):
        runner._day(word)


def test_vectors_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    learnt = pd.DataFrame({"v": ["[1, 2, 3]", "[2 2 5]", "[3, 1, 1]"]})
    vector = VectorInput.fit(Table(learnt.astype("str"), "t", tmp_path), ["v"], np.arange(3))
    asked = ["[0.5, 1e2, 3]", "[1 2 3]", "[1, nan, 3]", None, "[1e30, 0, 0]"]
    source = vector.bind(Table(pd.DataFrame({"v": pd.Series(asked, dtype="str")}), "t", tmp_path))
    one = {"name": "v", "kind": "vector", "columns": ["v"], "mean": vector.mean, "std": vector.std}
    prepare = made({"v": one})
    for row, cell in enumerate(asked):
        for value in (cell, None if cell is None else [float(x) for x in cell.strip("[]").replace(",", " ").split()]):
            found = prepare._vector(one, {"v": value}, {"v": value}, tmp_path, [])
            np.testing.assert_array_equal(found["values"], source.read(np.arange(len(asked)))[row].numpy())
            assert found["present"] == source.present[row]
    with pytest.raises(runner.RefusedError, match="2 numbers, the model knows 3"):
        prepare._vector(one, {"v": "[1, 2]"}, {}, tmp_path, [])


@pytest.mark.parametrize("kind", ["lost", "cut", "no picture", "outside", "no size"])
def test_a_picture_that_cannot_be_read_is_absent_and_said(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    content = io.BytesIO()
    Image.fromarray(noise(50, 50).astype(np.uint8)).save(content, "PNG")
    (tmp_path / "in" / "cut.png").write_bytes(content.getvalue()[:200])
    (tmp_path / "in" / "words.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "whole.png").write_bytes(content.getvalue())
    (tmp_path / "in" / "whole.png").write_bytes(content.getvalue())
    fitted, one = settings(**({"spacing": "mm", "extent": 5.0} if kind == "no size" else {}))
    one["confined"] = kind == "outside"
    paths = {"lost": "no.png", "cut": "cut.png", "no picture": "words.png", "outside": "../whole.png",
             "no size": "whole.png"}  # fmt: skip
    prepare, said = made({"scan": one}), list[str]()
    found = prepare._image(one, {"scan": paths[kind]}, {"mm": "-1"}, tmp_path / "in", said)
    assert not found["present"]
    assert said[0].startswith(f"scan: {paths[kind]}: ")
    if kind != "outside":
        with pytest.raises(ImageError):
            fitted.square(fitted.fetch(paths[kind], tmp_path / "in"), -1.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", "holds no rows"),
        ("rows.csv", "a,b\n", "holds no rows"),
        ("rows.csv", "a,b\n1\n", "more or fewer cells"),
        ("rows.csv", "a,b\n1,2,3\n", "more or fewer cells"),
        ("rows.csv", "a, a\n1,2\n", "two columns share a name"),
        ("rows.json", "{}", "holds no rows"),
        ("rows.json", "[1]", "holds no rows"),
        ("rows.json", "[", "Expecting value"),
        ("rows.jsonl", '{"a": 1}\n[', "Expecting value"),
        ("rows.tsv", "a\tb\n1\t2\n", "ends in .csv, .json or .jsonl"),
    ],
)
def test_files_that_are_no_tables_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        runner.read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"scan": "https://host/a.png"}, "only paths"),
        ({"scan": 7}, "only paths"),
        ({"scan": "film.gif#frame=2"}, "only paths"),
    ],
)
def test_cells_that_are_no_paths_are_refused_by_row(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, one = settings()
    prepare = made({"scan": one | {"kind": "image"}})
    with pytest.raises(runner.RefusedError, match=f"row 1, input 'scan': .*{message}"):
        prepare._some([{"scan": None}, row], 0, tmp_path, False)


def test_words_that_a_spreadsheet_would_run_are_tamed() -> None:
    assert [runner._tamed(value) for value in ("=1+1", "@x", "-3.5", "plain", 0.5)] == [
        "'=1+1",
        "'@x",
        "-3.5",
        "plain",
        0.5,
    ]


def test_the_facts_of_a_model_are_written_whole(tmp_path: Path) -> None:
    import fusetune

    model = fusetune.load(Path(__file__).parents[1] / "bundles" / "format_2" / "model")
    write_preparation(model, tmp_path)
    facts = json.loads((tmp_path / FILE).read_text("utf-8"))
    assert facts["classes"] == ["heart", "liver", "lung"]
    assert [one["kind"] for one in facts["inputs"]] == ["columns", "vector"]
    assert facts["id"] == "case_id"
    assert {scale["kind"] for scale in facts["inputs"][0]["numbers"]} == {"number", "boolean", "date"}


def test_labels_are_said_from_their_thresholds() -> None:
    for decision, said in ((None, "head"), ({"thresholds": [0.3, 0.7, EVEN]}, "arm")):
        one = made({}, target="multilabel", decision=decision)
        one.classes = ["arm", "head", "leg"]
        assert one._line({}, np.array([0.3, 0.69, 0.5]), [])["prediction"] == said
