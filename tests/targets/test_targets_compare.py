"""A number and several labels in a contest, from a table to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, r2_score
from targets_tables import labels_table, number_table
from tiny import settings

import fusetune
from fusetune.contest.rules import for_target, rules_of
from fusetune.errors import ConfigError
from fusetune.strategies import STRATEGIES, targets_of

HOW: dict[str, Any] = {
    "inputs": ["age", "genes"], "vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True,
    "jobs": 1, "seeds": 1, "trials": 1, "epochs": 2,
}  # fmt: skip


def compared(folder: Path, frame: pd.DataFrame, label: str, **more: Any) -> fusetune.Contest:
    config = settings(folder / "store", doctor__check=False, head__penalties=[3.0])
    how = HOW | {"strategies": ["ume", "linear-probe"], "config": config} | more
    return fusetune.compare(frame, label, out=folder / "out", **how)


def said_of(folder: Path, strategy: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "predictions.parquet").query(f"strategy == '{strategy}' and part == 'test'")


def test_a_number_is_compared_by_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contest = compared(tmp_path, number_table(tmp_path / "data"), "size", quiet=False)
    table, said = contest.results.set_index("strategy"), said_of(tmp_path, "ume")
    row = table.loc["ume"]
    assert row["error"] == ""
    assert row["test_mae"] == pytest.approx(mean_absolute_error(said["label"], said["prediction"]))
    assert row["test_r2"] == pytest.approx(r2_score(said["label"], said["prediction"]))
    assert [name for name in table if "nll" in name or "p(" in name] == []
    shown = contest.table().loc["ume"]
    assert (shown["mae"], shown["r2"]) == pytest.approx((row["test_mae"], row["test_r2"]))
    assert {"p r2", "p mae"} <= set(contest.paired())
    assert "lowest MAE" in repr(contest) and "mae low" in contest._repr_html_()
    assert "valid MAE" in "".join(capsys.readouterr())
    assert (tmp_path / "out" / "tuning.db").exists()
    assert contest.summary["facts"]["Label"] == "size, a number"
    assert contest.telling.loss.word == "MAE"


def test_labels_are_compared_by_all_of_them(tmp_path: Path) -> None:
    contest = compared(tmp_path, labels_table(tmp_path / "data"), "seen")
    row, said = contest.results.set_index("strategy").loc["linear-probe"], said_of(tmp_path, "linear-probe")
    names = ["large", "moved", "old"]
    p = said[[f"p({name})" for name in names]].to_numpy()
    y = np.array([[name in cell.split(";") for name in names] for cell in said["label"]])
    assert row["test_nll"] == pytest.approx(-np.log(np.where(y, p, 1 - p)).sum(1).mean())
    assert row["test_label_accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    assert row["test_subset_accuracy"] == pytest.approx(((p > 0.5) == y).all(1).mean())
    assert row["test_macro_f1"] == pytest.approx(f1_score(y, p > 0.5, average="macro"))
    assert row["test_micro_f1"] == pytest.approx(f1_score(y, p > 0.5, average="micro"))
    assert "Label accuracy" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_what_is_not_defined_is_left_out_of_all_and_refused_by_name(tmp_path: Path) -> None:
    how: dict[str, Any] = {"level": "features", "trials": 0, "budget": "passes", "minutes": None, "epochs": None}
    rules, said = for_target(rules_of("all", 1, 0, **how), "regression")
    left = [name for name, own in STRATEGIES.items() if "regression" in targets_of(own)]
    assert list(rules.strategies) == left
    assert said is not None and "classes of a softmax" in said
    assert all(name in said for name in STRATEGIES if name not in left)
    assert for_target(rules_of("all", 1, 0, **how), "classification")[1] is None
    with pytest.raises(ConfigError, match="'mlb' is defined for classes, and this is regression; take one of"):
        fusetune.compare(
            number_table(tmp_path / "data"), "size", strategies=["ume", "mlb"], out=tmp_path / "out", quiet=True
        )
    assert not (tmp_path / "out").exists()
