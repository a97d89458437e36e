"""Tables that cannot be used as they are, and tables that look wrong and can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _workshop import ROWS, Fault, Workshop
from typer.testing import CliRunner

from fusetune.cli.frame import app


def _class_of_one_row(shop: Workshop) -> pd.DataFrame:
    return shop.changed("organ", "spleen", 3)


def _numbers_as_text(shop: Workshop) -> None:
    run = shop.fit(inputs=["age"], kinds={"age": "text"})
    assert run.metrics["rows"]["test"] == 8


def _vectors(shop: Workshop) -> None:
    lists = [[float(row), 1.0, -float(row)] for row in range(ROWS)]
    assert shop.fit(shop.frame.assign(v=pd.Series(lists)), inputs=["v"]).report.exists()


def _of_lists(shop: Workshop, column: str, value: object, **how: Any) -> None:
    shop.fit(shop.frame.assign(**{column: pd.Series([value] * ROWS)}), **how)


def _ragged_lists(shop: Workshop) -> None:
    shop.fit(shop.frame.assign(v=pd.Series([[float(row)] * (1 + row % 2) for row in range(ROWS)])), inputs=["v"])


def _lists_of_words(shop: Workshop) -> None:
    """Lists of words are texts, any number in a row."""
    lists = pd.Series([[f"word {row}", "b"] for row in range(ROWS)])
    run = shop.fit(shop.frame.assign(v=lists), inputs=["v"])
    (only,) = run.model.schema.modalities().values()
    assert only.several, "lists of words were taken for something else"


def _mark(shop: Workshop) -> None:
    assert shop.fit(shop.file(b"\xef\xbb\xbf" + shop.csv()), row_id="id").report.exists()


def _wide(shop: Workshop) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (ROWS, 200)).round(3)
    frame = pd.concat([shop.frame, pd.DataFrame(noise, columns=[f"x{i}" for i in range(200)])], axis=1)
    table = shop.file(shop.csv(frame.drop(columns=["scan", "note", "patient"])))
    assert shop.fit(table, inputs=None, row_id="id").report.exists()


def _short_row(shop: Workshop) -> bytes:
    lines = shop.csv().split(b"\n")
    lines[5] = lines[5].rsplit(b",", 2)[0]
    return b"\n".join(lines)


def _marks(name: str, separator: str, *rows: int) -> Callable[[Workshop], object]:
    """Predict a table in which notes begin with a quotation mark that has no partner."""

    def inject(shop: Workshop) -> None:
        plain = shop.frame.drop(columns="scan").replace({"note": {",": ""}}, regex=True)
        lines = [separator.join([str(cell) for cell in cells]) for cells in [[*plain], *plain.to_numpy().tolist()]]
        for row in rows:
            lines[row + 1] = lines[row + 1].replace(f"{separator}seen", f'{separator}"seen')
        told = shop.model().predict_table(shop.file("\n".join(lines).encode(), name), "mask")
        assert len(told) == ROWS, f"{len(told)} of {ROWS} rows"

    return inject


def _formulas(shop: Workshop) -> None:
    """Formulas stay words in the table, and cannot run from the predictions."""
    frame = shop.changed("id", '=HYPERLINK("http://example.invalid")', 3).assign(site="@SUM(1+1)")
    table, told = shop.file(shop.csv(frame)), shop.folder / "told.csv"
    answer = CliRunner().invoke(app, ["predict", str(shop.made), str(table), "--out", str(told)])
    assert answer.exit_code == 0, answer.output
    assert "got an apostrophe in front" in " ".join(answer.output.split())
    assert pd.read_csv(told)["row_id"].tolist()[2:4] == ["case-2", "'" + frame["id"][3]]


def _extra(shop: Workshop) -> None:
    told, plain = (
        shop.model().predict_table(frame) for frame in (shop.frame.assign(extra=pd.Series([[1]] * ROWS)), shop.frame)
    )
    pd.testing.assert_frame_equal(told, plain)


def _one_row(shop: Workshop) -> None:
    model = shop.model()
    alone, all_rows = model.predict_proba(shop.frame.iloc[[5]]), model.predict_proba(shop.frame)
    np.testing.assert_allclose(alone.to_numpy()[0], all_rows.to_numpy()[5], rtol=0, atol=1e-6)


def _without_input(shop: Workshop) -> None:
    _told_of(shop, "note", "note: not in the table")


def _without_column(shop: Workshop) -> None:
    _told_of(shop, "age", "age: not in the table, a missing cell of columns in every row")


def _told_of(shop: Workshop, column: str, text: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        told = shop.model().predict_table(shop.frame.drop(columns=[column]))
    assert text in str(said[0].message)
    assert (told["problem"] == text).all()


TABLES = [
    Fault("label column", "absent", lambda s: s.fit(label="organs"), "no column 'organs'; its columns are .*organ"),
    Fault("label column", "constant", lambda s: s.fit(s.frame.assign(organ="lung")), "'organ'.*nothing to learn"),
    Fault(
        "label column",
        "a class of one row",
        lambda s: s.fit(_class_of_one_row(s)),
        "spleen.*one row only.*merge or drop",
    ),
    Fault(
        "label column", "empty cells", lambda s: s.fit(s.changed("organ", None, 3, 5)), r"row\(s\), 3, 5; fill it in"
    ),
    Fault(
        "label column",
        "lists",
        lambda s: _of_lists(s, "organ", [1, 2]),
        "label column 'organ'.*'1' is in every row: nothing to learn",
    ),
    Fault(
        "group column",
        "lists",
        lambda s: _of_lists(s, "patient", [1], group="patient"),
        "group column 'patient'.*lists",
    ),
    Fault("empty table", "no bytes", lambda s: s.fit(s.file(b"")), "table.csv cannot be read: it is empty"),
    Fault("empty table", "only names", lambda s: s.fit(s.file(s.csv(s.frame[:0]))), "table.csv has no rows"),
    Fault("empty table", "a DataFrame", lambda s: s.fit(s.frame[:0]), "the DataFrame has no rows"),
    Fault(
        "row ids", "repeated", lambda s: s.fit(s.changed("id", "case-7", 3), row_id="id"), "'id' repeats case-7; .*uni"
    ),
    Fault(
        "row ids", "empty", lambda s: s.fit(s.changed("id", None, 3), row_id="id"), r"'id' is empty in row\(s\) 3; fill"
    ),
    Fault("split column", "an unknown part", lambda s: s.fit(s.changed("part", "trian", 3)), "'part'.*trian"),
    Fault("split column", "no test row", lambda s: s.fit(s.frame[s.frame["part"] != "test"]), "no row.*test"),
    Fault(
        "groups on both sides",
        "a patient",
        lambda s: s.fit(s.changed("patient", "p0", 45), group="patient"),
        r"1 group\(s\) of column 'patient'.*p0; split by group",
    ),
    Fault("text column of numbers", "given as text", _numbers_as_text),
    Fault("column of lists", "of equal length", _vectors),
    Fault("column of lists", "of other lengths", _ragged_lists, "column 'v' holds 1 numbers, but 2 in row 1"),
    Fault(
        "column of lists",
        "of words",
        _lists_of_words,
    ),
    Fault("CSV", "Latin-1", lambda s: s.fit(s.file(s.csv() + "é".encode("latin1"))), "table.csv is not UTF-8.*iconv"),
    Fault("CSV", "UTF-16", lambda s: s.fit(s.file(s.csv().decode().encode("utf-16"))), "table.csv is not UTF-8.*iconv"),
    Fault("CSV", "a short row", lambda s: s.fit(s.file(_short_row(s))), "Row #6.*Expected 8.*got 6.*as many cells"),
    Fault(
        "CSV",
        "a long row",
        lambda s: s.fit(s.file(s.csv() + b"1,2,3,4,5,6,7,8,9\n")),
        "Expected 8.*got 9.*as many cells",
    ),
    Fault("CSV", "an open quote", lambda s: s.fit(s.file(s.csv() + b'"a,b\n')), "quotation mark is opened and never"),
    Fault("CSV", "a byte order mark", _mark),
    Fault("CSV", "200 columns", _wide),
    Fault("CSV", "two marks without partners", _marks("t.csv", ",", 7, 40), "line \\d+.*mark|mark.*line \\d+"),
    Fault("TSV", "two marks without partners", _marks("t.tsv", "\t", 7, 40)),
    Fault("TSV", "one mark without a partner", _marks("t.tsv", "\t", 7)),
    Fault("CSV", "NUL in a header", lambda s: s.fit(s.file(s.csv().replace(b"organ", b"or\0gan", 1))), "organ|NUL"),
    Fault("CSV", "formulas", _formulas),
    Fault("CSV", "no such file", lambda s: s.fit(Path("/nowhere/t.csv")), "there is no file /nowhere/t.csv"),
    Fault("prediction table", "a missing column", _without_column),
    Fault(
        "prediction table",
        "a misspelt column",
        lambda s: s.model().predict(s.frame.rename(columns={"age": "aged"})),
        "'age' is missing, did you mean 'aged'",
    ),
    Fault("prediction table", "a missing input", _without_input),
    Fault("prediction table", "an extra column", _extra),
    Fault(
        "prediction table",
        "another type",
        lambda s: s.model().predict(s.frame.assign(age="old")),
        "'age' must be number.*old",
    ),
    Fault("prediction table", "no rows", lambda s: s.model().predict(s.frame[:0]), "has no rows"),
    Fault("prediction table", "one row", _one_row),
]
