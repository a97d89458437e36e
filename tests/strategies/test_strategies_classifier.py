"""A classifier of one's own: named by settings, refused where there is none, weighed with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import few_trees, settings, tiny_table

import fusetune
from fusetune.errors import ConfigError
from fusetune.strategies.classifier import ClassifierSettings, made
from fusetune.strategies.weighted import WeightedSettings


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("sklearn.ensemble.NoSuchForest", {}, "has no"),
        ("sklearn.nowhere.Forest", {}, "has no"),
        ("os.system", {}, "neither a class of scikit-learn"),
        ("forest", {}, "neither a class of scikit-learn"),
        ("sklearn.ensemble.ExtraTreesClassifier", {"trees": 3}, "does not take"),
        ("sklearn.linear_model.Ridge", {}, "is no classifier"),
        ("sklearn.svm.LinearSVC", {}, "says no probabilities"),
        ("nowhere.skops", {}, "there is no file"),
        ("nowhere.skops", {"C": 1}, "leave arguments out"),
    ],
)
def test_what_is_no_classifier_is_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ClassifierSettings(classifier=name, arguments=arguments)


def test_a_file_of_skops_is_read(tmp_path: Path) -> None:
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression(C=3.0)), tmp_path / "own.skops")
    assert made(str(tmp_path / "own.skops"), {})[-1].C == 3.0
    skops.io.dump(Ridge(), tmp_path / "ridge.skops")
    with pytest.raises(ValueError, match="is no classifier"):
        made(str(tmp_path / "ridge.skops"), {})
    (tmp_path / "text.skops").write_text("nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        made(str(tmp_path / "text.skops"), {})


@pytest.mark.parametrize("name", ["trees", "ensemble", "majority", "image alone"])
def test_a_row_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValidationError, match="another row"):
        WeightedSettings(classifiers={name: ClassifierSettings()})


HOW: dict[str, Any] = {"group": "patient", "split": "part", "inputs": ["scan", "age", "site"]}


def table(tmp_path: Path) -> Path:
    tiny_table(tmp_path).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def fit(tmp_path: Path, strategy: dict[str, Any]) -> fusetune.Run:
    how = settings(tmp_path / "store", strategy=strategy, crossfit={"how": "k", "folds": 3})
    with few_trees():
        return fusetune.fit(table(tmp_path), "organ", config=how, out=tmp_path / "run", **HOW)


def test_it_is_weighed_with_the_others_and_predicts_when_loaded(tmp_path: Path) -> None:
    own = {"classifier": "sklearn.linear_model.LogisticRegression", "arguments": {"C": 0.1}}
    run = fit(
        tmp_path,
        {"name": "weighted-ensemble", "candidates": ["trees", "linear-probe"], "classifiers": {"mine": own}},
    )
    assert "mine" in [row["name"] for row in run.metrics["gain"]]
    said = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    test = said[said["part"] == "test"]
    again = fusetune.load(tmp_path / "run").predict_table(table(tmp_path))
    again = again[pd.read_csv(tmp_path / "table.csv")["part"] == "test"]
    columns = [column for column in said if column.startswith("p(")]
    np.testing.assert_allclose(test[columns], again[columns], atol=1e-5)


def test_one_that_cannot_be_fitted_ends_the_run_by_its_name(tmp_path: Path) -> None:
    own = {"classifier": "sklearn.naive_bayes.ComplementNB"}  # which takes no negative numbers
    with pytest.raises(ConfigError, match="ComplementNB"):
        fit(tmp_path, {"name": "classifier"} | own)
