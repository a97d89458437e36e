"""Which columns are chosen and what they are, where a name says more than the values do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fusetune.data.infer import infer_schema
from fusetune.data.kinds import Kind
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.errors import SchemaError


def table_of(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({**columns, "y": np.array(["a", "b"])[np.arange(60) % 2]})


@pytest.mark.parametrize("name", ["zipcode", "ZIP", "zip_code", "Postal Code", "PLZ", "areaCode", "postcode"])
def test_area_codes_are_names_unless_the_user_says_otherwise(name: str) -> None:
    frame = table_of(**{name: np.random.default_rng(0).integers(10_000, 10_020, 60)})
    column = infer_schema(read_table(frame), Roles("y")).columns[0]
    assert (column.kind, column.role) == (Kind.CATEGORY, "input")
    assert "area code" in column.reason
    given = infer_schema(read_table(frame), Roles("y", kinds={name: "number"})).columns[0]
    assert given.kind is Kind.NUMBER


@pytest.mark.parametrize("name", ["zip ratio", "codec", "area", "zip_code"])
def test_what_measures_is_no_area_code(name: str) -> None:
    frame = table_of(**{name: np.random.default_rng(0).normal(size=60)})
    assert infer_schema(read_table(frame), Roles("y")).columns[0].kind is Kind.NUMBER


def test_inputs_may_be_patterns() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    frame = table_of(lab_a=rows[:, 0], lab_b=rows[:, 1], **{"lab_*": rows[:, 2]}, age=rows[:, 3])
    table = read_table(frame)
    named = [c.name for c in infer_schema(table, Roles("y", inputs=["lab_?", "age"])).inputs]
    assert named == ["lab_a", "lab_b", "lab_*", "age"]
    literal = [c.name for c in infer_schema(table, Roles("y", inputs=["lab_*"])).inputs]
    assert literal == ["lab_*"], "a column of that very name is meant"
    everything = [c.name for c in infer_schema(table, Roles("y", inputs=["*a*"], group="age")).inputs]
    assert everything == ["lab_a", "lab_b", "lab_*"], "no column that has a use already"
    with pytest.raises(SchemaError, match=r"--inputs x\*: no column"):
        infer_schema(table, Roles("y", inputs=["x*"]))
