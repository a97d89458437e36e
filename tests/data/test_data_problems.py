from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.data.absent import Lacking
from fusetune.data.cells import CellSource
from fusetune.data.problems import Problems, id_notes, ids_with_notes
from fusetune.data.schema import Modality
from fusetune.data.table import read_table
from fusetune.data.vectors import VectorSource
from fusetune.errors import ConfigError, ImageError, InputWarning, TableError

CELLS = Modality("columns", "columns", ("age", "a; age", "site"))
SCAN = Modality("scan", "image", ("scan",))


def source(present: list[bool], problems: dict[int, str]) -> VectorSource:
    """Return what stands for an input of any kind: which rows have it, and what is wrong."""
    bits = np.array(present)
    return VectorSource(np.zeros((len(bits), 1), np.float32), bits, np.zeros(len(bits), np.uint64), problems=problems)


def problems(given: dict[int, str], scan: dict[int, str] | None = None, rows: int = 4, **more: Any) -> Problems:
    """Return the problems of a table whose cells and pictures have some."""
    table = read_table(pd.DataFrame({name: ["x"] * rows for name in ("age", "a; age", "site", "scan")}))
    cells = CellSource.of(np.zeros((rows, 1), np.float32), np.zeros((rows, 0), np.int64))
    cells.problems = given
    scans = source([row not in (scan or {}) for row in range(rows)], scan or {})
    return Problems.of(table, {"columns": CELLS, "scan": SCAN}, {"columns": cells, "scan": scans}, **more)


def said(found: Problems, on_problem: Any = "warn", listing: bool = False, notes: tuple[str, ...] = ()) -> str:
    """Return the one warning, or nothing."""
    table = read_table(pd.DataFrame({"x": range(len(found.rows))}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found.tell(table, on_problem, listing=listing, notes=notes)
    assert len(caught) <= 1
    assert all(it.category is InputWarning and it.filename == __file__ for it in caught)
    return str(caught[0].message) if caught else ""


def test_problems_are_counted_by_column_whatever_their_texts_hold() -> None:
    found = problems({0: "age: 'x' is no number", 2: "age: ''; site: 'y' was never seen", 3: "odd"}, {1: "1.png: gone"})
    assert {it.column: list(it.texts) for it in found.columns} == {
        "age": [0, 2],
        "site": [2],
        "columns": [3],
        "scan": [1],
    }
    assert found.rows == [
        "columns: age: 'x' is no number",
        "scan: 1.png: gone",
        "columns: age: ''; site: 'y' was never seen",
        "columns: odd",
    ]
    text = said(found)
    assert text.startswith("the DataFrame: 4 of 4 rows have a problem:")
    assert "\n  - age: 2 of 4 cells, row(s) 0, 2: 'x' is no number\n" in text
    assert "\n  - scan: 1 of 4 cells, row(s) 1: 1.png: gone\n" in text


def test_what_was_never_learnt_counts_as_a_problem_and_so_does_what_reading_changed() -> None:
    table = read_table(pd.DataFrame({"site": ["a", "b", "c"], "age": ["x"] * 3}))
    table = replace(table, problems={0: "site: half a character"})
    cells = CellSource.of(np.zeros((3, 1), np.float32), np.zeros((3, 0), np.int64))
    cells.problems = {1: "age: 'x' is no number"}
    cells.unseen = {1: "site: 'b' is new", 2: "site: 'c' is new"}
    found = Problems.of(table, {"columns": CELLS}, {"columns": cells})
    assert found.rows == [
        "site: half a character",
        "columns: age: 'x' is no number; site: 'b' is new",
        "columns: site: 'c' is new",
    ]
    assert "3 of 3 rows have a problem" in said(found)
    assert "site: 2 of 3 cells, row(s) 1, 2: 'b' is new" in said(found, listing=True)


def test_a_rare_category_is_listed_by_row_and_no_reason_for_a_warning() -> None:
    table = read_table(pd.DataFrame({"site": ["a", "b", "c", "d"], "age": [1.0] * 4}))
    cells = CellSource.of(np.zeros((4, 1), np.float32), np.zeros((4, 0), np.int64))
    cells.unseen = {1: "site: 'b' is new"}
    found = Problems.of(table, {"columns": CELLS}, {"columns": cells})
    assert found.rows[1] == "columns: site: 'b' is new"
    assert said(found) == ""
    with pytest.raises(TableError, match="'b' is new"):
        found.tell(table, "raise", listing=False)


def test_a_column_whose_name_holds_the_mark_between_problems() -> None:
    found = problems({1: "a; age: 'x' is no number"})
    assert {it.column: it.texts for it in found.columns}["a; age"] == {1: "'x' is no number"}


@given(st.lists(st.booleans(), min_size=2, max_size=9))
def test_one_warning_per_column_that_is_mostly_unused_also_where_rows_are_listed(wrong: list[bool]) -> None:
    found = problems({row: "age: 'x'" for row, bad in enumerate(wrong) if bad}, rows=len(wrong))
    assert bool(said(found, listing=True)) == (sum(wrong) > max(1, len(wrong) / 2))
    assert bool(said(found)) == any(wrong)
    assert f" {sum(wrong)} of {len(wrong)} rows have a problem" in said(found) or not any(wrong)
    assert said(found, "mask") == ""


def test_empty_cells_do_not_count_among_those_of_a_column() -> None:
    table = read_table(pd.DataFrame({"age": ["x", "y", None, None, None]}))
    cells = CellSource.of(np.full((5, 1), np.nan, np.float32), np.zeros((5, 0), np.int64))
    cells.problems = {0: "age: 'x'", 1: "age: 'y'"}
    found = Problems.of(table, {"columns": Modality("columns", "columns", ("age",))}, {"columns": cells})
    assert "age: 2 of 2 cells" in said(found, listing=True)
    assert "only class frequencies are left: 5 row(s), 0, 1, 2, 3, 4" in said(found)


@pytest.mark.parametrize(("lost", "refused"), [([0, 1, 2, 3], True), ([0, 1, 2], False), ([0], False)])
def test_a_column_of_which_no_picture_can_be_read_is_refused(lost: list[int], refused: bool) -> None:
    found = problems({}, {row: f"{row}.png: there is no such file" for row in lost})
    assert said(found, "mask") == ""
    if refused:
        for listing in (True, False):
            with pytest.raises(ImageError) as caught:
                said(found, listing=listing)
            for text in ("0.png: there is no such file", f"start from {Path.cwd()};", "absolute", "on_problem=mask"):
                assert text in str(caught.value)
    else:
        assert f"{len(lost)} of 4 rows have a problem" in said(found)


def test_a_single_picture_that_is_lost_says_nothing_of_its_table() -> None:
    assert "1 of 1 cells" in said(problems({}, {0: "0.png: gone"}, rows=1))


def test_problems_can_be_refused_and_name_their_rows() -> None:
    found = problems({1: "age: 'x' is no number"}, lacking=Lacking(("note",)), start=7)
    assert found.rows[1] == "note: not in the table; columns: age: 'x' is no number"
    for listing in (True, False):
        with pytest.raises(TableError, match=r"(?s)4 of 4 rows.*note: not in the.*age: 1 of 4 cells, row\(s\) 8: "):
            said(found, "raise", listing)
    assert said(problems({}), "raise") == ""
    with pytest.raises(TableError, match="an id is missing"):
        said(problems({}), "raise", notes=("an id is missing",))
    assert said(found, "mask", notes=("an id is missing",)) == "the DataFrame:\n  - an id is missing"
    with pytest.raises(ConfigError, match="on_problem is 'ignore', but must be one of warn, raise, mask"):
        said(found, "ignore")


@pytest.mark.parametrize(("seed", "size", "kinds"), [(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 5, 3), (4, 1, 2), (5, 4, 1)])
def test_pieces_are_told_as_the_whole(seed: int, size: int, kinds: int) -> None:
    cells = np.random.default_rng(seed).choice(["odd", "new", "gone", "fine"][:kinds], 14).tolist()
    frame = pd.DataFrame({"age": [None if cell == "gone" else cell for cell in cells], "scan": "x.png"})

    def of(rows: range) -> Problems:
        own = cells[rows.start : rows.stop]
        source_of_cells = CellSource.of(np.zeros((len(own), 1), np.float32), np.zeros((len(own), 0), np.int64))
        source_of_cells.problems = {row: "age: odd" for row, cell in enumerate(own) if cell == "odd"}
        source_of_cells.unseen = {row: "age: new" for row, cell in enumerate(own) if cell == "new"}
        scans = source(
            [cell == "fine" for cell in own], {row: "lost" for row, cell in enumerate(own) if cell != "fine"}
        )
        table = read_table(frame.iloc[rows.start : rows.stop].astype({"age": "str"}))
        modalities = {"columns": Modality("columns", "columns", ("age",)), "scan": SCAN}
        return Problems.of(table, modalities, {"columns": source_of_cells, "scan": scans}, start=rows.start)

    whole = of(range(len(cells)))
    pieces = [of(range(at, min(at + size, len(cells)))) for at in range(0, len(cells), size)]
    joined = pieces[0]
    for piece in pieces[1:]:
        joined = Problems.joined([joined, piece])
    told = [[*map(str, it.columns), it.counts, it.bare[:5], it.lacking] for it in (whole, joined)]
    assert told[0] == told[1]
    assert [it.lost for it in whole.columns] == [it.lost for it in joined.columns]
    assert all(len(it.texts) <= 5 for it in joined.columns) or len(pieces) == 1


def test_repeated_ids_are_named_whichever_piece_they_are_in() -> None:
    ids = pd.Series(["a", "b", None, "a", "c", "b", None, "d"], dtype="str")
    pieces = [ids[at : at + 3] for at in range(0, 8, 3)]
    assert id_notes("case", lambda: pieces) == id_notes("case", lambda: [ids])
    assert id_notes("case", lambda: pieces) == [
        "id column 'case' is empty in row(s) 2, 6, and so is row_id",
        "id column 'case' repeats a, b, 4 rows in all; row_id keeps them, so join predictions by their order",
    ]
    many = pd.Series([f"n{row // 2}" for row in range(40)])
    assert "repeats n0, n1, n2, n3, n4 and 15 more, 40 rows" in id_notes("case", lambda: [many[:7], many[7:]])[0]


IDS: list[tuple[Any, list[str | None]]] = [
    (["1e3", "007", "1.10", " a", "NA"], ["1e3", "007", "1.10", " a", "NA"]),
    ([3, 1, 2], ["3", "1", "2"]),
    ([3, None, 2], ["3", None, "2"]),
    ([1.5, None, 2], ["1.5", None, "2"]),
    (["a", None, "a"], ["a", None, "a"]),
    (pd.array([7, None], dtype="Int64"), ["7", None]),
    (pd.array([7.0, None], dtype="Float64"), ["7", None]),
    (pd.Categorical([7, None, 7]), ["7", None, "7"]),
    ([10**20, "x", 5.0, True], ["100000000000000000000", "x", "5", "True"]),
    ([2.0**60], ["1.152921504606847e+18"]),
    ([pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-03")], ["2020-01-02", "2020-01-03"]),
]


@pytest.mark.parametrize(("given", "words"), IDS, ids=str)
def test_ids_keep_their_words(given: Any, words: list[str | None]) -> None:
    ids, notes = ids_with_notes(read_table(pd.DataFrame({"id": given})), "id")
    assert ids.astype(object).where(ids.notna(), None).tolist() == words
    assert ("is empty in row(s) 1, and so is row_id" in "".join(notes)) == (None in words)
    there = [word for word in words if word is not None]
    assert ("repeats" in "".join(notes)) == (len(set(there)) < len(there))


@pytest.mark.parametrize("cell", [[1], {"a": 1}, {1}, object()], ids=["list", "dict", "set", "object"])
def test_what_is_no_id_is_refused_by_its_row(cell: Any) -> None:
    given = pd.Series(["a", cell], dtype=object, name="id")
    with pytest.raises(TableError, match=r"column 'id'.* holds .* in row(\(s\))? 1;"):
        ids_with_notes(read_table(given.to_frame()), "id")


def test_row_numbers_stand_for_ids_that_a_file_lacks_and_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n5,6\n7,8\n")
    ids, notes = ids_with_notes(read_table(tmp_path / "t.csv"), "case")
    assert ids.tolist() == ["0", "1"]
    assert notes == ["no id column 'case': row_id is the row's number, from 0"]
    assert ids_with_notes(read_table(tmp_path / "t.csv"), None)[1] == []
    assert ids_with_notes(read_table(pd.DataFrame({"a": [5]})), "case")[1] == []  # the index comes back
