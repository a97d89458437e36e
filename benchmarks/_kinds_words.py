"""Words of a table that are lost, or read without a word as something else than they say: kinds 2 and 5 to 7."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from _kinds import Case, Loud, listening, need, told_by
from _workshop import ROWS, Workshop

import fusetune
from fusetune.data.table import read_table

_CODE = np.arange(ROWS) // 2 % 2


# Kind 2: rows lost.


def _rows(content: bytes, rows: int, name: str, shop: Workshop) -> str:
    table = read_table(shop.file(content, name))
    return need(len(table) == rows, f"{len(table)} of {rows} rows")


def _notes(marked: Sequence[int], form: str, separator: str = "\t") -> bytes:
    """Return a table of 30 notes of which some hold a quotation mark."""
    lines = [f"id{separator}note{separator}y"]
    lines += [
        separator.join([f"c{i}", form.format(f"seen {i}") if i in marked else f"seen {i}", "ab"[i % 2]])
        for i in range(30)
    ]
    return ("\n".join(lines) + "\n").encode()


_LINE = r"line \d+|row\(?s?\)? .*\d|Row #\d+|quotation mark"
ROWS_LOST = [
    *(
        Case(
            2,
            f"{name} {suffix}, marks in rows {marked}",
            partial(_rows, _notes(marked, form, mark), 30, f"t.{suffix}"),
            _LINE,
        )
        for suffix, mark in (("tsv", "\t"), ("csv", ","))
        for name, form in (("opened in a cell", '"{}'), ("closed in a cell", '{}"'), ("inches in a cell", '{} 5" wide'))
        for marked in ((3,), (5, 20), (1, 2, 29))
    ),
    Case(
        2,
        "empty lines in a file of one column",
        partial(_rows, b"note\na\n\nb\n\n\nc\n", 6, "t.csv"),
        r"line|row|empty",
    ),
    Case(2, "NUL in a header", partial(_rows, b"a\0,c\n1,2\n3,4\n5,6\n", 3, "t.csv"), "NUL|header|line|letter"),
    Case(2, "NUL in a cell", partial(_rows, b"a,c\n1\0,2\n3,4\n5,6\n", 3, "t.csv"), "NUL|line|row|letter"),
    Case(2, "returns alone as line ends", partial(_rows, b"a,c\r1,2\r3,4\r5,6\r", 3, "t.csv"), "line|row|columns"),
    Case(2, "two sorts of line ends", partial(_rows, b"a,c\n1,2\r3,4\n5,6\r\n", 3, "t.csv"), "line|row|columns"),
    Case(
        2,
        "JSON Lines with a line that is no object",
        partial(_rows, b'{"a": 1}\n[2]\n{"a": 3}\n', 3, "t.jsonl"),
        "line|row",
    ),
    Case(
        2,
        "JSON Lines with two objects in a line",
        partial(_rows, b'{"a": 1}{"a": 2}\n{"a": 3}\n', 3, "t.jsonl"),
        "line|row",
    ),
    Case(
        2, "JSON Lines with U+2028 in a word", partial(_rows, '{"a": "x\u2028y"}\n{"a": "z"}\n'.encode(), 2, "t.jsonl")
    ),
]

# Kind 5: the same meaning, carried by another format.

_CARRIED: dict[str, list[Any]] = {
    "codes with leading zeros": ["02134" if k else "01010" for k in _CODE],
    "codes with trailing zeros": ["1.10" if k else "1.1" for k in _CODE],
    "None as a word": ["None" if k else "mild" for k in _CODE],
    "NA as a word": ["NA" if k else "DE" for k in _CODE],
    "empty cells": ["" if i % 5 == 0 else ("left" if k else "right") for i, k in enumerate(_CODE)],
    "truth values": [bool(k) for k in _CODE],
    "yes and no": ["yes" if k else "no" for k in _CODE],
    "whole numbers with gaps": [None if i % 5 == 0 else int(40 + 9 * k) for i, k in enumerate(_CODE)],
    "times with a zone": [f"2020-0{1 + 5 * k}-{1 + i % 28:02d}T10:00:00+05:00" for i, k in enumerate(_CODE)],
    "days": [f"2020-0{1 + 5 * k}-{1 + i % 28:02d}" for i, k in enumerate(_CODE)],
    "durations": [f"{5 + 50 * k} days {i % 9:02d}:00:00" for i, k in enumerate(_CODE)],
    "lists of numbers": [[float(k), 1.0 - k, i / 100] for i, k in enumerate(_CODE)],
    "long whole numbers": [2**60 + int(k) for k in _CODE],
}


def _typed(name: str, words: list[Any]) -> pd.Series:
    """Return a column as a program would hold it."""
    match name:
        case "times with a zone":
            return pd.Series(pd.to_datetime(words))
        case "days":
            return pd.Series(pd.to_datetime(words))
        case "durations":
            return pd.Series(pd.to_timedelta(words))
        case "yes and no" | "codes with leading zeros":
            return pd.Series(pd.Categorical(words))
        case _:
            return pd.Series(words, dtype=object).infer_objects()


def _carried(name: str, shop: Workshop) -> str:
    """Train on a file of words, and ask about the same table in every other carrier."""
    frame = pd.DataFrame(
        {
            "c": pd.Series(_CARRIED[name]),
            "age": shop.frame["age"],
            "organ": shop.frame["organ"],
            "part": shop.frame["part"],
        }
    )
    held = frame.assign(c=_typed(name, _CARRIED[name]))
    file = shop.file(frame.to_csv(index=False).encode())
    held.to_parquet(shop.folder / "t.parquet")
    (shop.folder / "t.jsonl").write_text(frame.to_json(orient="records", lines=True), encoding="utf-8")
    model = shop.fit(file, inputs=["c", "age"], **_kind_of(name)).model
    first = model.predict_table(file)
    carriers: dict[str, Any] = {
        "read_csv": pd.read_csv(file), "frame": held, "words in a frame": frame, "Parquet": shop.folder / "t.parquet",
        "JSON Lines": shop.folder / "t.jsonl",
    }  # fmt: skip
    found = [f"{carrier}: {seen}" for carrier, table in carriers.items() if (seen := _differs(model, table, first))]
    if found and all(": said" in seen for seen in found):
        raise Loud("; ".join(found))
    return "; ".join(seen for seen in found if ": said" not in seen)


def _kind_of(name: str) -> dict[str, Any]:
    return {"kinds": {"c": "category"}} if "codes" in name or "long" in name else {}


def _differs(model: Any, table: Any, first: pd.DataFrame) -> str:
    """Return how predictions differ from the first ones, beginning with `said` where every such row is explained."""
    with listening() as said:
        try:
            told = model.predict_table(table)
        except fusetune.errors.UserError as error:
            return f"said {error}"
    differ = (told["probability"] != first["probability"]) | (told["prediction"] != first["prediction"])
    if not differ.any():
        return ""
    explained = (told["problem"][differ] != "").all() or "'c'" in said.text or "c:" in said.text
    return f"{'said' if explained else 'silent:'} {differ.sum()} of {len(told)} rows differ"


CARRIERS = [Case(5, name, partial(_carried, name)) for name in _CARRIED]

# Kind 6: cells that change before anybody knows what they are.


def _classes(words: Sequence[str], quoted: bool, shop: Workshop) -> str:
    """Train on labels that are written in these ways; each is a class of its own."""
    mark = '"' if quoted else ""
    lines = ["age,organ"]
    lines += [f"{a},{mark}{words[i % len(words)]}{mark}" for i, a in enumerate(shop.frame["age"])]
    run = shop.fit(shop.file("\n".join(lines).encode() + b"\n"), inputs=["age"], split=None)
    found = sorted(map(str, run.model.classes))
    return need(found == sorted(words), f"classes {found}")


def _ids(words: Sequence[str], shop: Workshop) -> str:
    """Ask about rows whose ids are written in these ways."""
    frame = shop.frame.iloc[: len(words)].assign(id=list(words))
    told = shop.model().predict_table(shop.file(shop.csv(frame)))
    return need(told["row_id"].tolist() == list(words), f"row ids {told['row_id'].tolist()}")


def _one_text(word: str, shop: Workshop) -> str:
    """Ask about one row whose text looks like something else."""
    model = shop.model()
    row = shop.frame.iloc[[5]].assign(note=word)
    two = pd.concat([row, shop.frame.iloc[[6]]])
    alone, beside = (model.predict_table(shop.file(shop.csv(frame)))["probability"][0] for frame in (row, two))
    return need(abs(alone - beside) < 1e-6, f"{alone} alone, {beside} beside another text")


def _categories(words: Sequence[str], shop: Workshop) -> str:
    """A category column of such words tells the class, if it is read as they are written."""
    frame = shop.frame.assign(proto=[words[int(k)] for k in _CODE])
    how: Literal[0, 2] = csv.QUOTE_NONNUMERIC if "NA" in words else csv.QUOTE_MINIMAL  # without marks a missing cell
    table = shop.file(frame.to_csv(index=False, quoting=how).encode())
    model = shop.fit(table, inputs=["proto"], kinds={"proto": "category"}).model
    told = model.predict_table(table)
    right = (told["prediction"] == frame["organ"]).mean()
    return need(right == 1, f"accuracy {right} with a column that tells the class")


CHANGED = [
    *(
        Case(6, f"labels {', '.join(words)}", partial(_classes, words, False))
        for words in (("1.1", "1.10", "1.2"), ("007", "7"), ("1e3", "1000"), ("True", "no"), ("1.0", "2.0", "3.00"))
    ),
    *(
        Case(6, f"quoted labels {', '.join(words)}", partial(_classes, words, True))
        for words in (("NA", "EU"), ("None", "some"), ("null", "zero"), ("nan", "naan"))
    ),
    Case(6, "label None without marks", partial(_classes, ("None", "some"), False), "organ.*None"),
    *(
        Case(6, f"ids {', '.join(words)}", partial(_ids, words), "'id'")
        for words in (
            ("1e3", "1000", "2e1"),
            ("007", "7"),
            ("1.10", "1.1"),
            ("12345678901234567890", "12345678901234567891"),
        )
    ),
    *(
        Case(6, f"a text that reads {word}", partial(_one_text, word))
        for word in ("12345", "true", "2020-01-31", "1e5", "[1, 2]")
    ),
    *(
        Case(6, f"categories {', '.join(words)}", partial(_categories, words))
        for words in (("3.1", "3.10"), ("01", "1"), ("1e3", "1000"), ("NA", "DE"), ("None", "mild"))
    ),
]

# Kind 7: one value, several spellings.

_NFD = unicodedata.normalize("NFD", "é")


def _groups(spell: Callable[[str, int], str], shop: Workshop) -> str:
    """Rows of one patient stay together however the patient is spelt."""
    frame = shop.frame.assign(
        patient=[spell(f"pé{row // 4}", row) for row in range(ROWS)],
        organ=np.where(np.arange(ROWS) // 4 % 2, "lung", "heart"),
    )
    run = shop.fit(shop.file(shop.csv(frame)), split=None, group="patient", row_id="id")
    parts = pd.read_parquet(run.folder / "split.parquet")
    part = parts.set_index(parts.columns[0])["part"] if "part" in parts else parts.iloc[:, -1]
    both = part.to_numpy()
    apart = sum(len(set(both[row : row + 4])) > 1 for row in range(0, ROWS, 4))
    return need(apart == 0, f"{apart} of {ROWS // 4} patients on both sides")


def _header(name: str, shop: Workshop) -> str:
    run = shop.fit(shop.file(shop.csv(shop.frame.rename(columns={"organ": name}))))
    return need(set(run.model.classes) == {"heart", "lung"}, run.model.classes)


def _labels(one: str, other: str, shop: Workshop) -> str:
    """A class in two spellings is one class, or is said to be in two."""
    words = [(one if row % 4 else other) if k else "heart" for row, k in enumerate(_CODE)]
    run = shop.fit(shop.file(shop.csv(shop.frame.assign(organ=words))))
    if len(run.model.classes) == 2:
        return ""
    told = told_by(run)
    if one in told and other in told:
        raise Loud(f"{one!r} and {other!r} are named")
    return f"classes {run.model.classes} and not a word"


def _asked(change: Callable[[str], str], shop: Workshop) -> str:
    """Ask with another spelling of the categories."""
    model = shop.model()
    before = model.predict_table(shop.frame)
    told = model.predict_table(shop.frame.assign(site=shop.frame["site"].map(change)))
    if (told["probability"] == before["probability"]).all():
        return ""
    if (told["problem"] != "").all():
        raise Loud(told["problem"][0])
    return f"{(told['problem'] == '').sum()} rows are predicted otherwise, and no problem is told"


_CLASS = "organ.*(lung|é)"
SPELLINGS = [
    Case(7, "groups with spaces at the end", partial(_groups, lambda word, row: word + " " * (row % 2)), "patient.*pé"),
    Case(7, "groups with a hard space", partial(_groups, lambda word, row: word + "\u00a0" * (row % 2)), "patient.*pé"),
    Case(
        7,
        "groups with an invisible letter",
        partial(_groups, lambda word, row: "\u200b" * (row % 2) + word),
        "patient.*pé",
    ),
    Case(
        7,
        "groups in NFC and NFD",
        partial(_groups, lambda w, row: unicodedata.normalize(("NFC", "NFD")[row % 2], w)),
        "patient",
    ),
    *(
        Case(7, f"header {name!r}", partial(_header, name), "organ")
        for name in ("organ ", " organ", "organ\u00a0", "\u200borgan", "organ\t")
    ),
    Case(7, "labels with a space at the end", partial(_labels, "lung", "lung "), _CLASS),
    Case(7, "labels in capitals", partial(_labels, "lung", "Lung"), _CLASS),
    Case(7, "labels in NFC and NFD", partial(_labels, "é", _NFD), _CLASS),
    Case(7, "labels true and True", partial(_labels, "true", "True"), "organ"),
    Case(7, "categories in capitals", partial(_asked, str.upper)),
    Case(7, "categories with spaces", partial(_asked, lambda word: f" {word} ")),
    Case(7, "categories with a hard space", partial(_asked, lambda word: word + "\u00a0")),
]


WORD_KINDS = [*ROWS_LOST, *CARRIERS, *CHANGED, *SPELLINGS]
