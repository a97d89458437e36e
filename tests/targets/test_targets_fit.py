"""Numbers and several labels through everything between a table and an answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score, roc_auc_score
from targets_tables import labels_table, number_table
from tiny import settings

import fusetune
from fusetune.errors import ConfigError, TableError, UserError
from fusetune.strategies import STRATEGIES, targets_of

HOW: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}


@dataclass
class Done:
    """A finished run, the folder of its pictures, its table and its label."""

    run: fusetune.Run
    folder: Path
    frame: pd.DataFrame
    label: str

    @property
    def test(self) -> pd.DataFrame:
        return self.frame[self.frame["part"] == "test"]

    @property
    def said(self) -> pd.DataFrame:
        return pd.read_parquet(self.run.folder / "predictions.parquet").query("part == 'test'")


def fitted(folder: Path, frame: pd.DataFrame, label: str, **more: Any) -> Done:
    frame = frame.assign(scan=[str(folder / "data" / name) for name in frame["scan"]])
    given = settings(folder / "store", crossfit={"how": "k", "folds": 2}, **more)
    run = fusetune.fit(frame, label, config=given, out=folder / "run", **HOW)
    return Done(run, folder, frame, label)


@pytest.fixture(scope="module")
def number(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("number")
    return fitted(folder, number_table(folder / "data"), "size")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("several")
    return fitted(folder, labels_table(folder / "data"), "seen", evaluate__aim={"old": "sensitivity >= 0.95"})


def test_scores_of_a_number_are_those_of_scikit_learn(number: Done) -> None:
    said, found = number.said, number.run.metrics["test"]
    assert said["label"].tolist() == pytest.approx(number.test["size"].tolist())
    assert found["r2"]["value"] == pytest.approx(r2_score(said["label"], said["prediction"]))
    assert found["mae"]["value"] == pytest.approx(mean_absolute_error(said["label"], said["prediction"]))
    assert found["rmse"]["value"] == pytest.approx(np.sqrt(np.square(said["label"] - said["prediction"]).mean()))
    assert found["bias"]["value"] == pytest.approx((said["prediction"] - said["label"]).mean())
    assert found["r2"]["value"] > 0.6
    assert found["r2"]["low"] < found["r2"]["value"] < found["r2"]["high"]


def test_scores_of_labels_are_those_of_scikit_learn(several: Done) -> None:
    said, found, names = several.said, several.run.metrics["test"], ["large", "moved", "old"]
    p = said[[f"p({name})" for name in names]].to_numpy()
    y = np.array([[name in cell.split(";") for name in names] for cell in said["label"]])
    assert found["label_accuracy"]["value"] == pytest.approx(((p > 0.5) == y).mean())
    assert found["subset_accuracy"]["value"] == pytest.approx(((p > 0.5) == y).all(1).mean())
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(y, p > 0.5, average="macro"))
    assert found["micro_f1"]["value"] == pytest.approx(f1_score(y, p > 0.5, average="micro"))
    assert found["auroc"]["value"] == pytest.approx(np.mean([roc_auc_score(y[:, k], p[:, k]) for k in range(3)]))
    assert found["auprc"]["value"] == pytest.approx(
        np.mean([average_precision_score(y[:, k], p[:, k]) for k in range(3)])
    )
    assert found["nll"]["value"] == pytest.approx(-np.log(np.where(y, p, 1 - p)).sum(1).mean())
    each = {row["name"]: row for row in several.run.metrics["each"]}
    assert each["large"]["rows"] == y[:, 0].sum()
    assert each["large"]["auroc"]["value"] == pytest.approx(roc_auc_score(y[:, 0], p[:, 0]))
    for at, name in enumerate(names):
        assert each[name]["recall"]["value"] == pytest.approx((p[y[:, at], at] >= each[name]["threshold"]).mean())
    assert each["old"]["auroc"]["value"] > 0.8


@pytest.mark.parametrize("done", ["number", "several"])
def test_a_saved_model_says_what_was_judged(done: str, request: pytest.FixtureRequest) -> None:
    this: Done = request.getfixturevalue(done)
    model = fusetune.load(this.run.folder)
    table = model.predict_table(this.test.drop(columns=this.label), "mask")
    said = this.said
    assert table["row_id"].tolist() == said["row_id"].tolist()
    if done == "number":
        assert table["prediction"].tolist() == pytest.approx(said["prediction"].tolist(), rel=1e-5)
        assert list(table.columns) == ["row_id", "prediction", "problem"]
    else:
        assert table["prediction"].tolist() == said["prediction"].tolist()
        shares = [name for name in said.columns if name.startswith("p(")]
        np.testing.assert_allclose(table[shares], said[shares], atol=1e-5)
    assert model.predict(this.test, "mask").tolist() == table["prediction"].tolist()
    again = model.evaluate(this.test, "mask")
    for name, interval in {**this.run.metrics["test"], **(this.run.metrics["acted"] or {})}.items():
        assert again[name]["value"] == pytest.approx(interval["value"], abs=1e-4)


def test_labels_are_said_from_the_thresholds_of_validation_rows(several: Done) -> None:
    names, metrics, model = ["large", "moved", "old"], several.run.metrics, fusetune.load(several.run.folder)
    said = pd.read_parquet(several.run.folder / "predictions.parquet")
    learnt = dict(zip(names, model.calibration.limits, strict=True))
    assert learnt["old"].aim == "sensitivity >= 0.95"
    assert {learnt["large"].aim, learnt["moved"].aim} <= {"f1", "even odds"}
    assert learnt["old"].threshold == metrics["each"][2]["threshold"] != pytest.approx(0.5)
    for row in said.to_dict("records"):
        assert row["prediction"] == ";".join(name for name in names if row[f"p({name})"] >= learnt[name].at)
    assert "sensitivity >= 0.95 (old)" in metrics["rule"] == model.rule.words
    again = model.evaluate(several.test, "mask")
    assert again["even_odds"]["macro_f1"]["value"] == pytest.approx(metrics["test"]["macro_f1"]["value"], abs=1e-4)
    assert again["macro_f1"]["value"] != again["even_odds"]["macro_f1"]["value"]
    assert f"decided by {metrics['rule']}; by even odds" in several.run.summary()
    assert "It decides every label from its own probability on" in several.run.report.read_text("utf-8")


def test_intervals_are_the_number_and_its_reach(number: Done) -> None:
    model = number.run.model
    table = model.predict_table(number.test, "mask", sets=0.9)
    reach = model.calibration.reaches.at(0.9, np.array(["scan + note + columns + genes"] * len(table)))
    np.testing.assert_allclose(table["high"] - table["prediction"], reach)
    np.testing.assert_allclose(table["prediction"] - table["low"], reach)
    within = (table["low"] <= number.test["size"].to_numpy()) & (number.test["size"].to_numpy() <= table["high"])
    assert number.run.metrics["intervals"]["coverage"]["value"] == pytest.approx(within.mean())


def test_what_a_number_does_not_have_is_refused(number: Done, several: Done) -> None:
    with pytest.raises(UserError, match="predicts a number, which has no probabilities"):
        number.run.model.predict_proba(number.test)
    with pytest.raises(UserError, match="a margin is the distance of a row from another class"):
        number.run.model.predict_table(number.test, margin=0.1)
    with pytest.raises(UserError, match="sets that hold the truth"):
        several.run.model.predict_table(several.test, sets=0.9)


@pytest.mark.parametrize("done", ["number", "several"])
def test_shares_of_the_inputs_sum_to_the_answer(done: str, request: pytest.FixtureRequest) -> None:
    this: Done = request.getfixturevalue(done)
    model, one = this.run.model, this.test.iloc[[0]]
    explained = model.explain(one)
    whole = model.predict(one).iloc[0] if done == "number" else model.predict_proba(one).to_numpy().max()
    assert explained.prior + sum(explained.shares.values()) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("done", ["number", "several"])
def test_every_input_may_be_missing(done: str, request: pytest.FixtureRequest) -> None:
    this: Done = request.getfixturevalue(done)
    inputs = ["scan", "note", "age", "site", *(f"v_{i}" for i in range(4))]
    for left in (["scan"], ["note", "age"]):
        gone = this.test[["case_id", *left]]
        found = this.run.model.predict_table(gone, "mask")
        assert found["prediction"].notna().all()
        assert found["problem"].str.contains("missing|absent|not in").all()
    assert set(inputs) <= set(this.frame.columns)


@pytest.mark.parametrize("done", ["number", "several"])
def test_metrics_name_what_they_hold(done: str, request: pytest.FixtureRequest) -> None:
    this: Done = request.getfixturevalue(done)
    metrics = json.loads((this.run.folder / "metrics.json").read_text("utf-8"))
    score, loss = {"number": ("r2", "mae"), "several": ("label_accuracy", "nll")}[done]
    assert metrics["target"]["kind"] == {"number": "regression", "several": "multilabel"}[done]
    for table in ("gain", "subsets", "missing", "interference"):
        assert {score, loss} <= metrics[table][0].keys()
        assert "accuracy" not in metrics[table][0]
    last = metrics["gain"][-1]
    assert last[score] == metrics["test"][score]
    assert last[loss] == metrics["test"][loss]
    schema = json.loads((this.run.folder / "schema.json").read_text("utf-8"))
    assert schema["target"] == metrics["target"]["kind"]
    (label,) = [column for column in schema["columns"] if column["role"] == "label"]
    assert label["reason"].count(schema["target"]) == 1


# Those that the fixtures do not fit, and the simplest answer itself.
OTHERS = [
    name
    for name, one in STRATEGIES.items()
    if "regression" in targets_of(one) and name not in ("two-stage", "majority")
]


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("label", ["size", "seen"])
def test_strategies_beat_the_simplest_answer(tmp_path: Path, strategy: str, label: str) -> None:
    """Of cells, texts and vectors: pictures take most of the time and are the same code."""
    frame = {"size": number_table, "seen": labels_table}[label](tmp_path, 192).drop(columns="scan")
    given = settings(
        tmp_path / "store", strategy={"name": strategy}, train__epochs=3,
        evaluate={"resamples": 100, "baselines": False, "reference": 0},
    )  # fmt: skip
    metrics = fusetune.fit(frame, label, config=given, out=tmp_path / "run", **HOW).metrics
    loss = "mae" if label == "size" else "nll"
    simplest = next(row for row in metrics["gain"] if row["name"] == "majority")
    assert metrics["gain"][-1][loss]["value"] < 0.95 * simplest[loss]["value"]


@pytest.mark.parametrize("strategy", ["ogm-ge", "qmf", "tip", "m3col", "mlb"])
def test_strategies_for_classes_are_refused_before_anything_is_written(tmp_path: Path, strategy: str) -> None:
    frame = number_table(tmp_path)
    with pytest.raises(ConfigError, match=f"'{strategy}' is defined for classes, and this is regression.*two-stage"):
        fusetune.fit(frame, "size", strategy=strategy, out=tmp_path / "run", inputs=["age", "site"], quiet=True)
    assert not (tmp_path / "run").exists()


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    frame = number_table(tmp_path)
    how: dict[str, Any] = {"inputs": ["age", "site"], "out": tmp_path / "run", "quiet": True}
    words = frame.assign(size=frame["size"].astype(str).where(frame.index != 7, "large"))
    with pytest.raises(TableError, match=r"holds 'large' in row\(s\) 7.*--target|holds 'large' in row\(s\) 7"):
        fusetune.fit(words, "size", sets="target=regression", **how)
    with pytest.raises(TableError, match=r"is empty in 1 of 96 row\(s\), 3"):
        fusetune.fit(frame.assign(size=frame["size"].where(frame.index != 3)), "size", **how)
    with pytest.raises(TableError, match=r"in (all|every) training rows?: nothing to learn"):
        fusetune.fit(frame.assign(size=1.5), "size", sets="target=regression", **how)
    with pytest.raises(TableError, match="'rare' is in one row only"):
        some = ["a", "b;rare", *["a", "b", "a;b"] * 30]
        fusetune.fit(frame.iloc[:92].assign(size=some), "size", sets="target=multilabel", **how)
    assert not (tmp_path / "run").exists()


def test_a_target_that_the_column_contradicts_is_refused(tmp_path: Path) -> None:
    frame = number_table(tmp_path)
    how: dict[str, Any] = {"inputs": ["age", "site"], "out": tmp_path / "run", "quiet": True}
    with pytest.raises(TableError, match=r"'age' of .* holds a number in every row.*classification or regression"):
        fusetune.fit(frame, "age", target="multilabel", **{**how, "inputs": ["site"]})
    with pytest.raises(TableError, match=r"holds lists, and one class.*--target multilabel"):
        fusetune.fit(frame.assign(size=[["a", "b"], ["a"], []] * 32), "size", target="classification", **how)
    with pytest.raises(TableError, match=r"is no finite number; .*--target classification"):
        fusetune.fit(frame, "site", target="regression", **{**how, "inputs": ["age"]})
    assert not (tmp_path / "run").exists()


def test_a_target_beside_the_schema_file_that_says_another_is_refused(number: Done, tmp_path: Path) -> None:
    given = {"data": {"schema_file": str(number.run.folder / "schema.json")}, "target": "classification"}
    with pytest.raises(UserError, match=r"schema\.json has the target regression, not classification"):
        fusetune.fit(number.frame, "size", config=given, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_numbers_is_refused_before_a_run_begins(number: Done, tmp_path: Path) -> None:
    given = {"head": {"robust": True}}
    with pytest.raises(ConfigError, match=r"head\.robust is for numbers, and this is classification"):
        fusetune.fit(number.frame, "site", inputs=["age"], config=given, out=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("done", "score", "loss"), [("number", "r2", "mae"), ("several", "label_accuracy", "nll")])
def test_a_saved_model_is_diagnosed_by_its_own_scores(
    done: str, score: str, loss: str, request: pytest.FixtureRequest
) -> None:
    this: Done = request.getfixturevalue(done)
    found = this.run.model.diagnose(this.frame, "mask", split=this.run.folder / "split.parquet")
    values = found.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert found.rows == len(this.test)
    for name in (score, loss):
        assert values["scores"][name]["value"] == pytest.approx(this.run.metrics["test"][name]["value"], abs=1e-3)
    assert [row["modality"] for row in values["laziness"]] == ["scan", "note", "columns", "genes"]
    for row in values["laziness"]:
        (before,) = row["references"]
        assert before["laziness"]["value"] == pytest.approx(before[score]["value"] - row[score]["value"])
        assert before[f"laziness_{loss}"]["value"] == pytest.approx(row[loss]["value"] - before[loss]["value"])
    importance = values["incomplete"]["importance"]
    assert next(iter(importance)) == "age" and sum(importance.values()) == pytest.approx(1)
    assert bool(values["certainty"][0]["sets"]) == (done == "number")


@pytest.mark.parametrize(("done", "score", "loss"), [("number", "r2", "mae"), ("several", "label_accuracy", "nll")])
def test_finished_runs_are_compared_by_their_own_scores(
    done: str, score: str, loss: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    this: Done = request.getfixturevalue(done)
    again = tmp_path / "again"
    shutil.copytree(this.run.folder, again)
    contest = fusetune.compare([this.run.folder, again], quiet=True)
    table = contest.table()
    for name in (score, loss):
        assert table[name].tolist() == pytest.approx([this.run.metrics["test"][name]["value"]] * 2)
    (duel,) = contest.summary["paired"]
    assert (duel[score]["value"], duel[loss]["value"], duel["p"], duel[f"p_{loss}"]) == (0, 0, 1, 1)
    other: Done = request.getfixturevalue("several" if done == "number" else "number")
    with pytest.raises(UserError, match="compare runs of one target"):
        fusetune.compare([this.run.folder, other.run.folder], quiet=True)


def test_a_label_column_says_what_it_is_taken_for_and_no_more(number: Done, several: Done) -> None:
    for done, said in ((number, "regression: 94 different"), (several, "multilabel: several of 3 labels in a cell")):
        columns = json.loads((done.run.folder / "schema.json").read_text("utf-8"))["columns"]
        (reason,) = (column["reason"] for column in columns if column["role"] == "label")
        assert reason.startswith(f"label column; {said}")
        assert "--kind" not in reason


def test_notes_of_a_number_know_no_classifier(number: Done) -> None:
    notes = [row["note"] for row in number.run.metrics["gain"]]
    assert not [note for note in notes if "classifier" in note]
