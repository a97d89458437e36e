"""Made-up CSV and TSV files, sound ones and damaged ones, with what was meant by them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _meant import Cell, Rows, compare, header_name, read_separated, records
from _trials import Family, Generator, Trial, WrongError

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table

WORDS = (
    "lung", "heart", "Straße", "e\u0301te\u0301", "été", "李", "=1+1", "-", "None", "none", "a;b", "p3 ", " p3", "it's",
    "\u200bx", "👩‍⚕️", "a/b.png", "x\u2028y", "x\x85y", "x\x0by", "x\x1cy", "\\N", "\\", "a\\", "#1", "'", "`", "{}",
    "[1, 2]", "[0.1, 0.2, 0.3]", "NA", "nan", "null", "N/A", "<NA>", "true", "False", "yes", "T", "?", "inf", "-inf",
)  # fmt: skip
NUMBERS = (
    "1", "0", "-3", "40.5", "1.10", "1.1", "1e3", "1000", "007", "00", "+5", "-0", "0.1", ".5", "5.", "1e400", "1e-400",
    "12345678901234567890", "9007199254740993", "0.30000000000000004", "1_000", "1,234", "45 %", "78 y", "0x1F", " 7",
    "1.7976931348623157e308", "١٢", "Infinity", "1d", "1E5", "100000.0",
)  # fmt: skip
DATES = ("2020-01-31", "31/12/1999", "03.04.2020", "9999-12-31", "0001-01-01", "2020-03-01T10:00:00+05:00", "12/25/20")
NAMES = (
    "id",
    "note",
    "label",
    "age",
    "label ",
    "Unnamed: 0",
    "été",
    "e\u0301",
    "a.b",
    "x y",
    "index",
    "0",
    "NA",
    "key words",
)
_KINDS = ("words", "numbers", "plain numbers", "whole numbers", "dates", "truth", "text", "any")


def _cell(kind: str, generator: Generator, separator: str) -> str:
    """Return one cell's letters."""

    def one(words: tuple[str, ...]) -> str:
        return words[generator.integers(len(words))]

    match kind:
        case "words":
            return one(WORDS)
        case "numbers":
            return one(NUMBERS)
        case "plain numbers":
            return str(round(float(generator.normal(50, 9)), 1))
        case "whole numbers":
            return str(generator.integers(-99, 99))
        case "dates":
            return one(DATES)
        case "truth":
            return one(("true", "false", "True", "False"))
        case "text":
            pieces = (*WORDS, separator, ",", "\t", "\n", "\r\n", "\r", '"', '""', " ", "  ", ";")
            return "".join(one(pieces) for _ in range(generator.integers(0, 8)))
        case _:
            return _cell(_KINDS[generator.integers(len(_KINDS) - 1)], generator, separator)


@dataclass
class _File:
    """A file of separated values on its way, with what is meant by it."""

    separator: str
    header: list[Cell]
    rows: Rows
    ends: tuple[str, ...]
    last_end: bool = True
    sound: bool = True
    meant: bool = True  # are header and rows what anybody would understand?
    damage: list[str] = field(default_factory=list)
    extra: dict[int, str] = field(default_factory=dict)  # lines to put in before a row, as they are
    tail: str = ""
    raw: dict[tuple[int, int], str] = field(default_factory=dict)  # cells that are written as they are; row -1: header

    def text(self, generator: Generator) -> str:
        """Return what is written."""
        lines = []
        for place, row in enumerate([self.header, *self.rows], start=-1):
            if place in self.extra:
                lines.append(self.extra[place])
            cells = [self.raw.get((place, i), _written(cell)) for i, cell in enumerate(row)]
            lines.append(self.separator.join(cells) + self.tail)
        ends = [self.ends[generator.integers(len(self.ends))] for _ in lines]
        if not self.last_end:
            ends[-1] = ""
        return "".join(line + end for line, end in zip(lines, ends, strict=True))


def _written(cell: Cell) -> str:
    return '"' + cell.word.replace('"', '""') + '"' if cell.quoted else cell.word


def _needs_marks(word: str, separator: str, alone: bool) -> bool:
    return any(letter in word for letter in (separator, '"', "\r", "\n")) or (alone and not word.strip("\ufeff"))


def _made(generator: Generator, separator: str) -> _File:
    """Make a sound file."""
    width = int(generator.choice([1, 1, 2, 2, 3, 5]))
    height = int(generator.choice([1, 2, 3, 5, 9, 9, 40]))
    style = float(generator.choice([0.0, 0.0, 0.3, 1.0]))  # how often marks stand where they need not

    def cell(word: str) -> Cell:
        return Cell(word, _needs_marks(word, separator, width == 1) or bool(generator.random() < style))

    names = list(dict.fromkeys(NAMES[i] for i in generator.permutation(len(NAMES))))
    names = distinct(names)[:width]
    kinds = [_KINDS[generator.integers(len(_KINDS))] for _ in range(width)]
    gaps = float(generator.choice([0, 0, 0.2]))
    rows = [
        [cell("" if generator.random() < gaps else _cell(kind, generator, separator)) for kind in kinds]
        for _ in range(height)
    ]
    end = ("\n", "\n", "\r\n")[generator.integers(3)]
    return _File(separator, [cell(name) for name in names], rows, (end,), bool(generator.random() < 0.8))


def distinct(names: list[str]) -> list[str]:
    return list({header_name(name): name for name in names}.values())


Damage = Callable[[_File, Generator], None]


def _place(file: _File, generator: Generator) -> tuple[int, int]:
    return int(generator.integers(len(file.rows))), int(generator.integers(len(file.header)))


def _with_mark(file: _File, generator: Generator, form: str) -> None:
    """Put a mark without a partner into some cells that are otherwise plain."""
    for _ in range(generator.integers(1, 4)):
        row, column = _place(file, generator)
        word = "".join(c for c in file.rows[row][column].word if c not in f'"\r\n{file.separator}') or "word"
        marked = form.format(word[:1], word[1:] or "x")
        file.rows[row][column] = Cell(marked)
        file.raw[row, column] = marked
    file.sound = False


def _blank_lines(file: _File, generator: Generator) -> None:
    for row in generator.integers(0, len(file.rows), 2).tolist():
        file.extra[row] = ""
    if len(file.header) == 1:
        for row in sorted(file.extra, reverse=True):
            file.rows.insert(row, [Cell("")])
        file.extra = {}
        file.sound = False  # it may also be refused


def _trailing(file: _File, generator: Generator) -> None:
    file.tail = file.separator
    file.header = [*file.header, Cell("")]
    file.rows = [[*row, Cell("")] for row in file.rows]
    file.raw = dict.fromkeys(((row, len(file.header) - 1) for row in range(-1, len(file.rows))), "")
    file.tail = ""
    del generator


def _trailing_below(file: _File, generator: Generator) -> None:
    """Every row but the header ends with a separator: an empty cell that has no name."""
    file.raw = {
        (row, len(file.header) - 1): _written(cells[-1]) + file.separator for row, cells in enumerate(file.rows)
    }
    file.sound = False
    del generator


def _into(file: _File, generator: Generator, what: str) -> None:
    """Put a letter into a cell, or into the header."""
    row, column = _place(file, generator)
    if generator.random() < 0.3:
        file.header[column] = Cell(f"n{what}{column}", file.header[column].quoted)
    else:
        file.rows[row][column] = Cell(f"a{what}b", file.rows[row][column].quoted)
    file.sound = False


def _long(file: _File, generator: Generator) -> None:
    row, column = _place(file, generator)
    letter = ("x", "é", '"', "\n", file.separator)[generator.integers(5)]
    file.rows[row][column] = Cell(letter * int(generator.integers(1_000, 60_000)), quoted=True)


def _comment(file: _File, generator: Generator) -> None:
    file.extra[int(generator.integers(-1, len(file.rows)))] = ("# written by a program", "#", "sep=;")[
        generator.integers(3)
    ]
    file.sound = False


def _of_another_length(file: _File, generator: Generator) -> None:
    row = int(generator.integers(len(file.rows)))
    file.rows[row] = (
        file.rows[row][:-1] if generator.random() < 0.5 and len(file.header) > 1 else [*file.rows[row], Cell("z")]
    )
    file.sound = file.meant = False


def _same_names(file: _File, generator: Generator) -> None:
    file.header = [Cell("same")] * len(file.header)
    file.sound = file.sound and len(file.header) == 1
    del generator


def _no_name(file: _File, generator: Generator) -> None:
    if len(file.header) > 1:
        file.header[generator.integers(len(file.header))] = Cell("", bool(generator.random() < 0.5))
        # The name that fusetune gives it may be taken.
        file.sound = file.sound and not any(cell.word.startswith("Unnamed") for cell in file.header)


def _ends(file: _File, generator: Generator) -> None:
    """Several line ends in one file; a lone return may be refused."""
    file.ends = (("\n", "\r\n"), ("\r",), ("\n", "\r"), ("\r\n", "\r"))[generator.integers(4)]
    file.sound = file.sound and "\r" not in file.ends


def _several_lines_of_name(file: _File, generator: Generator) -> None:
    file.header[generator.integers(len(file.header))] = Cell(
        "two\nlines" if generator.random() < 0.5 else 'a "b" c', quoted=True
    )


_DAMAGES: dict[str, Damage] = {
    "mark at the beginning": lambda f, g: _with_mark(f, g, '"{}{}'),
    "mark in the middle": lambda f, g: _with_mark(f, g, '{}"{}'),
    "mark at the end": lambda f, g: _with_mark(f, g, '{}{}"'),
    "marks around a part": lambda f, g: _with_mark(f, g, '"{}"{}'),
    "space before a mark": lambda f, g: _with_mark(f, g, ' "{}{}"'),
    "blank lines": _blank_lines,
    "separators at the ends": _trailing,
    "separators at the ends, not in the header": _trailing_below,
    "NUL": lambda f, g: _into(f, g, "\0"),
    "lone surrogate": lambda f, g: _into(f, g, "\ud83d"),
    "control letter": lambda f, g: _into(f, g, "\x1b[31m"),
    "mark of byte order inside": lambda f, g: _into(f, g, "\ufeff"),
    "long cell": _long,
    "comment": _comment,
    "equal names": _same_names,
    "no name": _no_name,
    "line ends": _ends,
    "name of several lines": _several_lines_of_name,
    "row of another length": _of_another_length,
}
BYTES = (
    "utf-8-sig",
    "utf-16",
    "latin-1",
    "gz",
    "gz of two parts",
    "gz cut short",
    "gz and more",
    "damaged bytes",
    "cut short",
)


def separated(separator: str, suffix: str) -> Callable[[Path], Callable[[Generator], Trial]]:
    """Return what opens the family of CSV or TSV files."""

    def opened(folder: Path) -> Callable[[Generator], Trial]:
        def make(generator: Generator) -> Trial:
            file = _made(generator, separator)
            # Half of the files are sound; some have two things wrong with them.
            # In the order of the list: what changes the number of cells comes last.
            count = int(generator.choice([0, 0, 1, 1, 1, 2]))
            for name in [list(_DAMAGES)[i] for i in sorted(generator.permutation(len(_DAMAGES))[:count])]:
                _DAMAGES[name](file, generator)
                file.damage.append(name)
            return _trial(file, generator, folder, suffix)

        return make

    return opened


def _trial(file: _File, generator: Generator, folder: Path, suffix: str) -> Trial:
    text = file.text(generator)
    data, sound, name = text.encode("utf-8", "surrogatepass"), file.sound, f"t{suffix}"
    if generator.random() < 0.25:
        how = BYTES[generator.integers(len(BYTES))]
        file.damage.append(how)
        data, sound = as_bytes(data, text, how, generator, sound)
        name += ".gz" if how.startswith("gz") else ""
    path = folder / name
    if _could_be_rows(file):
        sound = False

    def use() -> None:
        path.write_bytes(data)
        _judge(path, data, file, sound)

    return Trial(use, sound, f"{suffix[1:]} of {len(data)} bytes: {', '.join(file.damage) or 'sound'}; {data[:120]!r}")


def _could_be_rows(file: _File) -> bool:
    """Return whether a line of a row that goes over several looks like a whole row, so that the file may be refused.

    In a TSV file any such row may: few programs mean that.
    """
    for row in file.rows:
        lines = re.split("\r\n|\r|\n", file.separator.join(map(_written, row)))
        if len(lines) > 1 and (
            file.separator == "\t" or any(line.count(file.separator) == len(row) - 1 for line in lines)
        ):
            return True
    return False


def as_bytes(data: bytes, text: str, how: str, generator: Generator, sound: bool) -> tuple[bytes, bool]:
    packed = gzip.compress(data, 1, mtime=0)
    match how:
        case "utf-8-sig":
            return b"\xef\xbb\xbf" + data, sound
        case "utf-16":
            return text.encode("utf-16", "surrogatepass"), False
        case "latin-1":
            return text.encode("latin-1", "replace") + b"\xe9", False
        case "gz":
            return packed, sound
        case "gz of two parts":
            half = len(data) // 2
            return gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1), sound
        case "gz cut short":
            return packed[: generator.integers(len(packed))], False
        case "gz and more":
            return packed + b"more", False
        case "cut short":
            return data[: generator.integers(len(data) + 1)], False
        case _:
            return damaged(data, generator), False


def damaged(data: bytes, generator: Generator) -> bytes:
    """Return bytes with a few changes: replaced, cut out, doubled, put in, or cut off."""
    changed = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        if not changed:
            break
        place = int(generator.integers(len(changed)))
        match generator.integers(6):
            case 0:
                changed[place] = generator.integers(256)
            case 1:
                changed[place] ^= 1 << int(generator.integers(8))
            case 2:
                del changed[place : place + int(generator.integers(1, 16))]
            case 3:
                changed[place:place] = changed[place : place + int(generator.integers(1, 64))]
            case 4:
                changed[place:place] = generator.bytes(int(generator.integers(1, 8)))
            case _:
                # Headers are where a parser is led astray.
                changed[min(place, int(generator.integers(200)))] = (0, 255, 127, 128)[generator.integers(4)]
    return bytes(changed)


def _judge(path: Path, data: bytes, file: _File, sound: bool) -> None:
    """Read a file and compare it with what was meant and with what it says to a reader of its own."""
    frame, _ = read_all(path)
    if data[:2] == b"\x1f\x8b" and path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise WrongError("read", "bytes that are no UTF-8 were read without a word") from error
    said, strict = read_separated(text, file.separator)
    header, ways = records(said)
    try:
        compare(frame, header, ways, exact=strict or sound)
    except WrongError:
        if not file.meant or file.damage[-1:] in (["damaged bytes"], ["cut short"]):
            raise
        compare(frame, file.header, records([file.header, *file.rows])[1], exact=sound)


def read_all(path: Path) -> tuple[pd.DataFrame, Collection[int]]:
    """Read a table as a run does; return its cells, and the rows of which something is said."""
    table = read_table(path)
    before = table.frame.copy(deep=False)
    infer_schema(table, Roles()).read(table)
    return before, table.problems.keys()


TEXTS = [Family("csv", separated(",", ".csv")), Family("tsv", separated("\t", ".tsv"))]
