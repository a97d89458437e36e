"""Schemas: kinds inferred with reasons, roles, vector groups, files that can be edited, and checks at prediction."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd import tables

from fusetune.data.choices import Kind
from fusetune.data.infer import infer_schema
from fusetune.data.kinds import infer_kind
from fusetune.data.roles import Roles
from fusetune.data.schema import Schema
from fusetune.data.table import Table
from fusetune.errors import FusetuneError, SchemaError, TableError

GENERATOR = np.random.default_rng(0)
SENTENCES = [f"the patient number {i} came with pain in the left knee" for i in range(40)]


def table(**columns: Any) -> Table:
    return Table(pd.DataFrame(columns), "t.csv", Path())


def column(schema: Schema, name: str) -> tuple[str, str, str]:
    described = next(c for c in schema.columns if c.name == name)
    return str(described.kind), described.role, described.reason


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([f"scans/{i}.JPG " for i in range(40)], "image", "100% of the values end like image files"),
        (["s3://b/a.png", *[f"{i}.tiff" for i in range(39)]], "image", "end like image files"),
        (SENTENCES, "text", "40 distinct values in 40 rows, 11.0 words on average"),
        ([f"これは患者{i}の右膝の痛みに関する説明です。" + "詳細" * 10 for i in range(40)], "text", "distinct"),
        ([*SENTENCES[:35], "12", "3.5", "7", "8", "9"], "text", "distinct values"),
        (GENERATOR.normal(size=40), "number", "all values are numbers"),
        ([1, 2, None, 4] * 10, "number", "all values are numbers"),
        ([str(i) for i in range(40)], "number", "all values are numbers"),
        ([*map(str, range(39)), "unknown"], "number", "98% of the values are numbers; others, such as unknown, count"),
        (["007", "12", "131"] * 13, "category", "3 distinct values"),
        ([str(i) for i in range(20)] + ["a", "b"] * 10, "category", "22 distinct values"),
        (["m", "f"] * 20, "category", "2 distinct values in 40 rows"),
        (["left knee", "right knee", "hip"] * 13, "category", "3 distinct values"),
        # A few phrases that come again and again are a category, however long they are.
        ([*SENTENCES[:4]] * 10, "category", "4 distinct values in 40 rows, 11.0 words on average"),
        ([*SENTENCES[:4]] * 9, "text", "4 distinct values in 36 rows"),
        # Many names of several words, each in few rows, share words; in many rows, each is known by itself.
        ([f"street {i % 101}" for i in range(2020)], "text", "101 distinct values in 2,020 rows"),
        ([f"street {i % 101}" for i in range(5100)], "category", "101 distinct values in 5,100 rows"),
        ([f"street {i % 100}" for i in range(2000)], "category", "100 distinct values in 2,000 rows"),
        ([f"street{i % 101}" for i in range(2020)], "category", "101 distinct values in 2,020 rows"),
        (pd.Categorical([1, 2] * 20), "category", "the column's own type is categorical"),
        ([True, False] * 20, "boolean", "true/false values"),
        ([True, None, False, True] * 10, "boolean", "only the words False, True"),
        (["Yes", "no", "no", None] * 10, "boolean", "only the words Yes, no"),
        (["y", "N"] * 20, "boolean", "only the words N, y"),
        (["yes", "no", "perhaps"] * 13, "category", "3 distinct values"),
        (["t", "f", "u"] * 13, "category", "3 distinct values"),
        (pd.date_range("2020-01-01", periods=40), "date", "all values are dates"),
        ([f"2020-01-{i % 28 + 1:02}" for i in range(40)], "date", "all values are dates"),
        ([f"{i % 28 + 1}.{i % 12 + 1}.2020 08:15" for i in range(40)], "date", "all values are dates"),
        ([f"{i % 28 + 1:02}/{i % 12 + 1:02}/99" for i in range(40)], "date", "all values are dates"),
        (["2020-01-01T00:00:00+01:00", "2020-02-01T00:00:00+02:00"] * 20, "date", "all values are dates"),
        ([20200101 + i for i in range(28)], "number", "all values are numbers"),
        (["1.2.3", "1.2.4", "2.0.1"] * 13, "category", "3 distinct values"),
        (["99/99/2020", "77/88/2020"] * 20, "category", "2 distinct values"),
        ([np.ones(3) * i for i in range(40)], "vector", "lists of 3 numbers"),
        ([[1, 2], (3, 4), None] * 13, "vector", "lists of 2 numbers"),
    ],
)  # fmt: skip
def test_kinds_are_inferred_with_the_reason(values: Any, kind: str, reason: str) -> None:
    inferred, words, usable = infer_kind(table(x=values).frame["x"])
    assert (str(inferred), usable) == (kind, True)
    assert reason in words


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None] * 40, "empty in every row"),
        ([np.nan] * 40, "empty in every row"),
        ([7] * 40, "the same number in every row (7)"),
        (["a"] * 40, "the same value in every row"),
        ([True] * 40, "the same boolean in every row (True)"),
        ([pd.Timestamp("2020-01-01")] * 40, "the same date in every row"),
        (pd.Categorical(["a"] * 40), "the same category in every row (a)"),
        ([f"x{i}" for i in range(40)], "every value differs"),
        (["train", "val", "Test", "dev"] * 10, "parts of a split: name it with --split"),
        ([[1], [1, 2], [1, 2, 3]] * 13, "lists of different lengths (1 to 3)"),
        ([["a", "b"]] * 40, "lists of 2 to 2 words"),
        ([[[1, 2], [3, 4]]] * 40, "lists of something other than numbers"),
        ([[1, 2], "a"] * 20, "lists beside single values"),
        ([1 + 2j] * 20 + [3j] * 20, "complex numbers"),
    ],
)
def test_what_no_model_can_use_is_left_out_with_the_reason(values: Any, reason: str) -> None:
    schema = infer_schema(table(x=values, y=["a", "b"] * (len(values) // 2) + ["a"] * (len(values) % 2)), Roles("y"))
    _, role, words = column(schema, "x")
    assert role == "unused"
    assert reason in words


def realistic(rows: int = 60) -> Table:
    return table(
        patient_id=[i // 2 for i in range(rows)],
        scan_id=[f"s{i}" for i in range(rows)],
        path=[f"{i}.png" for i in range(rows)],
        history=[f"the patient number {i} has had a long history of pain" for i in range(rows)],
        age=GENERATOR.normal(50, 9, rows),
        sex=["m", "f"] * (rows // 2),
        smoker=["yes", "no", "no"] * (rows // 3),
        visit=pd.date_range("2020-01-01", periods=rows).strftime("%Y-%m-%d"),
        site_id=[1, 2, 3] * (rows // 3),
        gene_a=GENERATOR.normal(size=rows),
        gene_b=GENERATOR.normal(size=rows),
        part=["train", "valid", "test"] * (rows // 3),
        diagnosis=["x", "y"] * (rows // 2),
    )


def test_roles_follow_from_names_and_options() -> None:
    schema = infer_schema(
        realistic(),
        Roles(
            "diagnosis",
            group="patient_id",
            split="part",
            vectors={"genes": "gene_*"},
            kinds={"age": "category"},
        ),
    )
    roles = {c.name: c.role for c in schema.columns}
    assert roles == {
        "patient_id": "group", "scan_id": "id", "path": "input", "history": "input", "age": "input", "sex": "input",
        "smoker": "input", "visit": "input", "site_id": "input", "gene_a": "input", "gene_b": "input",
        "part": "split", "diagnosis": "label",
    }  # fmt: skip
    assert column(schema, "age") == ("category", "input", "given")
    assert column(schema, "scan_id")[2] == "named like an id, all values differ"
    assert column(schema, "site_id")[::2] == ("category", "named like an id, so its numbers are names")
    assert column(schema, "gene_a")[2] == "part of a vector"
    assert column(schema, "patient_id")[2].startswith("group column; ")
    modalities = schema.modalities()
    assert {name: (m.kind, m.columns) for name, m in modalities.items()} == {
        "path": ("image", ("path",)),
        "history": ("text", ("history",)),
        "columns": ("columns", ("age", "sex", "smoker", "visit", "site_id")),
        "genes": ("vector", ("gene_a", "gene_b")),
    }
    assert list(modalities) == ["path", "history", "columns", "genes"]
    assert schema.named("group") == "patient_id"
    assert schema.named("split") == "part"
    assert schema.kind_of("sex") is Kind.CATEGORY


def test_a_forgotten_patient_or_split_column_is_no_input() -> None:
    schema = infer_schema(realistic(), Roles("diagnosis"))
    kind, role, reason = column(schema, "patient_id")
    assert (kind, role) == ("category", "unused")
    assert "name it with --group" in reason
    assert column(schema, "part")[1] == "unused"
    chosen = infer_schema(realistic(), Roles("diagnosis", inputs=["patient_id", "age"]))
    assert column(chosen, "patient_id")[1] == "input"


def test_chosen_inputs_are_the_only_ones() -> None:
    schema = infer_schema(realistic(), Roles("diagnosis", inputs=["age", "genes"], vectors={"genes": "gene_*"}))
    assert [c.name for c in schema.inputs] == ["age", "gene_a", "gene_b"]
    assert list(schema.modalities()) == ["columns", "genes"]
    assert column(schema, "sex")[1:] == ("unused", "not chosen; 2 distinct values in 60 rows, 1.0 words on average")
    assert column(schema, "scan_id")[1] == "id"


def test_a_named_id_is_the_only_id() -> None:
    schema = infer_schema(realistic(), Roles("diagnosis", row_id="path"))
    assert [c.name for c in schema.columns if c.role == "id"] == ["path"]
    assert column(schema, "scan_id")[1] == "unused"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "diagnosys"}, TableError, "no column 'diagnosys'"),
        ({"label": "diagnosis", "group": "patient"}, TableError, "no column 'patient'"),
        ({"label": "diagnosis", "inputs": ["Age"]}, TableError, "no column 'Age'"),
        ({"label": "diagnosis", "kinds": {"ages": "number"}}, TableError, "no column 'ages'"),
        ({"label": "diagnosis", "kinds": {"age": "numbr"}}, TableError, "column 'age' is unknown, did you mean 'numb"),
        ({"label": "diagnosis", "vectors": {"g": "gne_*"}}, SchemaError, "g=gne_.*: no column of t.csv matches"),
        ({"label": "diagnosis", "vectors": {"g": "s*"}}, SchemaError, r"scan_id, sex, smoker do not hold numbers"),
        ({"label": "gene_a", "vectors": {"g": "gene_*"}}, SchemaError, "also matches the label column 'gene_a'"),
        (
            {"label": "diagnosis", "vectors": {"g": "gene_*", "h": "*_a"}}, SchemaError,
            "--vectors h: column 'gene_a' is already part of another vector",
        ),
        ({"label": "diagnosis", "inputs": ["age", "diagnosis"]}, SchemaError, "is the label column and cannot be an"),
        ({"label": "diagnosis", "group": "diagnosis"}, SchemaError, "'diagnosis' cannot be both label and group"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused(options: dict[str, Any], error: type[FusetuneError], message: str) -> None:
    with pytest.raises(error, match=message):
        infer_schema(realistic(), Roles(**options))


def test_a_column_called_columns_is_one_input_beside_the_cells() -> None:
    y = ["a", "b"] * 20
    number = infer_schema(table(columns=np.arange(40.0), y=y), Roles("y"))
    assert number.modalities()["columns"].columns == ("columns",)
    text = infer_schema(table(columns=SENTENCES, age=np.arange(40.0), y=y), Roles("y")).modalities()
    assert {name: found.columns for name, found in text.items()} == {"columns": ("columns",), "columns′": ("age",)}
    with pytest.raises(SchemaError, match="two inputs are called v; rename a column or a vector group"):
        infer_schema(table(v=SENTENCES, a1=np.arange(40.0), y=y), Roles("y", vectors={"v": "a*"})).modalities()
    with pytest.raises(SchemaError, match="no column is left as an input; name some with --inputs"):
        infer_schema(table(x=[1] * 40, y=y), Roles("y")).modalities()


def test_a_schema_is_saved_edited_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    schema = infer_schema(realistic(), Roles("diagnosis", vectors={"genes": "gene_*"}))
    schema.save(path)
    assert Schema.load(path) == schema
    edited = json.loads(path.read_text("utf-8"))
    next(c for c in edited["columns"] if c["name"] == "age")["kind"] = "category"
    next(c for c in edited["columns"] if c["name"] == "sex")["role"] = "unused"
    path.write_text(json.dumps(edited), encoding="utf-8")
    loaded = Schema.load(path)
    assert loaded.kind_of("age") is Kind.CATEGORY
    assert "sex" not in loaded.modalities()["columns"].columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["columns"][4].update(kind="nummer"), r"columns\.4\.kind: Input should be 'image'"),
        (lambda s: s["columns"][4].update(role="inputs"), r"columns\.4\.role: Input should be 'input'"),
        (lambda s: s.update(version=2), "version: Input should be 1"),
        (lambda s: s.update(extra=1), "extra: Extra inputs"),
        (lambda s: s["columns"].append(s["columns"][0]), r"column\(s\) patient_id are described twice"),
        (lambda s: s["columns"][4].update(role="label"), "columns age, diagnosis cannot all have the role label"),
        (lambda s: s["vectors"].update(g=["gone"]), r"vectors name column\(s\) gone, which are not described"),
    ],
)
def test_a_schema_edited_wrongly_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "schema.json"
    infer_schema(realistic(), Roles("diagnosis")).save(path)
    edited = json.loads(path.read_text("utf-8"))
    change(edited)
    path.write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(SchemaError, match=message):
        Schema.load(path)


def test_a_schema_that_is_missing_or_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"cannot read the schema .*gone\.json: No such file"):
        Schema.load(tmp_path / "gone.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "s.json").write_bytes(content)
        with pytest.raises(SchemaError, match="is not a valid schema"):
            Schema.load(tmp_path / "s.json")


KINDS: dict[str, tuple[Any, Any, Any]] = {
    # kind -> trained on, also accepted, refused
    "number": ([1.5, 2, 3], ["1", "2", "x"], ["a", "b", "1"]),
    "category": (["a", "b", "a"], [1, 2, 3], [[1], [2], [3]]),
    "boolean": (["yes", "no", "no"], [1, 0, 1], ["maybe", "never", "yes"]),
    "date": (["2020-01-01", "2020-02-01", "2020-03-01"], ["1.2.2020", "x", "3.4.2020"], [1, 2, 3]),
    "image": (["a.png", "b.png", "c.png"], [Path("a.png"), "https://x/y", "no suffix"], [1, 2, 3]),
    "text": (SENTENCES[:3], pd.Series([7, None, "x"], dtype=object), [1.5, 2, 3]),
    "vector": ([[1.0, 2]] * 3, [np.ones(2)] * 3, ["1 2", "3 4", "5 6"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_tables_are_checked(kind: str) -> None:
    trained, accepted, refused = KINDS[kind]
    schema = infer_schema(table(x=trained, y=["a", "b", "a"]), Roles("y", kinds={"x": kind}))
    schema.check(table(x=trained))
    schema.check(table(extra=[1, 2, 3], x=accepted))
    schema.check(table(x=[None, None, None]))
    with pytest.raises(SchemaError, match=f"column 'x' must be {kind} but holds values such as"):
        schema.check(table(x=refused))


def test_all_problems_of_a_prediction_table_are_named_at_once() -> None:
    schema = infer_schema(realistic(), Roles("diagnosis", vectors={"genes": "gene_*"}))
    bad = realistic().frame.rename(columns={"history": "histroy", "gene_b": "gene_c"}).assign(age="old", path=3)
    with pytest.raises(SchemaError) as error:
        schema.check(Table(bad, "new.csv", Path()))
    other = "write it as it was for training, or leave the column out"
    assert str(error.value).splitlines() == [
        "new.csv does not fit the model:",
        f"  - column 'path' must be image but holds values such as 3: {other}",
        "  - column 'history' is missing, did you mean 'histroy'? Then rename it.",
        f"  - column 'age' must be number but holds values such as 'old': {other}",
        "  - column 'gene_b' is missing, did you mean 'gene_c'? Then rename it.",
    ]
    with pytest.raises(SchemaError, match=r"such as '1,5', '0,6': write decimals with a point$"):
        schema.check(Table(realistic().frame.assign(age=["1,5", "0,6"] * (len(realistic()) // 2)), "new.csv", Path()))
    # The label, the group and the split are not needed to predict.
    schema.check(Table(realistic().frame.drop(columns=["diagnosis", "part", "patient_id"]), "new.csv", Path()))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tables(), st.booleans())
def test_any_table_gets_a_kind_a_role_and_a_reason_for_every_column(frame: pd.DataFrame, labelled: bool) -> None:
    given_table = Table(frame, "t", Path())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas about overflows of absurd dates and numbers
        try:
            schema = infer_schema(given_table, Roles(frame.columns[0] if labelled else None))
        except TableError as error:
            assert labelled
            assert "it needs words or numbers, not lists" in str(error)
            return
        assert [c.name for c in schema.columns] == list(frame.columns)
        for described in schema.columns:
            assert described.reason
            assert described.role in ("input", "label", "id", "unused")
        assert sum(c.role == "id" for c in schema.columns) <= 1
        assert (schema.columns[0].role == "label") == labelled
        schema.check(given_table)  # a table always fits the schema that was inferred from it
        assert Schema.model_validate_json(schema.model_dump_json()) == schema
