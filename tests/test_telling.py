"""Runs of every kind in the terminal and in notebooks: from `metrics.json` alone."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from fusetune.cli.words import gain_grid, verdicts
from fusetune.errors import UserError
from fusetune.evaluate.measures import MEASURES
from fusetune.progress import Terminal
from fusetune.run import Run
from fusetune.telling import TELLING, Telling, amount, telling_of


def score(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def metrics(kind: str = "regression", **changes: Any) -> dict[str, Any]:
    """Return what metrics.json holds of a run, as far as it is told."""
    keys = {"regression": ("r2", "mae"), "multilabel": ("label_accuracy", "nll"), "classification": ("accuracy", "nll")}
    one, other = keys[kind]
    loss = score(8421.3, 7900.0, 9000.0) if kind == "regression" else score(0.5, 0.4, 0.6)
    row = {one: score(0.81, 0.75, 0.86), other: loss, f"valid_{other}": loss["value"], "note": "how"}
    difference = loss | {"value": -512.2 if kind == "regression" else -0.1}
    compared = {
        "against": "image alone", "gained": 30, "lost": 10, "p": 0.002, "p_holm": 0.004, "p_group": None,
        "p_group_holm": None, "verdict": "not shown", "surer": True, one: score(0.05, 0.01, 0.09), other: difference,
    }  # fmt: skip
    more = {"macro_f1": score(0.7), "subset_accuracy": score(0.6)}
    target = {"regression": {"mean": 5e4, "deviation": 3e4, "whole": False}}.get(kind, {})
    found: dict[str, Any] = {
        "rows": {"test": 225}, "groups": {"test": 30}, "strategy": {"name": "two-stage"}, "warnings": [],
        "target": {"kind": kind, **target}, "test": {one: row[one], other: row[other], **more},
        "gain": [{"name": "image alone", **row}, {"name": "two-stage", **row}],
        "comparisons": [compared], "frequent": None, "recalls": [], "classes": ["a", "b"],
        "each": [{"name": "a", "rows": 9, "recall": score(0.5, 0.3, 0.7)}],
    }  # fmt: skip
    if kind == "classification":
        del found["target"]
    return found | changes


def run(kind: str, **changes: Any) -> Run:
    return Run(Path("runs/x"), None, metrics(kind, **changes))  # type: ignore[arg-type]


def printed(found: dict[str, Any]) -> str:
    terminal = Terminal()
    terminal.file, terminal._width = io.StringIO(), 200
    terminal.print(gain_grid(found))
    return terminal.file.getvalue()


def test_every_kind_is_told_by_the_scores_that_it_is_judged_by() -> None:
    assert set(TELLING) == set(MEASURES)
    for kind, measure in MEASURES.items():
        told = TELLING[kind](metrics(kind))
        assert (told.score.key, told.score.word) == (measure.score, measure.score_word)
        assert (told.loss.key, told.loss.word) == (measure.loss, measure.loss_word)


def test_the_gain_table_of_numbers_is_in_their_unit() -> None:
    told = printed(metrics())
    assert "R²" in told
    assert "MAE" in told
    assert "8,421" in told
    assert "0.750 to 0.860" in told
    assert "%" not in told.replace("95 % interval", "")


def test_the_gain_table_of_labels_is_in_percent() -> None:
    told = printed(metrics("multilabel"))
    assert "label accuracy" in told
    assert "81.0%" in told


def test_a_score_that_cannot_be_told_is_a_dash() -> None:
    found = metrics()
    for row in found["gain"]:
        row["r2"] = score(None)
    assert " - " in printed(found)
    found["test"]["r2"] = score(None)
    assert "R² -" in Run(Path("x"), None, found).summary()  # type: ignore[arg-type]


def test_comparisons_name_their_own_test_and_differences() -> None:
    (line,) = verdicts(metrics())
    assert line == (
        "two-stage against image alone: no difference shown (nearer in 30 rows, farther in 10, sign test p = 0.002, "
        "0.004 after Holm's correction; R² +0.050, MAE -512)"
    )
    (line,) = verdicts(metrics("multilabel"))
    assert "more labels right in 30 rows, fewer in 10, sign test p = 0.002" in line
    (line,) = verdicts(metrics("classification"))
    assert "30 rows gained, 10 lost, exact McNemar p = 0.002, 0.004 after Holm's correction; NLL -0.100" in line


def test_a_run_of_numbers_says_its_error_in_a_line() -> None:
    one = run("regression")
    assert repr(one) == "Run('runs/x', MAE 8,421 on 225 test rows)"
    first, second, *_ = one.summary().splitlines()
    assert first == ("two-stage: MAE 8,421 [7,900, 9,000] on 225 test rows of 30 groups; R² 0.810 [0.750, 0.860]")
    assert second == "  not shown better than image alone, but its mean error is smaller"
    page = one._repr_html_()
    assert "8,421" in page
    assert "<table" in page


def test_a_run_of_labels_says_how_many_are_right() -> None:
    one = run("multilabel")
    assert repr(one) == "Run('runs/x', 81.0% of labels right on 225 test rows)"
    assert "all labels of a row right 60.0%; macro F1 0.700" in one.summary()
    assert one.recalls().loc["a", "value"] == 0.5
    assert "0.810" in one._repr_html_()


@pytest.mark.parametrize("kind", ["regression", "multilabel", "classification"])
def test_gain_has_the_columns_of_its_kind(kind: str) -> None:
    one = run(kind)
    told = telling_of(one.metrics)
    gain = one.gain()
    for column in (told.score.key, f"{told.loss.key} high", f"validation {told.loss.key}"):
        assert column in gain.columns
    assert gain.loc["two-stage", told.score.key] == 0.81


def test_what_asks_for_classes_is_refused_where_there_are_none() -> None:
    with pytest.raises(UserError, match=r"predicts a number.*predictions\.parquet"):
        run("regression").confusion()
    with pytest.raises(UserError, match="several labels"):
        run("multilabel").confusion()
    with pytest.raises(UserError, match="predicts a number"):
        run("regression").recalls()


def test_a_perfect_model_is_told_by_the_size_of_its_numbers() -> None:
    found = metrics()
    found["test"]["mae"] = score(0.0)
    assert "MAE 0 on" in repr(Run(Path("x"), None, found))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "size", "text"),
    [
        (8421.3, 8421.3, "8,421"), (0.00123, 0.00123, "0.00123"), (-0.4, 300.0, "0"), (1e15, 1e15, "1e+15"),
        (2.5e-9, 2.5e-9, "2.5e-09"), (1e300, 1.0, "1e+300"), (math.inf, 1.0, "unbounded"), (math.nan, 1.0, "-"),
        (-1.5, 1.0, "-1.50"),
    ],
)  # fmt: skip
def test_amounts(value: float, size: float, text: str) -> None:
    assert amount(value, size) == text


def test_it_imports_nothing_that_takes_time() -> None:
    source = Path(__file__).parents[1] / "src" / "fusetune" / "telling.py"
    text = source.read_text(encoding="utf-8")
    assert not [name for name in ("numpy", "pandas", "torch", "fusetune.evaluate") if f"import {name}" in text]


def test_a_table_of_scores_prints_errors_as_finely_as_their_unit_asks_for() -> None:
    def told(mae: float) -> Telling:
        target = {"kind": "regression", "mean": 0.0, "deviation": 2.0, "whole": False}
        return telling_of({"target": target, "test": {"mae": {"value": mae}}})

    assert told(1.5e-6).form("rmse")(2.254e-6) == "2.25e-06"
    assert told(12345.6).form("bias")(-1234.56) == "-1,235"
    assert told(12345.6).form("r2")(0.51234) == "0.512"
    assert telling_of({}).form("nll")(0.51234) == "0.512"
