"""A few inputs of every family of `benchmarks/fuzz.py`, and whether its judges see what is lost or changed."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _fuzz_parquet import _instant
from _meant import Cell, compare, equal, read_separated, records
from _trials import Family, Trial, WrongError, outcome_of, try_many
from fuzz import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from fusetune.errors import TableError


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_inputs_are_right_or_loud(family: Family, tmp_path: Path) -> None:
    count = 40 if family.name == "bundles" else 150
    found = list(try_many(family, range(count), 5, tmp_path))
    assert [outcome.number for outcome in found] == list(range(count))
    faults = [outcome for outcome in found if outcome.kind not in ("right", "loud")]
    assert not faults, faults[:3]
    # Of a damaged checkpoint the right answer is to train again, which needs nobody to be told by an error.
    assert {outcome.kind for outcome in found} >= ({"right"} if family.name == "checkpoints" else {"right", "loud"})


def _words(text: str, separator: str = ",") -> list[list[str]]:
    return [[cell.word for cell in row] for row in read_separated(text, separator)[0]]


@pytest.mark.parametrize(
    ("text", "rows", "strict"),
    [
        ("a,b\n1,2\n", [["a", "b"], ["1", "2"]], True),
        ("a,b\r\n1,\r2,3", [["a", "b"], ["1", ""], ["2", "3"]], True),
        ('a\n"1,\n2"\n', [["a"], ["1,\n2"]], True),
        ('a\n"x ""y"""\n', [["a"], ['x "y"']], True),
        ('a\n""\n\n', [["a"], [""], [""]], True),
        ('a,b\n"1,2\n3,4\n', [["a", "b"], ['"1', "2"], ["3", "4"]], False),
        ('a\n5"\n', [["a"], ['5"']], False),
        ('a\n"x"y\n', [["a"], ['"x"y']], False),
        ("a,", [["a", ""]], True),
        ("", [], True),
    ],
)
def test_the_reader_of_what_is_meant(text: str, rows: list[list[str]], strict: bool) -> None:
    assert _words(text) == rows
    assert read_separated(text, ",")[1] is strict


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=2, max_size=2), max_size=6
    )
)
def test_the_reader_agrees_with_what_python_writes(rows: list[list[str]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    assert _words(stream.getvalue()) == rows


def test_empty_lines_count_in_files_of_one_column_only() -> None:
    _, ways = records(read_separated("\na\n1\n\n2\n\n", ",")[0])
    assert [len(rows) for rows in ways] == [3, 4]
    header, ways = records(read_separated("a,b\n\n1,2\n\n", ",")[0])
    assert header == [Cell("a"), Cell("b")]
    assert [len(rows) for rows in ways] == [1]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"a": ["1.10"], "b": ["x"]}, "rows"),
        ({"a": ["1.10", "7"]}, "columns"),
        ({"a": [1.1, 7], "b": ["x", "NA"]}, "changed"),
        ({"a": ["1.10", "7"], "b": ["x", None]}, "changed"),
        ({"a": ["1.10", "7"], "b": ["x ", "NA"]}, "changed"),
        ({"a": ["1.10", "7"], "c": ["x", "NA"]}, "changed"),
        ({"a": ["1.10", "7"], "b": ["x", "NA"]}, None),
        ({"a ": ["1.10", "7"], "b": ["x", "NA"]}, None),
    ],
)
def test_what_is_lost_or_changed_is_seen(columns: dict[str, list[Any]], kind: str | None) -> None:
    header, ways = records(read_separated('a,b\n1.10,x\n7,"NA"\n', ",")[0])
    if kind is None:
        compare(pd.DataFrame(columns), header, ways, exact=True)
        return
    with pytest.raises(WrongError) as caught:
        compare(pd.DataFrame(columns), header, ways, exact=True)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "truth", "same"),
    [
        (2**53, 2**53 + 1, False), (float(2**53), 2**53 + 1, False), (np.int64(7), 7, True), (7.0, 7, True),
        (True, 1, False), (1, True, False), (np.bool_(True), True, True), ("1", 1, False), (None, None, True),
        (np.nan, None, True), (np.nan, float("nan"), True), (0.0, 5e-324, False), ([1.0, 2.0], [1, 2], True),
        ([1.0], [1, 2], False), ({"a": 1, "b": None}, {"a": 1}, True), ({"a": 2}, {"a": 1}, False), ("a", "a", True),
        (pd.Timestamp(0), "1970", False),
    ],
)  # fmt: skip
def test_equal_cells(value: Any, truth: Any, same: bool) -> None:
    assert equal(value, truth) is same


def test_instants_of_any_age() -> None:
    assert _instant(pd.Timestamp("1970-01-01T00:00:01+01:00")) == -3599 * 10**9
    assert _instant(pd.Timedelta(days=2)) == 2 * 86_400 * 10**9
    assert _instant(pd.Timestamp("9999-12-31").as_unit("s")) == 253_402_214_400 * 10**9


def _dies(_: int) -> None:
    import os

    os._exit(3)


def _grows(_: int) -> None:
    np.ones(600 * 2**20 // 8).sum()


def _breaks(_: int) -> None:
    raise ZeroDivisionError("by chance")


def _refuses(_: int) -> None:
    raise TableError("row 3 is empty")


def _short(_: int) -> None:
    raise TableError("damaged: MemoryError")


@pytest.mark.parametrize(
    ("use", "sound", "kind"),
    [
        (lambda _: None, True, "right"), (_refuses, False, "loud"), (_refuses, True, "refused"),
        (_breaks, False, "crash"), (_short, False, "memory"),
    ],
)  # fmt: skip
def test_outcomes(use: Any, sound: bool, kind: str) -> None:
    assert outcome_of(Trial(lambda: use(0), sound, "note"))[0] == kind


def test_a_process_that_dies_or_grows_is_noticed_and_replaced(tmp_path: Path) -> None:
    def use(number: int) -> None:
        if number > 2:
            _dies(number)

    found = list(try_many(_second_time(use), range(12), 0, tmp_path))
    assert [outcome.number for outcome in found] == list(range(12))
    assert {outcome.kind for outcome in found} == {"right", "died"}
    grown = list(try_many(_second_time(_grows), range(2), 0, tmp_path))
    assert [outcome.kind for outcome in grown] == ["memory", "memory"]


def test_a_hang_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_trials._PATIENCE", 0.2)
    found = list(try_many(_second_time(lambda _: time.sleep(60)), range(2), 0, tmp_path))
    assert [outcome.kind for outcome in found] == ["hang", "hang"]


def _second_time(use: Any) -> Family:
    """Return a family whose first trial in every process, which is only a rehearsal, does nothing."""

    def opened(_: Path) -> Any:
        calls = iter(range(10**6))
        return lambda generator: _first_free(next(calls), use, int(generator.integers(9)))

    return Family("made up", opened)


def _first_free(call: int, use: Any, number: int) -> Trial:
    return Trial(lambda: use(number) if call else None, False, "note")
