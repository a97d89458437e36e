"""What a notebook shows of runs and models, and tables as somebody types them there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny import settings, tiny_table

import fusetune
from fusetune.data.table import read_table
from fusetune.errors import TableError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fusetune.Run:
    folder = tmp_path_factory.mktemp("run")
    tiny_table(folder).to_csv(folder / "table.csv", index=False)
    return fusetune.fit(
        folder / "table.csv", "organ", group="patient", split="part", inputs=["age", "site", "note"],
        config=settings(folder / "store", train__epochs=0, views=1), out=folder / "run", quiet=True,
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
