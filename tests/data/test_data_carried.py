"""Cells that are pictures themselves give the pixels of the same picture in a file; other objects are refused."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fusetune.data.choices import Kind
from fusetune.data.images import ImageInput
from fusetune.data.infer import infer_schema
from fusetune.data.kinds import infer_kind
from fusetune.data.roles import Roles
from fusetune.data.table import Table, read_table
from fusetune.errors import TableError

READER = ImageInput(column="image", size=24, fit="stretch", background=90)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4000, (40, 50, 3)).astype(np.uint16)


def encoded(picture: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def square(cell: object, root: Path) -> np.ndarray[Any, Any]:
    return READER.square(READER.fetch(cell, root))


CARRIERS: dict[str, Callable[[bytes], object]] = {
    "bytes": lambda content: content,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "struct": lambda content: {"bytes": content, "path": "somewhere/else.png"},
    "opened": lambda content: Image.open(io.BytesIO(content)),
    "data address": lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_an_encoded_file_is_the_file(carrier: str, kind: str, tmp_path: Path) -> None:
    large = Image.fromarray(np.random.default_rng(2).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(large, kind, **({} if kind == "BMP" else {"exif": exif}))
    (tmp_path / "a").write_bytes(content)
    assert np.array_equal(square(CARRIERS[carrier](content), tmp_path), square("a", tmp_path))


def picture_of(mode: str) -> Image.Image:
    colours = Image.fromarray(PIXELS)
    if mode in ("I;16", "I", "F"):
        numbers = np.random.default_rng(3).random((40, 50)) * 60_000 - (0 if mode == "I;16" else 999)
        return Image.fromarray(numbers.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    if mode not in ("RGBA", "LA", "PA"):
        return colours.convert(mode)
    colours.putalpha(Image.fromarray(PIXELS[..., 0]))
    return colours.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_a_pil_picture_is_the_file_that_it_is_saved_to(mode: str, tmp_path: Path) -> None:
    picture = picture_of(mode)
    picture.save(tmp_path / "a", "TIFF" if mode in ("CMYK", "YCbCr", "I", "F") else "PNG")
    assert np.array_equal(square(picture, tmp_path), square("a", tmp_path))


def test_a_pil_picture_is_turned_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    loaded = Image.open(tmp_path / "a.png")
    loaded.load()
    for picture in (loaded, loaded.convert("RGB")):
        assert np.array_equal(square(picture, tmp_path), square("a.png", tmp_path))


def test_a_picture_that_was_changed_after_it_was_opened(tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS))))
    picture.paste((1, 2, 3), (0, 0, 50, 40))
    assert (square(picture, tmp_path) == [1, 2, 3]).all()


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (PIXELS, PIXELS),
        (PIXELS[..., 0], PIXELS[..., 0]),
        (PIXELS[..., :1], PIXELS[..., 0]),
        (np.dstack([PIXELS, PIXELS[..., 0]]), np.dstack([PIXELS, PIXELS[..., 0]])),
        (PIXELS / 255, PIXELS),
        ((PIXELS / 255).astype(np.float32), PIXELS),
        (PIXELS[::2, ::-1], PIXELS[::2, ::-1]),
        (PIXELS[..., 0] > 127, PIXELS[..., 0] > 127),
        (DEEP, DEEP),
        (DEEP[..., 0], DEEP[..., 0]),
    ],
)
def test_an_array_is_the_file_that_it_is_written_to(array: Any, stored: Any, tmp_path: Path) -> None:
    if stored.dtype == np.uint16:
        cv2.imwrite(str(tmp_path / "a.png"), stored[..., ::-1] if stored.ndim == 3 else stored)
    else:
        Image.fromarray(stored).save(tmp_path / "a.png")
    assert np.array_equal(square(array, tmp_path), square("a.png", tmp_path))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (PIXELS.transpose(2, 0, 1), r"channels come last: array\.transpose\(1, 2, 0\)"),
        (PIXELS.astype(np.int64), "type int64 is no picture"),
        (PIXELS.astype(np.float32), "floats run from 0 to 255, not from 0"),
        (PIXELS[..., :2], "is no picture"),
        (np.zeros((0, 5), np.uint8), "is no picture"),
        (np.full((4, 4), np.nan), "no pixel holds a finite number"),
        (b"words", "not an image in a known format"),
        (b"", "not an image in a known format"),
        ({"bytes": b"x", "more": 1}, "type dict is no picture"),
        (object(), "type object is no picture"),
        (Image.new("L", (3000, 3000)), "pixel_limit"),
    ],
)
def test_what_is_no_picture_is_the_problem_of_its_row(cell: object, text: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    frame = pd.DataFrame({"image": pd.Series(["a.png", cell, None], dtype=object)})
    source = READER.model_copy(update={"pixel_limit": 10**6}).bind(Table(frame, "t", tmp_path))
    assert list(source.problems) == [1]
    assert re.search(text, source.problems[1])
    assert source.present.tolist() == [True, False, False]


def cells(carrier: str, count: int = 24) -> list[Any]:
    generator = np.random.default_rng(4)
    arrays = [generator.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(count)]
    match carrier:
        case "array":
            return arrays
        case "floats":
            return [array[..., 0] / 255 for array in arrays]
        case "pil":
            return [Image.fromarray(array) for array in arrays]
        case _:
            return [CARRIERS[carrier](encoded(Image.fromarray(array))) for array in arrays]


@pytest.mark.parametrize("carrier", ["array", "floats", "pil", "bytes", "struct", "data address"])
def test_a_column_of_pictures_is_an_image_column(carrier: str) -> None:
    given = cells(carrier)
    for gap in (None, 5):
        values = [None if row == gap else cell for row, cell in enumerate(given)]
        table = read_table(pd.DataFrame({"scan": pd.Series(values, dtype=object), "label": list("ab") * 12}))
        schema = infer_schema(table, Roles("label"))
        assert (schema.columns[0].kind, schema.columns[0].role) == (Kind.IMAGE, "input")
        schema.check(table)
        source = ImageInput(column="scan", size=8, fit="stretch").bind(table)
        assert source.present.tolist() == [row != gap for row in range(24)]
        assert len(set(source.digests[source.present].tolist())) == int(source.present.sum())
        again = ImageInput(column="scan", size=8, fit="stretch").bind(table)
        assert np.array_equal(again.digests, source.digests)


@pytest.mark.parametrize("carrier", ["bytes", "struct"])
def test_parquet_carries_them(carrier: str, tmp_path: Path) -> None:
    pd.DataFrame({"scan": cells(carrier), "label": list("ab") * 12}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert infer_schema(table, Roles("label")).columns[0].kind is Kind.IMAGE
    assert ImageInput(column="scan", size=8, fit="stretch").bind(table).present.all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([{"a": 1}] * 4, "dict"),
        ([{1}] * 4, "set"),
        ([object()] * 4, "object"),
        ([b"words"] * 4, "bytes"),
        ([*cells("pil", 3), 1.5], "float"),
        ([*cells("bytes", 3), [1, 2]], "list"),
    ],
)
def test_other_objects_are_refused_with_row_and_type(values: list[Any], kind: str) -> None:
    row = 3 if kind in ("float", "list") else 0
    with pytest.raises(TableError, match=rf"column 'x' of the DataFrame holds {kind} in row\(s\) {row}"):
        read_table(pd.DataFrame({"x": pd.Series(values, dtype=object), "label": list("abab")}))


@pytest.mark.parametrize("values", [["a", None], [1, 2.5], [True, None], [pd.Timestamp(0), None], [[1, 2], [3, 4]]])
def test_cells_of_every_other_kind_pass(values: list[Any]) -> None:
    read_table(pd.DataFrame({"x": pd.Series(values, dtype=object)}))


@pytest.mark.parametrize(
    "said", [{"label": "scan"}, {"group": "scan"}, {"row_id": "scan"}, {"kinds": {"scan": "text"}}]
)
def test_pictures_are_nothing_else(said: dict[str, Any]) -> None:
    table = read_table(pd.DataFrame({"scan": cells("bytes"), "label": list("ab") * 12}))
    with pytest.raises(TableError, match=r"pictures"):
        infer_schema(table, Roles(**{"label": "label", **said}))


def test_a_list_of_numbers_is_still_a_vector() -> None:
    vectors = pd.Series([np.arange(5.0) + row for row in range(30)])
    assert infer_kind(vectors)[0] is Kind.VECTOR
