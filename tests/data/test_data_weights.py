"""A column of weights: what is refused, by row and column, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.schema import Schema
from fusetune.data.table import Table, read_table
from fusetune.data.weights import counting, scaled, weights_of
from fusetune.errors import SchemaError, TableError


def table_of(cells: Any) -> Table:
    return read_table(pd.DataFrame({"w": cells, "x": range(len(cells)), "y": list("ab") * (len(cells) // 2)}))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([1, None, 2, None], r"'w' .* is empty in row\(s\) 1, 3"),
        ([1, 2, float("inf"), 1], r"holds .*inf.* in row\(s\) 2, which is no finite number"),
        (["1", "2", "heavy", "1"], r"holds 'heavy' in row\(s\) 2, which is no finite number"),
        ([1.0, -2.0, 1.0, -0.5], r"holds .*-2.0.* in row\(s\) 1, 3, which is negative"),
        ([True, False, True, True], r"in row\(s\) 0, 1, 2, .*, which is no finite number"),
        ([0, 0, 0, 0], r"'w' is zero in every row, so that none of them counts"),
    ],
    ids=["missing", "infinite", "words", "negative", "truths", "none counts"],
)
def test_what_is_no_weight_is_refused_with_its_rows(cells: Any, words: str) -> None:
    with pytest.raises(TableError, match=words):
        weights_of(table_of(cells), "w")


def test_rows_of_weight_0_are_left_out_and_the_others_keep_their_numbers() -> None:
    table = counting(table_of([2.0, 0, 1, 0]), "w")
    assert table.frame["x"].tolist() == [0, 2]
    assert table.ids(None).tolist() == ["0", "2"]
    whole = table_of([2, 1, 1, 3])
    assert counting(whole, "w") is whole
    assert counting(whole, None) is whole


def test_weights_are_relative() -> None:
    found = scaled(np.array([2.0, 4, 6]))
    assert found is not None
    assert found == pytest.approx([0.5, 1, 1.5])
    assert scaled(np.full(3, 0.1)) is None


def test_a_weight_is_a_number_and_never_an_input(tmp_path: Any) -> None:
    """A few whole numbers would be taken for names elsewhere."""
    table = read_table(pd.DataFrame({"w": ["1", "2"] * 6, "x": np.arange(12.0), "y": ["a", "b"] * 6}))
    schema = infer_schema(table, Roles("y", weight="w"))
    assert (schema.named("weight"), [c.name for c in schema.inputs]) == ("w", ["x"])
    assert pd.api.types.is_numeric_dtype(schema.read(table).frame["w"])
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    without = read_table(table.frame.drop(columns=["w", "y"]))
    schema.check(without)  # asked for nowhere but where rows are judged
    with pytest.raises(SchemaError, match="cannot be both group and weight"):
        infer_schema(table, Roles("y", group="w", weight="w"))
    with pytest.raises(SchemaError, match="is the weight column and cannot be an input"):
        infer_schema(table, Roles("y", inputs=["w", "x"], weight="w"))
    with pytest.raises(SchemaError, match="--weight w has nothing"):
        infer_schema(table, Roles("y", gather="w", weight="w"))
