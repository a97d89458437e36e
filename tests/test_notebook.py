"""What a notebook shows of runs and models, and tables as somebody types them there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from tiny import settings, tiny_table

import fusetune
from fusetune import display
from fusetune.config import Config
from fusetune.contest.rules import rules_of
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import TableLike, read_table
from fusetune.errors import ConfigError, SchemaError, TableError, UserError
from fusetune.targets import Classification

INPUTS = ["age", "site", "note"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return tiny_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def run(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> fusetune.Run:
    folder = tmp_path_factory.mktemp("run")
    return fusetune.fit(
        pl.DataFrame(table).lazy(), "organ", group="patient", split="part", inputs=INPUTS,
        config=settings(folder / "store", train__epochs=0, views=1, evaluate__neighbours=True), out=folder / "run",
        quiet=True,
    )  # fmt: skip


def test_a_run_says_in_a_line_what_it_is(run: fusetune.Run) -> None:
    assert repr(run).startswith("Run('")
    assert "12 test rows" in repr(run)
    assert "\n" not in repr(run)
    page = run._repr_html_()
    assert "<table" in page
    assert "two-stage" in page


def test_its_scores_are_tables(run: fusetune.Run) -> None:
    gain = run.gain()
    assert gain.index[-1] == "two-stage"
    assert gain.loc["two-stage", "accuracy"] == run.metrics["test"]["accuracy"]["value"]
    assert (gain["accuracy low"] <= gain["accuracy"]).all()
    confusion, recalls = run.confusion(), run.recalls()
    assert list(confusion.index) == list(confusion.columns) == run.metrics["classes"]
    assert confusion.to_numpy().sum() == 12
    right = sum(int(confusion.loc[name, name]) for name in run.metrics["classes"])
    assert right / 12 == pytest.approx(run.metrics["test"]["accuracy"]["value"])
    for name in run.metrics["classes"]:
        assert recalls.loc[name, "rows"] == confusion.loc[name].sum()
        assert recalls.loc[name, "value"] == pytest.approx(confusion.loc[name, name] / confusion.loc[name].sum())


def test_the_summary_holds_the_number_its_interval_and_what_is_not_shown(run: fusetune.Run) -> None:
    told = run.summary()
    assert f"{run.metrics['test']['accuracy']['value']:.1%} [" in told
    assert "always answering the most frequent class" in told
    assert str(run.report) in told


def test_tables_can_be_typed(run: fusetune.Run) -> None:
    rows = [{"age": 50.0, "site": "site 1", "note": "the valve"}, {"age": None, "note": "bile of a lobe"}]
    columns = {"age": [50.0, None], "site": ["site 1", None], "note": ["the valve", "bile of a lobe"]}
    frame = pd.DataFrame(columns)
    expected = run.model.predict_proba(frame).to_numpy()
    assert (run.model.predict_proba(rows).to_numpy() == expected).all()
    assert (run.model.predict_proba(columns).to_numpy() == expected).all()
    one = run.model.predict_proba(rows[0]).to_numpy()
    assert one == pytest.approx(expected[:1], abs=1e-6)


def test_a_dict_that_may_be_either_is_refused() -> None:
    with pytest.raises(TableError, match=r"write \[row\]"):
        read_table({"a": [1, 2], "b": 3})
    with pytest.raises(TableError, match="one length"):
        read_table({"a": [1, 2], "b": [3]})
    with pytest.raises(TableError, match="no rows"):
        read_table({"a": []})
    with pytest.raises(TableError, match="cannot be a list"):
        read_table([1, 2])


def test_a_model_says_what_it_reads_and_answers(run: fusetune.Run, tmp_path: Path) -> None:
    told = repr(fusetune.load(run.folder))
    assert "organ" in told
    for name in ("note", "columns", "heart", "liver", "lung"):
        assert name in told
    assert len(told) < 400


def test_tables_of_other_libraries_are_tables(run: fusetune.Run, table: pd.DataFrame) -> None:
    model, expected = run.model, run.model.predict_proba(table).to_numpy()
    tables: list[TableLike] = [pl.DataFrame(table), pl.DataFrame(table).lazy(), pa.Table.from_pandas(table)]
    for other in [*tables, table.to_dict("list")]:
        assert (model.predict_proba(other).to_numpy() == expected).all()
        assert model.explain(other, "case-003").row == "case-003"
    accuracy = model.evaluate(table)["accuracy"]
    assert model.evaluate(tables[1])["accuracy"] == accuracy
    assert model.drift(tables[2]).rows == len(table)
    with pytest.raises(UserError, match="label is missing"):  # a list of rows is no list of runs
        fusetune.compare(table.to_dict("records"))
    with pytest.raises(TableError, match=r"a Series is no table .*frame\.iloc\[\[0\]\]"):
        model.predict(pl.DataFrame(table)["age"])  # type: ignore[arg-type]


def test_a_table_is_checked_from_python(table: pd.DataFrame, tmp_path: Path) -> None:
    copied = pl.concat([pl.DataFrame(table), pl.DataFrame(table.iloc[[3]].assign(case_id="case-<b>"))])
    found = fusetune.check(copied.lazy(), "organ", inputs=["age", "note"], group="patient")
    assert "duplicate_rows" in found.table()["kind"].tolist()
    (copies,) = [one for one in found.findings if one.kind == "duplicate_rows"]
    assert set(copies.rows) == {"case-003", "case-<b>"}
    assert repr(found) == f"Checked(the DataFrame: {found.words})"
    assert "duplicate_rows" in found._repr_html_() and "<b>case" not in found._repr_html_()
    assert "case-&lt;b&gt;" in found.save(tmp_path / "checks.html").read_text("utf-8")


def test_pictures_in_tables_of_polars_and_in_a_dict_are_cells() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    frame = read_table(pl.DataFrame({"scan": [Image.fromarray(pixels), None], "age": [1, None]})).frame
    assert frame.columns.tolist() == ["scan", "age"]
    assert np.array_equal(np.asarray(frame["scan"][0]), pixels)
    assert frame["scan"][1] is None and frame["age"].dtype == "Int64"
    one = read_table({"scan": pixels, "age": 3}).frame
    assert len(one) == 1 and np.array_equal(one["scan"][0], pixels)
    assert len(read_table({"scan": np.stack([pixels] * 5), "age": [1, 2, 3, 4, 5]}).frame) == 5
    with pytest.raises(TableError, match=r"one row, or a column of 4 arrays"):
        read_table({"scan": pixels})


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda a: a.transpose(2, 0, 1), r"\(3, 8, 8\) and type uint8 .*channels come last"),
        (lambda a: a.astype(np.int64), r"\(8, 8, 3\) and type int64 is no picture"),
        (lambda a: a[..., :2], r"\(8, 8, 2\)"),
        (lambda a: a[:0], r"\(0, 8, 3\)"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused_by_row_and_column(harm: Any, text: str, whole: bool) -> None:
    cells = [np.full((8, 8, 3), row, np.uint8) for row in range(3)]
    cells = [harm(cell) if whole or row == 1 else cell for row, cell in enumerate(cells)]
    rows = "0, 1, 2" if whole else "1"
    with pytest.raises(TableError, match=rf"column 'scan' of the DataFrame, row\(s\) {rows}: an array of shape {text}"):
        read_table(pd.DataFrame({"scan": pd.Series(cells, dtype=object)}))


def test_a_word_where_a_list_is_meant_is_one_item(table: pd.DataFrame) -> None:
    data = read_table(table)
    chosen = infer_schema(data, Roles("organ", inputs="age", row_id="case_id"))
    assert [column.name for column in chosen.inputs] == ["age"]
    assert [c.name for c in infer_schema(data, Roles("organ", inputs=(n for n in ["age", "site"]))).inputs] == [
        "age",
        "site",
    ]
    with pytest.raises(TableError, match=r"in Python write a list: \['age', 'site'\]"):
        infer_schema(data, Roles("organ", inputs="age, site"))
    assert Config.build(sets="seed=7").seed == 7
    how = {"seeds": 1, "first": 0, "level": "features", "trials": 0, "budget": "passes", "minutes": None}
    assert rules_of("ume", epochs=None, **how).strategies == ("ume",)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"in Python write a list: \['ume', 'umt'\]"):
        rules_of("ume,umt", epochs=None, **how)  # type: ignore[arg-type]
    for share in ("note", {"texts": "note"}, ["note"]):
        with pytest.raises(SchemaError, match=r"--share note: name two columns"):
            infer_schema(data, Roles("organ", share=share))
    with pytest.raises(SchemaError, match="or a list for each input"):
        Roles(share=["note", ["age", "site"]]).shared()  # type: ignore[list-item]
    with pytest.raises(SchemaError, match="must be a dict such as"):
        Roles(kinds="age=number")  # type: ignore[arg-type]


def test_cards_are_short_and_escape_what_the_table_says(run: fusetune.Run, table: pd.DataFrame) -> None:
    model = replace(run.model, target=Classification(["<script>", "a\u202eb", "c"]))
    explanation, drift = model.explain(table, "case-004"), model.drift(table)
    for shown in (model, replace(explanation, row="<script>"), drift, model.config):
        assert "\n" not in repr(shown) and len(repr(shown)) < 400
    for card in (model._repr_html_(), replace(explanation, row="<script>")._repr_html_(), drift._repr_html_()):
        assert card.startswith("<div>") and "<script>" not in card and "\u202e" not in card
    assert "&lt;script&gt;" in model._repr_html_() and "text" in model._repr_html_()
    assert len(explanation.shares) == 2
    assert f"{explanation.probability:.1%}" in explanation._repr_html_()
    assert set(drift.table()["name"]) == {shift.name for shift in drift.shifts}


def test_an_explanation_is_shown_below_the_cell_or_as_a_file(
    run: fusetune.Run,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    explanation, opened = run.model.explain(table.head(1)), list[str]()
    assert explanation.row == "case-000"
    with pytest.raises(UserError, match="96 rows: say which one"):
        run.model.explain(table)
    page = explanation.save(tmp_path / "why.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>") and "organ by two-stage" in page
    monkeypatch.setattr(display.webbrowser, "open", opened.append)
    monkeypatch.setattr(display.tempfile, "tempdir", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(display.sys, "platform", "linux")
    explanation.show()
    name, _, path = capsys.readouterr().out.strip().partition(": ")
    assert name == "explanation of row case-000" and Path(path).read_text("utf-8") == page
    monkeypatch.setenv("DISPLAY", ":0")
    run.show()
    assert capsys.readouterr().out == f"report: {run.report}\n" and opened == [run.report.resolve().as_uri()]
    shown: list[dict[str, str]] = []
    shell = SimpleNamespace(kernel=object(), display_pub=SimpleNamespace(publish=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    explanation.show()
    assert capsys.readouterr().out == "" and shown[0]["text/plain"] == name
    assert shown[0]["text/html"].startswith("<iframe") and "&lt;!DOCTYPE html&gt;" in shown[0]["text/html"]
    shell.kernel = None  # a terminal of IPython
    explanation.show()
    assert len(shown) == 1 and len(opened) == 2


def test_features_are_what_the_head_reads_and_neighbours_are_the_nearest_of_them(
    run: fusetune.Run, table: pd.DataFrame
) -> None:
    model, frame = fusetune.load(run.folder), table.set_index("case_id").drop(columns=["organ", "part", "patient"])
    frame.loc["case-085", "note"] = None
    found = model.features(frame)
    assert {name: one.shape for name, one in found.items()} == {"note": (96, 128), "columns": (96, 16)}
    for name, one in found.items():
        assert one.index.equals(frame.index) and one.columns[-1] == f"{name}_{one.shape[1] - 1}"
        assert (one.dtypes == np.float32).all()
        absent = one.isna().all(axis=1)
        assert absent[absent].index.tolist() == (["case-085"] if name == "note" else [])
    data, _ = model.read(model.taken(frame))
    z = model.outputs(model.bind(data), np.arange(96)).z["columns"].numpy()
    np.testing.assert_array_equal(found["columns"].to_numpy(), z)

    near = model.neighbours(frame, 3)
    assert list(near.columns) == ["row_id", "input", "rank", "neighbour", "distance"]
    assert len(near) == 3 * (2 * 96 - 1) and near["row_id"].is_monotonic_increasing
    assert near["rank"].tolist() == [1, 2, 3] * (len(near) // 3)
    train = table.loc[table["part"] == "train", "case_id"].tolist()
    assert set(near["neighbour"]) <= set(train)
    own = near[(near["rank"] == 1) & near["row_id"].isin(train)]
    assert (own["distance"] < 0.05).all() and (own["row_id"] == own["neighbour"]).mean() > 0.9
    known = model.reference.likeness["columns"]  # type: ignore[union-attr]
    scaled = (found["columns"] - known.mean) / known.scale
    far = np.linalg.norm(scaled.loc["case-090"].to_numpy() - scaled.loc[train].to_numpy(), axis=1)
    mine = near[(near["row_id"] == "case-090") & (near["input"] == "columns")]
    np.testing.assert_allclose(mine["distance"], np.sort(far)[:3], atol=0.02)
    assert mine["neighbour"].iloc[0] == train[int(far.argmin())]
    for count in (0, 73):
        with pytest.raises(UserError, match=rf"{count} neighbours .* at most .*72 of note"):
            model.neighbours(frame, count)


@pytest.mark.parametrize("redact", ["true", "false"])
def test_a_model_knows_no_id_unless_it_may(redact: str, table: pd.DataFrame, tmp_path: Path) -> None:
    how: dict[str, Any] = {"group": "patient", "split": "part", "inputs": "age", "quiet": True, "out": tmp_path / "run"}
    how["config"] = settings(tmp_path / "store", train__epochs=0, views=1, evaluate__baselines=False)
    model = fusetune.fit(table, "organ", sets=f"redact={redact}", **how).model
    files = [path for path in (tmp_path / "run" / "model").rglob("*") if path.is_file()]
    assert files and not any(b"case-0" in path.read_bytes() for path in files)
    assert model.predict_table(table, unlike=True)["as_far(columns)"].notna().all()
    with pytest.raises(UserError, match=r"does not keep the ids .* evaluate.neighbours=true"):
        model.neighbours(table)
    with pytest.raises(ConfigError, match=r"evaluate.neighbours .* redact"):
        fusetune.Config.build(sets=["redact=true", "evaluate.neighbours=true"])
