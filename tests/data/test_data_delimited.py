"""CSV and TSV: every row of the file is a row of the table, counted another way; a mark without a partner is said."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.data.delimited import MISSING_WORDS, NAMES_OR_MISSING, read_delimited
from fusetune.errors import TableError

CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=8), st.sampled_from(",\t"), st.booleans())
def test_what_a_writer_wrote_is_read_cell_by_cell(rows: list[list[str]], separator: str, all_quoted: bool) -> None:
    text = io.StringIO()
    how = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=separator, quoting=how, lineterminator="\r\n").writerows([["a", "b", "c"], *rows])
    try:
        frame, blanks = read_delimited(text.getvalue().encode(), separator)
    except TableError as error:
        assert "would be lost" in str(error)  # a cell that looks like rows of its own
        return
    assert len(frame) == len(rows)
    for row, cells in enumerate(rows):
        for name, cell in zip("abc", cells, strict=True):
            missing = cell == "" or (not all_quoted and cell in (*MISSING_WORDS, *NAMES_OR_MISSING))
            read = frame[name].iloc[row]
            assert pd.isna(read) if missing else read == cell
    assert not all_quoted or not blanks


def read(text: str, separator: str = ",") -> list[list[object]]:
    frame, _ = read_delimited(text.encode(), separator)
    return [[None if pd.isna(cell) else cell for cell in row] for row in frame.to_numpy().tolist()]


@pytest.mark.parametrize(
    ("text", "separator", "rows"),
    [
        ("a\n1\n\n2\n", ",", [["1"], [None], ["2"]]),  # in one column, an empty line is a row
        ("a,b\n1,2\n\n3,4\n\n", ",", [["1", "2"], ["3", "4"]]),
        ("a,b\r\n1,2\r\n3,4", ",", [["1", "2"], ["3", "4"]]),
        ("a,b\r1,2\r3,4\r", ",", [["1", "2"], ["3", "4"]]),
        ('a,b\n1,"x\ny, z"\n2,5" pipe\n', ",", [["1", "x\ny, z"], ["2", '5" pipe']]),
        ('a,b\n1,"x ""q"" y"\n', ",", [["1", 'x "q" y']]),
        ('a\tb\n"x\ty\n3\t5" pipe\n', "\t", [['"x', "y"], ["3", '5" pipe']]),
        ('a\tb\n"x\ty"\tz\n', "\t", [["x\ty", "z"]]),
    ],
)
def test_every_line_that_is_a_row_is_read(text: str, separator: str, rows: list[list[object]]) -> None:
    assert read(text, separator) == rows


@pytest.mark.parametrize(
    ("text", "separator", "message"),
    [
        ('a,b\n1,x\n2,"y\n3,z\n', ",", "line 3: a quotation mark is opened and never closed"),
        ('a,b\n1,"x\n2,y\n3,"z\n', ",", "line 2: a quotation mark is opened, and its cell goes on behind the next"),
        ('a,b\n"T"rue,1\n', ",", "line 2: a quotation mark is opened, and its cell goes on"),
        ('a,b,c,d\n1,"x,2,3\n4,5,6,7\n8,y",9,1\n', ",", "line 2: .*line 4, and each of these lines has the 4 cells"),
        ('a\tb\n"x"\ty\n"3\tz\n4\t5"\n', "\t", "line 3: .*line 4, and each of these lines has the 2 cells"),
        ('a\tb\n"\ty\n3\t"\n', "\t", "line 2: .*line 3, and each of these lines has the 2 cells"),
        ("a,b\n1,2\n\x00,3\n", ",", "line 3 holds a NUL byte"),
        ("a\0,b\n1,2\n", ",", "line 1 holds a NUL byte"),
        ("a;b\n1;2,5\n", ",", "its header holds ';' and no ','"),
        ("a,b\n1,2\n", "\t", "its header holds ',' and no"),
    ],
)
def test_rows_that_a_mark_or_a_nul_would_swallow_are_refused_by_line(text: str, separator: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(text, separator)


def test_marks_without_partners_never_cost_a_row(tmp_path: Path) -> None:
    """Marks at the begin, in the middle and at the end of cells of an export that quotes nothing."""
    for first in range(0, 30, 3):
        for second in range(first + 1, 30, 5):
            for place in ("{}x", "x{}y", "x{}", "{}"):
                lines = [f"c{i}\t{place.format(chr(34)) if i in (first, second) else 'word'}\tdog" for i in range(30)]
                if place == "{}":  # a cell that is nothing but a mark may begin or end another one
                    with pytest.raises(TableError, match=f"line {first + 2}: "):
                        read("id\tnote\tlabel\n" + "\n".join(lines) + "\n", "\t")
                    continue
                rows = read("id\tnote\tlabel\n" + "\n".join(lines) + "\n", "\t")
                assert [row[0] for row in rows] == [f"c{i}" for i in range(30)]
                assert rows[first][1] == place.format('"')
