"""Cells whose meaning hangs on how they are written: units, the order of dates, words that count as empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.doctor.examine import examine
from fusetune.doctor.findings import Finding


def found(frame: pd.DataFrame | Path, **roles: Any) -> dict[str, Finding]:
    table = read_table(frame)
    schema = infer_schema(table, Roles("y", **roles))
    return {f.kind: f for f in examine(schema.read(table), schema, pixel_limit=1000).findings}


def labelled(values: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": values, "y": [("a", "b")[i % 2] for i in range(len(values))]})


@pytest.mark.parametrize(
    "written",
    ["{} y", "{} mg", "{},5", "1,2{:02}", "{} %", "<{} ng/ml", "{}°C", "~{} kg/m²", "{}.000,00"],
)
def test_numbers_with_a_unit_or_a_separator_are_said(written: str) -> None:
    finding = found(labelled([written.format(i + 20) for i in range(40)]))["numbers_as_words"]
    assert finding.severity == "warn"
    assert finding.columns == ("x",)
    assert finding.evidence["count"] == 40
    assert "plain numbers" in finding.remedy


@pytest.mark.parametrize(
    "values",
    [
        [f"{i % 4} mg" for i in range(40)],  # four doses are categories
        [f"the patient is {i} years old and in pain" for i in range(40)],
        [f"site {i % 15}" for i in range(40)],
        [f"{i:03}" for i in range(40)],  # codes
        [i + 0.5 for i in range(40)],
    ],
)
def test_words_and_codes_are_left_alone(values: list[Any]) -> None:
    assert "numbers_as_words" not in found(labelled(values))


def test_dates_whose_order_no_row_tells_are_said() -> None:
    unclear = [f"{i % 12 + 1:02}/{(i + 1) % 12 + 1:02}/2020" for i in range(40)]
    finding = found(labelled(unclear))["dates_unclear"]
    assert finding.evidence["count"] == 40
    assert "dates_unclear" not in found(labelled([*unclear[:-1], "25/12/2020"]))
    assert "dates_unclear" not in found(labelled([date.replace("/", ".") for date in unclear]))


def test_words_that_count_as_empty_are_said_and_names_are_not(tmp_path: Path) -> None:
    rows = [f'{("NA", 7, 8)[i % 3]},{("None", "mild", "grave")[i % 3]},"NA",{"ab"[i % 2]}' for i in range(42)]
    (tmp_path / "t.csv").write_text("x,severity,code,y\n" + "\n".join(rows) + "\n")
    findings = found(tmp_path / "t.csv", kinds={"x": "number"}, inputs=["x", "severity", "code"])
    finding = findings["words_read_as_empty"]
    assert finding.columns == ("x",)
    assert finding.evidence["count"] == 14
    assert "say NA" in finding.evidence["what"]
    assert finding.severity == "info"


def test_a_column_that_has_one_value_beside_words_that_count_as_empty_is_warned_of(tmp_path: Path) -> None:
    rows = [f"{('NA', 'NL')[i % 2]},{i % 7},{'ab'[i % 2]}" for i in range(42)]
    (tmp_path / "t.csv").write_text("country,x,y\n" + "\n".join(rows) + "\n")
    finding = found(tmp_path / "t.csv")["words_read_as_empty"]
    assert (finding.severity, finding.columns) == ("warn", ("country",))
