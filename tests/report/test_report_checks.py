"""The doctor's page: what was found is on it as sentences, escaped, with pictures where they are meant."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import tiny_table

from fusetune.config.checks import ACTIONS
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.exhibits import SIDE, exhibits
from fusetune.doctor.findings import Finding
from fusetune.doctor.images import SAID
from fusetune.doctor.reasons import WHY
from fusetune.doctor.several import SeveralPictures
from fusetune.report.checks import render_checks, write_checks

ODD = "<b>odd & id</b>"


@pytest.fixture(scope="module")
def examination(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    root = tmp_path_factory.mktemp("pictures")
    frame = tiny_table(root)
    copy = frame.iloc[[0]].assign(case_id=ODD, patient="copy", part="test")
    frame = pd.concat([frame, copy], ignore_index=True)
    frame.loc[3, "note"] = "..."
    (root / "5.png").write_bytes(b"")
    table = Table(frame, "scans.csv", root)
    schema = infer_schema(
        table, Roles("organ", inputs=["scan", "note", "age"], group="patient", split="part", row_id="case_id")
    )
    return examine(table, schema, pixel_limit=10**6)


def test_every_finding_is_on_the_page(examination: Examination) -> None:
    page = render_checks(examination, ["dropped 1 row(s)"])
    for finding in examination.findings:
        assert finding.kind.replace("_", " ").capitalize() in page
        assert finding.remedy[1:].replace("'", "&#39;") in page
    assert "scans.csv" in page
    assert "97" in page
    assert "dropped 1 row(s)" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page), "the page needs nothing from elsewhere"


def test_values_are_escaped(examination: Examination) -> None:
    page = render_checks(examination)
    assert ODD not in page
    assert "&lt;b&gt;odd &amp; id&lt;/b&gt;" in page


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def pictures_of(page: str) -> list[Image.Image]:
    codes = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in codes]


def test_pictures_are_those_of_the_rows_side_by_side(examination: Examination) -> None:
    (finding,) = (one for one in examination.findings if one.kind == "duplicate_rows_across_parts")
    (pair,) = (one.sets[0] for one in exhibits(examination) if one.finding is finding)
    assert [row.row for row in pair] == list(finding.rows) == ["case-000", ODD]
    root, frame = examination.examined.table.root, examination.examined.table.frame
    original = pixels_of(root / frame["scan"].iloc[0])
    for row, part in zip(pair, finding.evidence["parts"][0], strict=True):
        assert np.array_equal(row.pictures["scan"], original), "small pictures are shown as they are"
        assert row.note == f"in the {part} part"
        assert row.label == frame["organ"].iloc[0]
        assert row.words == {"note": frame["note"].iloc[0], "age": str(frame["age"].iloc[0])}
    page = render_checks(examination)
    start = page.index("Duplicate rows across parts")
    assert len(pictures_of(page[start : page.index("</section>", start)])) == 2


def test_a_large_picture_is_shown_at_a_size_by_which_it_can_be_judged(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path)
    for row in (0, 1):
        Image.effect_noise((900, 600), 50).convert("RGB").save(tmp_path / frame["scan"].iloc[row])
    table = Table(frame, "t", tmp_path)
    examination = examine(
        table, infer_schema(table, Roles("organ", inputs=["scan"], row_id="case_id")), pixel_limit=10**6
    )
    rows = tuple(frame["case_id"].iloc[:3])
    examination.findings = [Finding("image_tiny", "warn", rows, ("scan",), {"what": "x"}, "y")]
    (tmp_path / frame["scan"].iloc[1]).unlink()
    (one,) = exhibits(examination)
    shapes = [some[0].pictures["scan"].shape for some in one.sets]
    # A file that is gone since is shown as its thumbnail.
    assert shapes[:2] == [(213, SIDE, 3), (SIDE // 2, SIDE // 2, 3)]
    assert shapes[2] == pixels_of(tmp_path / frame["scan"].iloc[2]).shape


def test_rows_with_several_pictures_show_each_and_far_ones_are_not_fetched_again(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path).head(12)
    frame["scan"] = [list(pair) for pair in zip(frame["scan"], frame["scan"].iloc[::-1], strict=True)]
    table = Table(frame, "t", tmp_path)
    schema = infer_schema(table, Roles("organ", inputs=["scan", "note"], row_id="case_id"))
    examination = examine(schema.read(table), schema, pixel_limit=10**6)
    examination.findings = [Finding("image_tiny", "warn", ("case-000",), ("scan",), {"what": "x"}, "y")]
    near = exhibits(examination)[0].sets[0][0]
    assert list(near.pictures) == ["scan, 1", "scan, 2"]
    assert near.words.keys() == {"note"}
    (pictures,) = examination.pictures
    assert isinstance(pictures, SeveralPictures)
    assert pictures.elements is not None
    pictures.elements.paths[:] = "https://example.org/a.png"
    far = exhibits(examination)[0].sets[0][0]
    assert {picture.shape for picture in far.pictures.values()} == {(SIDE // 2, SIDE // 2, 3)}


def test_suspected_labels_say_what_is_given_and_what_expected(examination: Examination) -> None:
    suspect = {
        "row": "case-003",
        "label": "heart",
        "likely": "lung",
        "p_label": 0.02,
        "p_likely": 0.999,
        "p_wrong": 0.8,
    }
    before = examination.findings
    evidence = {
        "what": "1 of 97 labels is likely to be wrong",
        "likely": 1,
        "suspects": [suspect],
        "other": {"a": [0.5]},
    }
    examination.findings = [Finding("label_errors", "warn", ("case-003",), ("organ",), evidence, "look", "likely")]
    try:
        page = render_checks(examination)
        hidden = render_checks(examination, ["dropped case-003"], redact=True)
    finally:
        examination.findings = before
    assert "expected lung (over 99%), not this label (2%); the label is wrong with a probability of 80%" in page
    assert "1 of 97 labels is likely to be wrong." in page
    assert WHY["label_errors"] in page
    assert "Likely: such a finding is right more often than wrong." in page
    assert "{" not in page[page.index("<body>") :], "no dictionaries"
    assert len(pictures_of(page)) == 1
    for secret in ("case-003", "data:image", "over 99%", "97 labels"):
        assert secret not in hidden
    assert "1 row; what it says of them is left out here." in hidden


def test_every_kind_says_why_it_matters() -> None:
    assert set(WHY) == set(ACTIONS)
    assert set(SAID) == {kind for kind in ACTIONS if kind.startswith("image_")}


def test_only_findings_about_pictures_have_pictures(examination: Examination) -> None:
    before = examination.findings
    examination.findings = [Finding("text_empty", "warn", ("case-003",), ("note",), {"what": "x", "count": 1}, "y")]
    try:
        page = render_checks(examination)
    finally:
        examination.findings = before
    assert "case-003" in page
    assert "data:image" not in page


def test_pictures_are_of_the_column_that_is_meant(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path)
    frame["slide"] = frame["scan"].iloc[::-1].to_numpy()
    table = Table(frame, "t", tmp_path)
    both = examine(
        table, infer_schema(table, Roles("organ", inputs=["scan", "slide"], row_id="case_id")), pixel_limit=10**6
    )
    pages = {}
    for column in ("scan", "slide"):
        both.findings = [Finding("image_blank", "warn", ("case-003",), (column,), {"what": "x", "count": 1}, "y")]
        pages[column] = [picture.tobytes() for picture in pictures_of(render_checks(both))]
    assert len(pages["scan"]) == len(pages["slide"]) == 1
    assert pages["scan"] != pages["slide"]


def test_a_page_without_findings_is_a_page(examination: Examination, tmp_path: Path) -> None:
    before = examination.findings
    examination.findings = []
    try:
        write_checks(tmp_path / "checks.html", examination)
    finally:
        examination.findings = before
    assert (tmp_path / "checks.html").read_text(encoding="utf-8").startswith("<!")
