"""The doctor's page: what was found is on it, escaped, with thumbnails where pictures are meant, and no address."""

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

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.findings import Finding
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
        assert finding.kind.replace("_", " ") in page
        assert finding.remedy.replace("'", "&#39;") in page
    assert "scans.csv" in page
    assert "97" in page
    assert "dropped 1 row(s)" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page), "the page needs nothing from elsewhere"


def test_values_are_escaped(examination: Examination) -> None:
    page = render_checks(examination)
    assert ODD not in page
    assert "&lt;b&gt;odd &amp; id&lt;/b&gt;" in page


def test_thumbnails_are_those_of_the_rows(examination: Examination) -> None:
    page = render_checks(examination)
    codes = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert codes
    (pictures,) = examination.pictures
    expected = Image.fromarray(np.asarray(pictures.thumbs[0])).resize((72, 72), Image.Resampling.BICUBIC)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in codes]
    assert sum(np.array_equal(image, np.asarray(expected)) for image in images) >= 2, "row 0 and its copy"


def test_only_findings_about_pictures_have_thumbnails(examination: Examination) -> None:
    before = examination.findings
    examination.findings = [Finding("text_empty", "warn", ("case-003",), ("note",), {"what": "x", "count": 1}, "y")]
    try:
        page = render_checks(examination)
    finally:
        examination.findings = before
    assert "case-003" in page
    assert "data:image" not in page


def test_thumbnails_are_of_the_column_that_is_meant(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path)
    frame["slide"] = frame["scan"].iloc[::-1].to_numpy()
    table = Table(frame, "t", tmp_path)
    both = examine(
        table, infer_schema(table, Roles("organ", inputs=["scan", "slide"], row_id="case_id")), pixel_limit=10**6
    )
    pages = {}
    for column in ("scan", "slide"):
        both.findings = [Finding("image_blank", "warn", ("case-003",), (column,), {"what": "x", "count": 1}, "y")]
        pages[column] = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", render_checks(both))
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
