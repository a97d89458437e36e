"""Cells with several pictures or texts: what they are, and which row and place each element belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import tiny_table

from fusetune.data.bags import BagSource, element_counts
from fusetune.data.batch import ordered_batches
from fusetune.data.choices import Kind
from fusetune.data.images import ImageInput
from fusetune.data.infer import infer_schema
from fusetune.data.kinds import fits
from fusetune.data.roles import Roles
from fusetune.data.schema import Schema
from fusetune.data.several import Elements, parts_of, separated, without_parts, written_list
from fusetune.data.table import Table, read_table
from fusetune.errors import SchemaError, TableError


def column(frame: pd.DataFrame, name: str = "x", **said: Any) -> Any:
    schema = infer_schema(read_table(frame), Roles("y", **said))
    return next(one for one in schema.columns if one.name == name)


def labelled(values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"x": pd.Series(values, dtype=object), "y": ["a", "b"] * (len(values) // 2)})


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("a.png;b.jpg", ["a.png", "b.jpg"]),
        ("a.png; b.jpg ;", ["a.png", "b.jpg", ""]),
        ("a.png", ["a.png"]),
        ("scan;1.png", ["scan;1.png"]),  # a name with a semicolon
        ("cough; fever.", ["cough; fever."]),
        ("data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"]),
        (";", [";"]),
        ("https://host/a.png?width=8;https://host/b.png", ["https://host/a.png?width=8", "https://host/b.png"]),
    ],
)
def test_paths_of_pictures_are_separated_by_semicolons(words: str, parts: list[str]) -> None:
    assert separated(words) == parts


def test_a_file_whose_name_has_a_semicolon_is_one_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png;b.png").write_bytes(b"")
    assert separated("a.png;b.png", tmp_path) == ["a.png;b.png"]
    assert separated("a.png;c.png", tmp_path) == ["a.png", "c.png"]


def test_lists_that_were_written_down_are_read() -> None:
    assert written_list("['a.png', 'b.png']") == ["a.png", "b.png"] == written_list('["a.png", "b.png"]')
    assert written_list("[1, 2]") is None
    assert written_list("[see above]") is None
    assert written_list("['a'") is None


PICTURES = [["a.png", "b.png"], ["c.png"], [], None] * 3
TEXTS = [["a long text about something", "another one that goes on"], ["one more with a few words"]] * 6


@pytest.mark.parametrize(
    ("values", "kind", "several"),
    [
        (PICTURES, Kind.IMAGE, True),
        ([np.array(value, dtype=object) if value else value for value in PICTURES], Kind.IMAGE, True),
        ([tuple(value) if value else value for value in PICTURES], Kind.IMAGE, True),
        (["a.png;b.png", "c.png", None, "d.png"] * 3, Kind.IMAGE, True),
        ([["a.png"], "b.png", "c.png;d.png", None] * 3, Kind.IMAGE, True),  # lists and words side by side
        (["b.png", ["a.png"], "c.png", None] * 3, Kind.IMAGE, True),
        (["['a.png', 'b.png']", "['c.png']"] * 6, Kind.IMAGE, True),
        (["a.png", "b.png"] * 6, Kind.IMAGE, False),
        (["scan;1.png", "scan;2.png"] * 6, Kind.IMAGE, False),
        (TEXTS, Kind.TEXT, True),
        (["it was cold; the wind blew hard", "we stayed at home; it was fine"] * 6, Kind.TEXT, False),
        ([[1.0, 2.0], [3.0, 4.0]] * 6, Kind.VECTOR, False),
    ],
)
def test_columns_with_several_are_recognised(values: list[Any], kind: Kind, several: bool) -> None:
    found = column(labelled(values))
    assert (found.kind, found.several, found.role) == (kind, several, "input")


def test_pictures_themselves_can_be_several_in_a_cell() -> None:
    picture = Image.new("RGB", (8, 8))
    pixels = np.zeros((8, 8, 3), np.uint8)
    found = column(labelled([[picture, picture], picture, [pixels], None] * 3))
    assert (found.kind, found.several) == (Kind.IMAGE, True)


def test_lists_of_single_words_are_left_out_unless_they_are_called_texts() -> None:
    frame = labelled([["red", "blue"], ["red"]] * 6)
    assert column(frame).role == "unused"
    assert "--kind COLUMN=text" in column(frame).reason
    assert column(frame, kinds={"x": "text"}).several


def test_lists_within_lists_are_refused_with_their_row() -> None:
    frame = labelled([["a.png"], ["b.png"]] * 6)
    schema = infer_schema(read_table(frame), Roles("y"))
    frame.at[3, "x"] = ["c.png", ["d.png"]]
    with pytest.raises(TableError, match=r"'x' of the DataFrame holds lists within lists in row\(s\) 3"):
        schema.read(read_table(frame))


def test_empty_lists_and_lists_of_nothing_are_missing() -> None:
    frame = labelled([["a.png", None, "b.png"], [], [None, ""], float("nan")] * 3)
    cells = infer_schema(read_table(frame), Roles("y")).read(read_table(frame)).frame["x"]
    assert cells.notna().tolist() == [True, False, False, False] * 3
    assert cells[0] == ("a.png", None, "b.png")


def test_a_plain_column_takes_no_lists_and_one_of_lists_takes_single_cells() -> None:
    lists, words = pd.Series([["a.png"]] * 4), pd.Series(["a.png"] * 4)
    assert not fits(lists, Kind.IMAGE)
    assert fits(lists, Kind.IMAGE, several=True)
    assert fits(words, Kind.IMAGE, several=True)
    assert not fits(pd.Series([[1.0, 2.0]] * 4), Kind.IMAGE, several=True)
    assert parts_of("a.png", pictures=True) == ("a.png",)


def test_a_schema_of_plain_columns_is_written_as_before(tmp_path: Path) -> None:
    infer_schema(read_table(labelled(["a.png", "b.png"] * 6)), Roles("y")).save(tmp_path / "plain.json")
    assert not any(word in (tmp_path / "plain.json").read_text("utf-8") for word in ("several", "shared", "gather"))
    schema = infer_schema(read_table(labelled(PICTURES)), Roles("y"))
    schema.save(tmp_path / "lists.json")
    assert Schema.load(tmp_path / "lists.json") == schema


def test_a_column_of_numbers_cannot_hold_several() -> None:
    plain = {"columns": [{"name": "x", "kind": "number", "role": "input", "reason": "", "several": True}]}
    with pytest.raises(ValueError, match="cannot hold several"):
        Schema.model_validate(plain)


def bound(folder: Path, frame: pd.DataFrame, columns: list[str]) -> BagSource:
    table = Table(frame, "t", folder)
    apart = Elements.of(table, columns, "x", (), "picture")
    return BagSource.of(apart, ImageInput(column="x", size=16, fit="stretch").bind(apart.table))


def test_every_picture_is_read_once_and_rows_are_sets_of_them(tmp_path: Path) -> None:
    tiny_table(tmp_path)
    cells = [("0.png", "1.png"), ("1.png", "0.png"), ("1.png",), None, ("1.png", "1.png"), ("0.png", None, "1.png")]
    source = bound(tmp_path, pd.DataFrame({"x": pd.Series(cells, dtype=object)}), ["x"])
    assert len(source.elements.present) == 2
    assert source.counts.tolist() == [2, 2, 1, 0, 2, 2]
    assert source.present.tolist() == [True, True, True, False, True, True]
    # The order does not matter, how often something is there does, and a single one says what it says by itself.
    assert source.digests[0] == source.digests[1] == source.digests[5]
    assert len({int(source.digests[row]) for row in (0, 2, 4)}) == 3
    assert source.digests[2] == source.elements.digests[1]
    bag = source.read(np.array([4, 0]))
    assert bag.row.tolist() == [0, 0, 1, 1]
    assert bag.rank.tolist() == [0, 1, 0, 1]
    assert (bag.elements[0] == bag.elements[1]).all()
    assert {bytes(one.numpy().tobytes()) for one in bag.elements[2:]} == {
        bytes(one.numpy().tobytes())
        for one in source.elements.read(np.arange(2))  # type: ignore[union-attr]
    }


def test_broken_pictures_are_named_by_row_and_place_and_the_others_stay(tmp_path: Path) -> None:
    tiny_table(tmp_path)
    frame = pd.DataFrame({"a": pd.Series([("0.png", None, "no.png"), ("no.png",)]), "b": ["1.png", None]})
    source = bound(tmp_path, frame, ["a", "b"])
    assert source.present.tolist() == [True, False]
    assert source.counts.tolist() == [2, 0]
    assert source.problems[0].startswith("a, picture 3 of 3: no.png: there is no such file")
    assert source.problems[1].startswith("a, picture 1 of 1: no.png")
    assert sorted(name for _, name in source.told(0)) == ["a, picture 1 of 3: 0.png", "b: 1.png"]


def test_rows_without_any_picture_are_a_table_too(tmp_path: Path) -> None:
    source = bound(tmp_path, pd.DataFrame({"x": pd.Series([None, None], dtype=object)}), ["x"])
    assert not source.present.any()
    assert source.describe("picture").startswith("0 pictures in 2 rows")


def test_batches_have_few_rows_where_these_have_many_elements(tmp_path: Path) -> None:
    tiny_table(tmp_path)
    cells = [("0.png",)] * 3 + [tuple(["0.png"] * 100)] + [("0.png",)] * 5
    source = bound(tmp_path, pd.DataFrame({"x": pd.Series(cells, dtype=object)}), ["x"])
    batches = ordered_batches(np.arange(9), 4, counts=element_counts([source]))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3], [4, 5, 6, 7], [8]]
    assert np.concatenate(ordered_batches(np.arange(9), 4)).tolist() == list(range(9))


LONG = pd.DataFrame(
    {
        "case": ["b", "a", "b", "a", "b", "c"],
        "scan": ["1.png", "2.png", "3.png", None, "1.png", None],
        "note": ["a few words about b"] * 1 + ["a few words about a", "other words about b"] + [None] * 3,
        "age": [5.0, 7.0, None, 7.0, 5.0, 9.0],
        "slice": [1, 1, 2, 2, 3, 1],
        "y": ["u", "v", "u", "v", "u", "v"],
    }
)


def roles(**more: Any) -> Roles:
    return Roles(**{"label": "y", "gather": "case", "inputs": ["scan", "note", "age"], **more})


def test_rows_of_one_id_become_one_row_in_the_order_of_the_file() -> None:
    table = read_table(LONG)
    schema = infer_schema(table, roles())
    wide = schema.read(table)
    assert wide.frame["case"].tolist() == ["b", "a", "c"]
    assert wide.frame["scan"].tolist() == [("1.png", "3.png"), ("2.png",), None]
    assert wide.frame["note"].tolist()[0] == ("a few words about b", "other words about b")
    assert wide.frame["age"].tolist() == [5.0, 7.0, 9.0]
    assert wide.frame["y"].tolist() == ["u", "v", "v"]
    assert wide.frame["slice"].isna().tolist() == [True, True, False]  # it differs, and nothing uses it
    assert wide.ids(schema.named("id")).tolist() == ["b", "a", "c"]
    assert wide.index is not None
    assert wide.index.tolist() == ["b", "a", "c"]
    assert schema.read(wide).frame.equals(wide.frame)  # a table that was gathered stays as it is


@pytest.mark.parametrize("name", ["age", "y"])
def test_what_differs_within_an_id_is_refused_with_id_and_column(name: str) -> None:
    frame = LONG.copy()
    frame.loc[3, name] = 8.0 if name == "age" else "u"
    schema = infer_schema(read_table(frame), roles())
    with pytest.raises(TableError, match=rf"rows of 'a' are gathered into one, .* in column '{name}'"):
        schema.read(read_table(frame))


def test_splits_and_groups_must_be_the_same_within_an_id() -> None:
    for role in ("split", "group"):
        frame = LONG.assign(more=["train", "test", "train", "test", "train", "test"])
        infer_schema(read_table(frame), roles(**{role: "more"})).read(read_table(frame))
        frame.loc[0, "more"] = "test"
        with pytest.raises(TableError, match=r"rows of 'b' .* in column 'more'"):
            infer_schema(read_table(frame), roles(**{role: "more"})).read(read_table(frame))


def test_gathering_refuses_what_it_cannot_follow() -> None:
    with pytest.raises(SchemaError, match="--group case has nothing left to say"):
        infer_schema(read_table(LONG), roles(group="case"))
    with pytest.raises(SchemaError, match="leave out --id slice"):
        infer_schema(read_table(LONG), roles(row_id="slice"))
    frame = LONG.assign(case=["b", None, "b", "a", "b", "c"])
    with pytest.raises(TableError, match=r"'case', by which rows are gathered, is empty in row\(s\) 1"):
        infer_schema(read_table(frame), roles())


def test_columns_that_share_an_encoder_are_one_input(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["1.png", "2.png"] * 4, "b": ["3.png", None] * 4, "n": [1, 2] * 4, "y": ["u", "v"] * 4})
    table = read_table(frame)
    (first,) = [m for m in infer_schema(table, Roles("y", share=["a", "b"])).modalities().values() if m.several]
    assert (first.name, first.kind, first.columns) == ("a+b", "image", ("a", "b"))
    named = infer_schema(table, Roles("y", inputs=["n"], share={"views": ["a", "b"]}))
    assert list(named.modalities()) == ["views", "columns"]
    for wrong, message in (
        (["a", "n"], "'n' is a column of kind number"),
        (["a"], "name two columns"),
        (["a", "a"], "named twice"),
        (["a", "y"], "'y' is no input"),
        ([["a", "b"], ["b", "a"]], "twice"),
    ):
        with pytest.raises(SchemaError, match=message):
            infer_schema(table, Roles("y", share=wrong))


def test_pictures_and_texts_cannot_share_an_encoder() -> None:
    frame = pd.DataFrame({"a": ["1.png"] * 6, "t": [f"some words about {i} things" for i in range(6)], "y": [0, 1] * 3})
    with pytest.raises(SchemaError, match="'t' is a column of kind text, and 'a' of kind image"):
        infer_schema(read_table(frame), Roles("y", share=["a", "t"]))


def test_a_text_in_brackets_among_others_is_a_text() -> None:
    texts = [f"a comment about thing number {i}" for i in range(19)]
    assert not column(labelled([*texts, "['quoted']"])).several
    assert column(labelled([f"['{text}', 'and more words on it']" for text in [*texts, "one"]])).several


def test_parts_that_were_taken_out_before_stay_out() -> None:
    cells = pd.Series([("a.png", "b.png"), ("c.png",), None], dtype=object)
    once = without_parts(cells, [(0, 1), (1, 0)])
    assert once.tolist() == [("a.png", None), None, None]
    assert without_parts(once, [(1, 0), (0, 0)]).tolist() == [None, None, None]
