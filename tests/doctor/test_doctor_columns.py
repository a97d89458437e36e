"""Columns that hold nothing, that only name rows, or that give the label away, alone or together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import check, kinds, look, named, plain_table

from fusetune.doctor.columns import crossed_accuracy
from fusetune.doctor.examine import Examination
from fusetune.doctor.findings import Finding


def columns_of(examination: Examination, kind: str) -> set[tuple[str, str]]:
    return {(f.severity, name) for f in examination.findings if f.kind == kind for name in f.columns}


def plain(frame: pd.DataFrame, *inputs: str, **roles: Any) -> Examination:
    return look(frame, label="y", inputs=list(inputs), **{"group": None, "split": None, "row_id": None, **roles})


def giving(wrong: int, rows: int = 1000) -> pd.DataFrame:
    """Return a code that gives one of two balanced labels away, but for some rows of each."""
    label = np.arange(rows) % 2
    code = label.copy()
    code[: 2 * wrong] = 1 - code[: 2 * wrong]
    order = np.random.default_rng(0).permutation(rows)
    return pd.DataFrame({"code": code[order], "y": label[order]}).replace({"code": {0: "no", 1: "yes"}})


# Of 1,000 rows in two equal classes, w wrong ones in each class leave a lift of 1 - 4 w / 1000.
@pytest.mark.parametrize(("wrong", "severity"), [(0, "error"), (5, "error"), (6, "warn"), (25, "warn"), (26, None)])
def test_a_column_that_gives_the_label(wrong: int, severity: str | None) -> None:
    examination = plain(giving(wrong), "code")
    assert columns_of(examination, "column_gives_label") == ({(severity, "code")} if severity else set())
    if severity:
        finding = named(examination, "column_gives_label")
        right = 1 - 2 * wrong / 1000
        assert finding.rows == ()
        assert finding.evidence["accuracy"] == pytest.approx(right)
        assert finding.evidence["majority"] == 0.5
        assert finding.evidence["lift"] == pytest.approx(2 * right - 1)
        assert f"'code' alone predicts {right:.1%} of the labels (always the same: 50.0%)" in finding.evidence["what"]
        assert "ask when the column is filled in" in finding.remedy


@pytest.mark.parametrize("values", [lambda y: y * 1.5, lambda y: y == 1, lambda y: np.where(y == 1, "b", None)])
def test_numbers_truth_values_and_gaps_give_it_as_well(values: Any) -> None:
    frame = giving(0)
    frame["code"] = values(frame["y"].to_numpy())
    assert columns_of(plain(frame, "code"), "column_gives_label") == {("error", "code")}


def test_many_different_numbers_give_it_by_their_order() -> None:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"x": generator.normal(size=2000)})
    frame["y"] = np.where(frame["x"] > 0.3, "high", "low")
    (finding,) = (f for f in plain(frame, "x").findings if f.kind == "column_gives_label")
    # Only the one of 64 bins that the threshold falls into is in doubt.
    assert 1 - 1 / 64 < finding.evidence["accuracy"] < 1


def test_dates_give_it_by_their_order() -> None:
    days = pd.date_range("2020-01-01", periods=400)
    frame = pd.DataFrame({"day": days.strftime("%Y-%m-%d"), "y": np.where(np.arange(400) < 200, "old", "new")})
    assert columns_of(plain(frame, "day"), "column_gives_label") == {("error", "day")}


def test_a_column_that_names_the_group_gives_nothing_away() -> None:
    frame = plain_table(300).assign(ward=lambda t: "w" + t["patient"])
    examination = look(frame, inputs=["ward", "age"])
    assert "column_gives_label" not in kinds(examination), "patients of other folds have other wards"
    assert named(examination, "column_scores").evidence["columns"]["ward"]["fitted"] == 1.0


def xor(noise: float, rows: int = 1200) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 2, (2, rows))
    flip = generator.random(rows) < noise
    return pd.DataFrame({"a": np.where(a, "x", "y"), "b": np.where(b, "u", "v"), "y": a ^ b ^ flip})


@pytest.mark.parametrize(("noise", "severity"), [(0.0, "error"), (0.03, "warn"), (0.08, None)])
def test_columns_that_give_the_label_together(noise: float, severity: str | None) -> None:
    examination = plain(xor(noise), "a", "b")
    assert columns_of(examination, "columns_give_label") == ({(severity, "a"), (severity, "b")} if severity else set())
    assert "column_gives_label" not in kinds(examination)
    together = named(examination, "column_scores").evidence["together"]
    assert together == pytest.approx(1 - noise, abs=0.02)
    if severity:
        finding = named(examination, "columns_give_label")
        assert (finding.rows, finding.evidence["accuracy"]) == ((), together)
        assert finding.evidence["what"].startswith("2 columns together predict")
        assert "ask when the column is filled in" in finding.remedy


def test_what_gives_the_label_alone_is_not_blamed_on_others() -> None:
    frame = giving(0).assign(noise=np.random.default_rng(3).normal(size=1000))
    examination = plain(frame, "code", "noise")
    assert "columns_give_label" not in kinds(examination)
    assert named(examination, "column_scores").evidence["together"] is None, "one column is left"


def test_scores_of_all_columns() -> None:
    frame = plain_table(200)
    examination = look(frame, inputs=["site", "age", "note"])
    finding = named(examination, "column_scores")
    codes = pd.factorize(frame["site"], sort=True)[0]
    labels = pd.factorize(frame["organ"], sort=True)[0]
    score = crossed_accuracy(codes, labels, examination.examined.folds)
    best = sum(np.bincount(labels[codes == code]).max() for code in range(3)) / 200
    assert finding.severity == "info"
    assert set(finding.columns) == {"site", "age"}
    assert finding.evidence["columns"]["site"] == {"cross_validated": round(score, 4), "fitted": round(best, 4)}
    assert finding.evidence["majority"] == round(np.bincount(labels).max() / 200, 4)
    assert finding.columns[0] in finding.evidence["what"]
    first, second = (finding.evidence["columns"][name]["cross_validated"] for name in finding.columns)
    assert first >= second, "the best comes first"
    assert "column_scores" not in kinds(look(frame, inputs=["note"])), "there is no cell column"
    assert "column_scores" not in kinds(look(frame, label=None, inputs=["age"])), "there is nothing to predict"


def test_a_fold_that_holds_all_rows_has_no_score_of_all_columns() -> None:
    finding = named(look(plain_table().assign(patient="p"), inputs=["age", "site"]), "column_scores")
    assert finding.evidence["together"] is None


@pytest.mark.parametrize("values", [[4.0] * 60, ["a"] * 60, [None] * 60, ["a"] * 30 + [None] * 30, [True] * 60])
def test_a_column_with_one_value_is_constant(values: list[Any]) -> None:
    frame = plain_table().assign(same=pd.Series(values))
    examination = look(frame, inputs=["age", "same"])
    assert columns_of(examination, "column_constant") == {("warn", "same")}
    finding = named(examination, "column_constant")
    assert finding.rows == ()
    assert "1 column(s)" in finding.evidence["what"]
    assert finding.remedy == "leave them out"
    assert columns_of(look(frame, inputs=["age"]), "column_constant") == {("info", "same")}


def test_a_column_with_one_other_value_is_not_constant() -> None:
    frame = plain_table().assign(same=[1.0] + [0.0] * 59)
    assert columns_of(look(frame, inputs=["age", "same"]), "column_constant") == set()


def test_one_number_of_a_vector_may_be_constant() -> None:
    frame = plain_table().assign(v_0=1.0, v_1=np.arange(60.0))
    assert "column_constant" not in kinds(look(frame, inputs=["age"], vectors={"v": "v_*"}))


def test_lists_are_compared_by_value() -> None:
    frame = plain_table().assign(v=[[1.0, 2.0]] * 60)
    assert columns_of(look(frame, inputs=["age", "v"]), "column_constant") == {("warn", "v")}
    frame["v"] = [[1.0, float(row)] for row in range(60)]
    assert columns_of(look(frame, inputs=["age", "v"]), "column_constant") == set()


@pytest.mark.parametrize(("different", "naming"), [(100, True), (96, True), (95, False), (50, False)])
def test_categories_that_only_name_rows(different: int, naming: bool) -> None:
    frame = plain_table(100).assign(code=[f"c{min(row, different - 1)}" for row in range(100)])
    examination = look(frame, inputs=["age", "code"], kinds={"code": "category"})
    assert columns_of(examination, "column_like_id") == ({("warn", "code")} if naming else set())


@pytest.mark.parametrize(("rows", "naming"), [(20, False), (22, True)])
def test_few_rows_may_all_differ(rows: int, naming: bool) -> None:
    frame = plain_table(rows).assign(code=[f"c{row}" for row in range(rows)], count=range(rows))
    chosen = {"inputs": ["age", "code", "count"], "kinds": {"code": "category", "count": "number"}}
    assert columns_of(look(frame, **chosen), "column_like_id") == (
        {("warn", "code"), ("warn", "count")} if naming else set()
    )


@pytest.mark.parametrize(
    ("values", "naming"),
    [
        (np.arange(60), True),
        (np.arange(60)[::-1] * 7, True),
        (np.r_[0, np.arange(59)], False),
        (np.arange(60) + 0.5, False),
        (np.random.default_rng(0).permutation(60), False),
    ],
)
def test_whole_numbers_that_only_rise_or_fall(values: np.ndarray[Any, Any], naming: bool) -> None:
    frame = plain_table().assign(count=values)
    examination = look(frame, inputs=["age", "count"], kinds={"count": "number"})
    assert columns_of(examination, "column_like_id") == ({("warn", "count")} if naming else set())
    if naming:
        assert named(examination, "column_like_id").rows == ()
        assert "--id" in named(examination, "column_like_id").remedy


def test_a_name_that_is_no_input_is_only_mentioned() -> None:
    frame = plain_table().assign(code=[f"c{row}" for row in range(60)])
    examination = look(frame, inputs=["age"], kinds={"code": "category"})
    assert columns_of(examination, "column_like_id") == {("info", "code")}


def test_a_finding_about_rows_is_checked_as_strictly_as_it_reads() -> None:
    finding = Finding("text_empty", "warn", ("a", "a"), ("note",), {"what": "1 x", "count": 1}, "look")
    with pytest.raises(AssertionError, match="twice"):
        check(finding, "warn", {"a"}, ("note",), "look")


@pytest.mark.parametrize(("place", "told"), [("first", True), ("last", True), ("middle", False)])
def test_a_text_that_begins_or_ends_with_the_label_is_a_leak(place: str, told: bool) -> None:
    frame = plain_table(300)
    words = frame["note"].str.split().str[:4].str.join(" ")
    frame["note"] = {
        "first": frame["organ"] + " " + words,
        "last": words + " " + frame["organ"],
        "middle": words + " " + frame["organ"] + " " + words,
    }[place]
    examination = look(frame, inputs=["note", "age"], kinds={"note": "text"})
    assert columns_of(examination, "text_gives_label") == ({("error", "note")} if told else set())
    if told:
        assert named(examination, "text_gives_label").certainty == "very likely"
