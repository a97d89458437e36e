"""Cells with several pictures or texts: each picture is looked at, said by row and place, and taken out alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from several import several_table

from fusetune.config.checks import DEFAULTS
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table, read_table
from fusetune.doctor.examine import Examination, copy_numbers, examine
from fusetune.doctor.treat import treat
from fusetune.report.checks import render_checks

LIMIT = 10_000


def prepared(folder: Path, frame: pd.DataFrame, inputs: list[str]) -> tuple[Table, Any]:
    table = Table(read_table(frame).frame, "t", folder)
    schema = infer_schema(table, Roles("organ", inputs=inputs, group="patient", split="part", row_id="case_id"))
    return schema.read(table), schema


def examined(folder: Path, frame: pd.DataFrame, inputs: list[str]) -> Examination:
    table, schema = prepared(folder, frame, inputs)
    return examine(table, schema, pixel_limit=LIMIT)


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    frame = several_table(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    frame.at[3, "scans"] = ["3.png", "lost.png", "broken.png"]
    frame.at[4, "scans"] = ["lost.png"]
    return frame


def test_lost_and_broken_pictures_are_named_by_row_and_place(tmp_path: Path, frame: pd.DataFrame) -> None:
    examination = examined(tmp_path, frame, ["scans", "notes"])
    found = {finding.kind: finding for finding in examination.findings}
    missing = found["image_missing"]
    assert missing.rows == ("case-003", "case-004")
    assert missing.evidence["places"] == [["case-003", 1], ["case-004", 0]]
    assert "The first is row case-003, picture 2 of 3: lost.png: there is no such file" in missing.remedy
    assert found["image_unreadable"].evidence["files"]["case-003"].startswith("picture 3 of 3: broken.png")
    assert "case-003" in render_checks(examination)


def test_only_what_is_broken_is_masked(tmp_path: Path, frame: pd.DataFrame) -> None:
    examination = examined(tmp_path, frame, ["scans", "notes"])
    treated = treat(examination, DEFAULTS | {"image_missing": "mask", "image_unreadable": "mask"})
    cells = treated.table.frame.set_index(treated.table.frame["case_id"])["scans"]
    assert cells["case-003"] == ("3.png", None, None)
    assert cells["case-004"] is None or pd.isna(cells["case-004"])
    assert any(line.startswith("left out 2 picture(s) for image_missing") for line in treated.lines)
    # Texts are looked at as one, and stay the lists that they were.
    notes = treated.table.frame.set_index(treated.table.frame["case_id"])["notes"].dropna()
    assert all(isinstance(cell, tuple) for cell in notes)


def test_rows_with_a_picture_in_common_are_copies(tmp_path: Path) -> None:
    frame = several_table(tmp_path).drop(columns="scan")
    frame["scans"] = [[f"{row}.png"] for row in range(len(frame))]
    frame.at[0, "scans"] = ["0.png", "1.png", "1.png"]
    frame.at[40, "scans"] = ["1.png", "40.png"]
    frame.at[41, "scans"], frame.at[42, "scans"] = ["41.png", "42.png"], ["42.png", "41.png"]
    examination = examined(tmp_path, frame, ["scans"])
    sets = {tuple(rows.tolist()) for rows in examination.copies["duplicate_images"][("scans",)]}
    assert sets == {(0, 1, 40), (41, 42)}
    assert (41, 42) in {tuple(rows.tolist()) for rows in examination.copies["duplicate_rows"][()]}
    table, schema = prepared(tmp_path, frame, ["scans"])
    for numbers in (copy_numbers(table, schema), copy_numbers(table, schema, examination)):
        assert numbers[0] == numbers[1] == numbers[40] >= 0
        assert numbers[41] == numbers[42] >= 0
        assert len(set(numbers.tolist())) == 3
