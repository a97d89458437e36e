"""CSV and TSV files as words, no row lost and none made up.

Arrow reads the cells. Before it does, every quotation mark is looked at here, since Arrow takes all that follows one
without a partner as one cell; and the rows are counted without it.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from fusetune.errors import TableError

# "-" and "?" are not here: they are words that people use as categories.
MISSING_WORDS = ("NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "<NA>")
# Other tools read these as missing too; as a name (a category, a label, an id) they are words.
NAMES_OR_MISSING = (
    "None", "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"
)  # fmt: skip
_OTHERS = (";", "\t", "|", ",")  # what else stands between cells
_MISSING = pa.array([*MISSING_WORDS, *NAMES_OR_MISSING])
_QUOTED_MISSING = re.compile(rb'"(?:%s)"' % b"|".join(re.escape(str(word)).encode() for word in _MISSING))
_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
# A cell may be a long document; Arrow wants every row inside one block.
_BLOCK = 2**26
# A cell of several lines each of which has the cells of a row, in a file of few columns, may be an address or a poem.
_FEW_COLUMNS, _MANY_LINES = 3, 6


class _UnpairedError(TableError):
    """A quotation mark cannot be one that encloses a cell."""


@dataclass(frozen=True)
class _Marks:
    """The quotation marks of a file.

    Attributes:
        quoted: Do they enclose cells? Otherwise they are letters.
        lines: The file's lines, those within a cell joined.
    """

    quoted: bool
    lines: list[bytes]


def read_delimited(data: bytes, separator: str) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Read a file's cells as words; rows that are shorter or longer than the header are refused, not filled or shifted.

    Args:
        data: The file's bytes: UTF-8, with or without a byte order mark.
        separator: What stands between cells.

    Returns:
        The cells, missing where one is empty or says one of `MISSING_WORDS` or `NAMES_OR_MISSING` without quotation
        marks; and for each column with such a word, what was said, by row number.

    Raises:
        TableError: If there is no header, a quotation mark has no partner, there is a NUL, or rows would be lost.
        UnicodeDecodeError: If it is not UTF-8.
        pyarrow.ArrowInvalid: If a row has another number of cells than the header.
    """
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    data.decode("utf-8")
    if (place := data.find(b"\0")) >= 0:
        raise TableError(f"line {_line(data, place)} holds a NUL byte, which no text has; export the table again")
    names = _header(data, separator, quoted=True)
    if len(names) == 1 and (other := next((sign for sign in _OTHERS if sign in names[0]), None)):
        raise TableError(
            f"its header holds {other!r} and no {separator!r}, so that each row would be one cell; save it with "
            f"{separator!r} between cells, or read it with pandas.read_csv(..., sep={other!r}, dtype=str)"
        )
    try:
        marks = _marks(data, separator.encode(), len(names))
    except _UnpairedError:
        if separator != "\t" or _encloses(data):
            raise
        # Many exports with tabs quote nothing: there, a mark is a letter like any other.
        marks = _Marks(quoted=False, lines=data.splitlines())
        names = _header(data, separator, quoted=False)
    words = _parse(data, separator, names, marks, nothing=[""])
    expected = sum(1 for line in marks.lines if line or len(names) == 1) - 1
    if words.num_rows != expected:
        raise TableError(f"it has {expected:,} rows, but only {words.num_rows:,} can be told apart; export it again")
    enclosed = marks.quoted and _QUOTED_MISSING.search(data)
    strict = _parse(data, separator, names, marks, nothing=_MISSING.to_pylist()) if enclosed else None
    columns, blanks = {}, {}
    for place, (name, column) in enumerate(zip(names, words.columns, strict=True)):
        gone = pc.fill_null(pc.is_in(column, value_set=_MISSING), False)
        if strict is not None:
            gone = pc.and_(gone, pc.is_null(strict.column(place)))
        rows = np.flatnonzero(gone.to_numpy())
        columns[place] = pc.if_else(gone, pa.scalar(None, pa.string()), column).to_pandas()
        if len(rows):
            blanks[name] = pd.Series(column.take(pa.array(rows)).to_pandas().to_numpy(), index=rows, dtype="str")
    frame = pd.concat(columns, axis=1)
    return frame.set_axis(names, axis=1), blanks


def _header(data: bytes, separator: str, *, quoted: bool) -> list[str]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    how: Any = {"delimiter": separator, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    header = next(csv.reader(text, **how), None)
    if header is None:
        raise TableError("it is empty")
    taken = set(header)
    return [name if name.strip() else _nameless(place, taken) for place, name in enumerate(header)]


def _nameless(place: int, taken: set[str]) -> str:
    name = f"Unnamed: {place}"
    while name in taken:  # as the name of another column that has one
        name += "_"
    return name


def _parse(data: bytes, separator: str, names: list[str], marks: _Marks, nothing: list[str]) -> pa.Table:
    places = [str(place) for place in range(len(names))]  # names may repeat, which is refused later with its own words
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(
            column_names=places, skip_rows_after_names=1, use_threads=False, block_size=_BLOCK
        ),
        parse_options=arrow_csv.ParseOptions(
            delimiter=separator,
            quote_char='"' if marks.quoted else False,
            newlines_in_values=marks.quoted,
            ignore_empty_lines=len(names) > 1,
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(places, pa.string()),
            null_values=nothing,
            strings_can_be_null=True,
            quoted_strings_can_be_null=nothing == [""],
        ),
    )


def _encloses(data: bytes) -> bool:
    """Return whether marks enclose some whole cell between tabs; then they are no letters elsewhere either."""
    return re.search(rb'(?:^|(?<=[\t\r\n]))"[^"]*+(?:""[^"]*+)*+"(?=[\t\r\n]|$)', data) is not None


def _marks(data: bytes, separator: bytes, columns: int) -> _Marks:
    """Find every quoted cell, and join the lines of those that have several."""
    joined = bytearray(data)
    opens = re.compile(rb'(?:^|(?<=[%s\r\n]))"' % re.escape(separator))
    place = 0
    while opening := opens.search(data, place):
        closing = _CLOSING.match(data, opening.end())
        if closing is None:
            raise _UnpairedError(_said(data, opening.start(), "a quotation mark is opened and never closed"))
        place = closing.end()
        if data[place : place + 1] not in (separator, b"\n", b"\r", b""):
            what = "a quotation mark is opened, and its cell goes on behind the next"
            raise _UnpairedError(_said(data, opening.start(), what))
        if b"\n" not in closing[0] and b"\r" not in closing[0]:
            continue
        if _swallows(data, opening.start(), place, separator, columns):
            what = (
                f"the quotation mark opened there is closed on line {_line(data, place)}, and each of these lines has"
            )
            raise TableError(_said(data, opening.start(), f"{what} the {columns} cells of a row, which would be lost"))
        joined[opening.start() : place] = re.sub(rb"[\r\n]", b" ", data[opening.start() : place])
    return _Marks(quoted=True, lines=bytes(joined).splitlines())


def _said(data: bytes, place: int, problem: str) -> str:
    return (
        f"line {_line(data, place)}: {problem}; write a mark that is a letter twice, within a cell in quotation marks, "
        "or save the table as Parquet"
    )


def _swallows(data: bytes, start: int, end: int, separator: bytes, columns: int) -> bool:
    """Return whether the lines from one mark to its partner all have a row's cells, so that the two are no partners."""
    first = max(data.rfind(b"\n", 0, start), data.rfind(b"\r", 0, start)) + 1
    ends = [place for place in (data.find(b"\n", end), data.find(b"\r", end)) if place >= 0]
    lines = data[first : min(ends, default=len(data))].splitlines()
    if columns <= _FEW_COLUMNS and separator != b"\t" and len(lines) < _MANY_LINES:
        return False
    return columns > 1 and all(line.count(separator) == columns - 1 for line in lines)


def _line(data: bytes, place: int) -> int:
    """Return the number of the line, from 1, that a byte stands in."""
    return len((data[:place] + b"x").splitlines())
