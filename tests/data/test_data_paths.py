"""Columns of paths: recognised whatever follows the name, and said to be such where they are no pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fusetune.data.choices import Kind
from fusetune.data.decode import opened
from fusetune.data.infer import infer_schema
from fusetune.data.kinds import infer_kind
from fusetune.data.paths import FORMATS, IMAGE_SUFFIXES, looks_like_paths
from fusetune.data.roles import Roles
from fusetune.data.stored import Encoded
from fusetune.data.table import Table, read_table
from fusetune.errors import ImageError


def words(pattern: str, count: int = 40) -> pd.Series:
    return pd.Series([pattern.format(number) for number in range(count)], dtype="str")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_of_a_format_names_a_picture(suffix: str) -> None:
    for pattern in ("av/{}", "https://shop.invalid/p/{}", "'{}", " {}"):
        for name in (suffix, suffix.upper()):
            end = "'" if pattern.startswith("'") else ""
            assert infer_kind(words(pattern + name + end))[0] is Kind.IMAGE


@pytest.mark.parametrize(
    "pattern",
    [
        "https://shop.invalid/p/{}.jpg?width=800", "s3://bucket/{}.png#top", "f.dcm#frame={}", "a.tif#frame={}#frame=2",
        "data:image/png;base64,iVBOR{}", "iVBORw0KGgo" + "A" * 60 + "{:04}",
    ],
)  # fmt: skip
def test_what_follows_a_name_does_not_hide_it(pattern: str) -> None:
    kind, reason, usable = infer_kind(words(pattern))
    assert kind is Kind.IMAGE and usable, reason


@pytest.mark.parametrize(
    "pattern",
    [
        "https://shop.invalid/p/{}", "scans/{}.nii.gz", "/data/x/{}", "C:\\scans\\{}", "../{}", "{}.heic",
        "clip {}.mp4", "gs://bucket/{}.bin",
    ],
)  # fmt: skip
def test_paths_that_are_no_pictures_are_said_and_left_out(pattern: str) -> None:
    for values in (words(pattern), pd.concat([words(pattern, 20)] * 2)):
        kind, reason, usable = infer_kind(values)
        assert (kind, usable) == (Kind.CATEGORY, False)
        assert "look like paths" in reason and "--kind COLUMN=image" in reason


@pytest.mark.parametrize(
    "values",
    [
        ["yes/no", "n/a"], ["120/80", "130/85"], ["v1.2", "v1.3"], ["Dr. A", "Dr. B"], ["a@b.de", "c@d.de"],
        ["and/or either", "this or that"], ["www.a.de", "www.b.de"], ["St. Mary's", "e.g. this"], ["GP / clinic", "ER"],
    ],
)  # fmt: skip
def test_ordinary_words_are_no_paths(values: list[str]) -> None:
    assert looks_like_paths(pd.Series(values, dtype="str")) is None


def test_a_column_of_which_only_some_are_pictures_is_said() -> None:
    kind, reason, usable = infer_kind(pd.concat([words("{}.png", 20), words("pending {}", 10)]))
    assert (kind, usable) == (Kind.CATEGORY, False)
    assert "only 67% of the values end like image files" in reason


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_files_without_a_suffix_are_looked_at(place: str, tmp_path: Path) -> None:
    home = tmp_path / "table"
    for folder in (home, tmp_path / "elsewhere"):
        folder.mkdir()
        for number in range(6):
            Image.new("L", (8, 8), number).save(folder / f"scan{number}", "PNG")
            (folder / f"note{number}").write_text("words")
    prefix = "" if place == "inside" else f"{tmp_path}/elsewhere/"
    columns = {
        "scan": [f"{prefix}scan{n}" for n in range(6)] * 4,
        "note": [f"note{n}" for n in range(6)] * 4,
        "label": list("ab") * 12,
    }
    table = Table(pd.DataFrame(columns).astype("str"), "t", home)
    kinds = {column.name: column.kind for column in infer_schema(table, Roles("label")).columns}
    assert kinds == {"scan": Kind.IMAGE, "note": Kind.CATEGORY, "label": Kind.CATEGORY}
    confined = infer_schema(table, Roles("label"), confined=True).columns[0]
    assert (confined.kind is Kind.IMAGE) == (place == "inside")


def test_the_error_names_every_format() -> None:
    with pytest.raises(ImageError) as caught, opened(Encoded(b"no picture"), 100):
        pass
    assert all(name in str(caught.value) for name in FORMATS)


def test_the_table_of_twice_the_same_addresses(tmp_path: Path) -> None:
    frame = pd.DataFrame({"photo": [*words("av/{}.avif"), *words("av/{}.avif")], "label": list("ab") * 40})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert infer_schema(read_table(tmp_path / "t.csv"), Roles("label")).columns[0].kind is Kind.IMAGE


def test_the_page_about_images_names_every_format_and_suffix() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "images.md").read_text("utf-8")
    for name, suffixes in FORMATS.items():
        assert re.search(
            rf"^\| \[?{name}\b.*\| {' '.join(f'`{suffix}`' for suffix in suffixes)} \|$", page, re.MULTILINE
        )
