"""A column's hash is a function of its values: not of the file, the column's type or the kind of missing value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusetune.data.imprint import column_hash, imprint
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table, read_table

SAME: dict[str, list[pd.Series]] = {
    "numbers": [pd.Series([1, 2, 0]), pd.Series([1.0, 2.0, -0.0]), pd.Series([1, 2, 0], dtype="Int64")],
    "numbers and gaps": [pd.Series([1.0, np.nan]), pd.Series([1, None], dtype="Int64")],
    "truth values": [pd.Series([True, False]), pd.Series([True, False], dtype="boolean")],
    "words": [
        pd.Series(["a", None, ""]), pd.Series(["a", np.nan, ""], dtype=object),
        pd.Series(["a", pd.NA, ""], dtype=object),
        pd.Series(["a", None, ""], dtype="category"),
    ],
    "vectors": [pd.Series([[1, 2.5], [3, 4]]), pd.Series([np.array([1, 2.5]), np.array([3, 4], np.float32)])],
    "dates": [pd.Series(pd.to_datetime(["2020-01-02"])).astype(f"datetime64[{unit}]") for unit in ("s", "ns")],
    "large whole numbers": [pd.Series([2**60 + 1]), pd.Series([2**60 + 1], dtype=object)],
}  # fmt: skip
OTHER: dict[str, list[pd.Series]] = {
    "numbers": [pd.Series([1, 2]), pd.Series([2, 1]), pd.Series([1, 2, 0]), pd.Series([1, np.nan]), pd.Series([1, 0])],
    "large whole numbers": [pd.Series([2**60 + 1]), pd.Series([2**60 + 2])],
    "words": [pd.Series(w, dtype=object) for w in (["ab", "c"], ["a", "bc"], ["nan", "c"], [None, "c"], ["", "c"])],
    "vectors": [pd.Series([[1, 2]]), pd.Series([[2, 1]]), pd.Series([[12]]), pd.Series([[[1], 2]])],
    "bytes": [pd.Series([b"a"]), pd.Series([b"b"])],
    "structs": [pd.Series([{"bytes": b"a", "path": "x"}]), pd.Series([{"bytes": b"b", "path": "x"}])],
    "pictures": [pd.Series([Image.new("L", (3, 3), grey)]) for grey in (0, 1)],
    "surrogates": [pd.Series(["\udc80"], dtype=object), pd.Series(["\udc81"], dtype=object)],
}


@pytest.mark.parametrize("kind", SAME)
def test_equal_values_have_equal_hashes(kind: str) -> None:
    assert len({column_hash(cells) for cells in SAME[kind]}) == 1


@pytest.mark.parametrize("kind", OTHER)
def test_other_values_have_other_hashes(kind: str) -> None:
    assert len({column_hash(cells) for cells in OTHER[kind]}) == len(OTHER[kind])
    for cells in OTHER[kind]:
        assert column_hash(cells.copy()) == column_hash(cells)


CELLS = st.one_of(st.none(), st.text(max_size=4), st.integers(), st.floats(), st.booleans(), st.binary(max_size=3))


@given(st.lists(CELLS, min_size=1, max_size=5), st.data())
def test_any_changed_cell_changes_the_hash(cells: list[Any], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(cells) - 1))
    before = column_hash(pd.Series(cells, dtype=object))
    assert column_hash(pd.Series(cells, dtype=object)) == before
    changed = [*cells[:place], "another cell", *cells[place + 1 :]]
    assert column_hash(pd.Series(changed, dtype=object)) != before


def test_a_table_and_its_copy_in_another_format_have_equal_hashes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, None, 2], "c": ["x", None, "z y"], "d": [True, False, True]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    schema = infer_schema(read_table(frame), Roles("d"))
    tables = [schema.read(read_table(source)) for source in (frame, tmp_path / "t.csv", tmp_path / "t.parquet")]
    hashes = [imprint(table, "abcd") for table in tables]
    assert hashes[0] == hashes[1] == hashes[2]
    assert set(imprint(Table(frame, "t", tmp_path), ["a", "no such column"])) == {"a"}
