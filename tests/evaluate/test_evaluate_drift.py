"""Counts of the training part, and tests of a table against them: against scipy, valid without drift, found with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import chi2_contingency

from fusetune.data.choices import Kind
from fusetune.data.schema import Column, Schema
from fusetune.data.table import read_table
from fusetune.evaluate.drift import Tally, homogeneity
from fusetune.evaluate.profile import Counted, Profile

RNG = np.random.default_rng(0)
KINDS = {
    "age": Kind.NUMBER, "site": Kind.CATEGORY, "ill": Kind.BOOLEAN, "seen": Kind.DATE, "note": Kind.TEXT,
    "scan": Kind.IMAGE,
}  # fmt: skip
SCHEMA = Schema(columns=[Column(name=name, kind=kind, role="input", reason="") for name, kind in KINDS.items()])


def table(rows: int, seed: int, **changes: Any) -> Any:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "age": rng.normal(50, 9, rows).round(1),
        "site": rng.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]),
        "ill": rng.random(rows) < 0.3,
        "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, rows), "D"),
        "note": [" ".join(["word"] * n) for n in rng.integers(1, 9, rows)],
        "scan": [f"{row}.png" for row in range(rows)],
    })  # fmt: skip
    return read_table(frame.assign(**changes))


def profile(rows: int = 600) -> Profile:
    return Profile.learn(table(rows, 1), SCHEMA, np.arange(100) % 2, np.arange(100) % 2, 2, None)


def drift(known: Profile, now: Any, decided: Any) -> Any:
    tally = Tally(["no", "yes"])
    tally.add(np.asarray(decided), {})
    return tally.drift(now, SCHEMA, known, {})


def test_counts_are_of_all_rows_and_hold_no_row_of_its_own() -> None:
    known = profile()
    for one in known.columns:
        assert sum(one.counts) == 600
    by_name = {one.column: one for one in known.columns}
    site = by_name["site"]
    assert dict(zip(site.words, site.counts, strict=False)) == table(600, 1).frame["site"].value_counts().to_dict()
    age = table(600, 1).frame["age"]
    cuts = by_name["age"].cuts
    assert cuts[1] == age.min()
    assert cuts[-1] == age.max()
    assert by_name["age"].counts[1:-2] == [int(((age > low) & (age <= high)).sum()) for low, high in pairwise(cuts)]
    rare = Profile.learn(
        table(600, 1, site=[f"p{row}" for row in range(600)]), SCHEMA, np.zeros(1, int), np.zeros(1, int), 2, None
    )
    assert next(one for one in rare.columns if one.column == "site").words == []


def test_homogeneity_is_the_chi_square_test() -> None:
    one, other = np.array([50, 80, 70]), np.array([90, 60, 150])
    size, p = homogeneity(one, other, (200, 300))
    assert p == pytest.approx(chi2_contingency([one, other], correction=False).pvalue)
    assert size == pytest.approx(np.abs(one / 200 - other / 300).sum() / 2)
    # Half as many independent units tell less.
    assert homogeneity(one, other, (100, 150))[1] > p
    assert homogeneity(np.array([8, 0]), np.array([0, 8]), (8, 8))[1] == pytest.approx(2 / 12870)  # Fisher's, exact
    assert homogeneity(np.array([0, 0]), other[:2], (10, 10)) == (0.0, 1.0)
    assert homogeneity(np.array([200, 0, 0]), np.array([297, 2, 1]), (200, 300))[1] > 0.05  # sparse ones are pooled


def test_without_drift_hardly_anything_is_shown() -> None:
    known, shown, p = profile(), 0, []
    for seed in range(40):
        found = drift(known, table(150, 100 + seed), RNG.integers(0, 2, 150))
        shown += any(shift.shown for shift in found.shifts)
        p += [shift.p for shift in found.shifts]
    assert shown <= 6  # 5 % of 40 are expected
    assert np.mean(np.array(p) < 0.05) < 0.08


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("age", lambda frame: frame["age"] + 6),
        ("age", lambda frame: frame["age"].where(frame.index % 3 > 0)),
        ("site", lambda frame: frame["site"].replace("a", "elsewhere")),
        ("ill", lambda frame: frame["age"] < 55),
        ("seen", lambda frame: frame["seen"] + pd.Timedelta("900D")),
        ("note", lambda frame: frame["note"] + " and so on"),
        ("scan", lambda frame: frame["scan"].where(frame.index % 4 > 0)),
    ],
)
def test_a_column_that_moved_is_named(column: str, change: Any) -> None:
    now = table(200, 5)
    found = drift(profile(), read_table(now.frame.assign(**{column: change(now.frame)})), RNG.integers(0, 2, 200))
    assert [shift.name for shift in found.shifts if shift.shown] == [column]
    assert column in found.lines()[1]


def test_shares_of_classes_follow_from_the_confusion_of_held_out_rows() -> None:
    known = profile()
    confusion = [[80, 20], [20, 80]]  # decided, of class
    known = known.model_copy(update={"decided": confusion, "held": 200})
    found = drift(known, table(1000, 3), np.r_[np.zeros(320, int), np.ones(680, int)])
    assert found.estimated == pytest.approx({"no": 0.2, "yes": 0.8})
    assert found.held == {"no": 0.5, "yes": 0.5}
    assert any("shares are now" in line for line in found.lines())


@pytest.mark.parametrize(
    "harm", [{"counts": [1]}, {"counts": [1, 1, -1]}, {"cuts": [2.0, 1.0], "counts": [0, 0, 0, 0]}, {"cuts": [np.nan]}]
)
def test_counts_that_are_none_are_refused(harm: dict[str, Any]) -> None:
    good = {"column": "age", "what": "numbers", "cuts": [1.0], "counts": [1, 1, 1]}
    Counted.model_validate(good)
    with pytest.raises(ValidationError):
        Counted.model_validate(good | harm)


def test_a_column_that_is_always_the_same_is_known_by_that() -> None:
    frame = pd.DataFrame({"age": [7.0] * 50})
    schema = Schema(columns=[Column(name="age", kind=Kind.NUMBER, role="input", reason="")])
    known = Profile.learn(read_table(frame), schema, np.arange(9) % 2, np.arange(9) % 2, 2, None)
    for value, shown in ((7.0, False), (6.9, True), (7.1, True)):
        tally = Tally(["no", "yes"])
        tally.add(np.arange(50) % 2, {})
        found = tally.drift(read_table(pd.DataFrame({"age": [value] * 50})), schema, known, {})
        assert found.shifts[0].shown == (shown and found.shifts[0].name == "age")
