"""Neighbours across the split: a leak needs two points and three standard errors, and another group to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import kinds, look, named, plain_table

from fusetune.doctor.findings import Finding
from fusetune.doctor.leaks import nearest_agreement, neighbour_findings


def twins(count: int, wrong: int) -> tuple[pd.DataFrame, Any]:
    """Return test rows, each beside a training row of its group, and of another that is wrong about some of them.

    Rows: count test rows, count training rows of their groups (always right), count training rows of other groups.
    """
    y = np.arange(count) % 2
    others = np.where(np.arange(count) < wrong, 1 - y, y)
    frame = pd.DataFrame(
        {
            "x": np.zeros(3 * count) + np.arange(3 * count) % 7,
            "patient": [f"p{i}" for i in range(count)] * 2 + [f"q{i}" for i in range(count)],
            "part": ["test"] * count + ["train"] * 2 * count,
            "y": np.r_[y, y, others],
        }
    )
    place = np.arange(count) * 10.0
    features = np.r_[place, place + 0.5, place - 1.0].astype(np.float32)[:, None] / np.float32(10 * count)
    return frame, features * np.float32(10 * count)


def judged(count: int, wrong: int, **roles: Any) -> Finding:
    frame, features = twins(count, wrong)
    examination = look(frame, **{"label": "y", "inputs": ["x"], "row_id": None, **roles})
    (finding,) = neighbour_findings(examination.examined, features)
    return finding


# Of 2,000 rows, three standard errors are below one point: two points decide. Of 50, three standard errors do.
@pytest.mark.parametrize(
    ("count", "wrong", "leak"), [(2000, 41, True), (2000, 39, False), (50, 8, True), (50, 7, False)]
)
def test_same_groups_must_help_by_two_points_and_three_errors(count: int, wrong: int, leak: bool) -> None:
    finding = judged(count, wrong)
    assert finding.evidence["agreement"] == 1.0
    assert finding.evidence["agreement_other_groups"] == round(1 - wrong / count, 4)
    assert finding.evidence["count"] == count
    assert finding.evidence["nearest_by"] == "cheap features"
    assert finding.columns == ("y",)
    if leak:
        assert (finding.kind, finding.severity) == ("neighbours_across_parts", "error")
        assert finding.rows == tuple(map(str, range(count))), "the test rows"
        assert "split by group" in finding.remedy
    else:
        assert (finding.kind, finding.severity, finding.rows) == ("neighbour_agreement", "info", ())
        assert "nothing" in finding.remedy
    assert f"{finding.evidence['agreement']:.1%} of {count:,} test rows" in finding.evidence["what"]


def test_without_groups_there_is_nothing_to_compare_with() -> None:
    finding = judged(50, 20, group=None)
    assert (finding.kind, finding.evidence["agreement_other_groups"]) == ("neighbour_agreement", None)
    assert finding.evidence["majority"] == pytest.approx(0.5, abs=0.14)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_both_sides_must_have_rows(missing: str) -> None:
    frame = plain_table()
    examination = look(frame.assign(part=frame["part"].replace(missing, "valid")))
    assert not {"neighbours_across_parts", "neighbour_agreement"} & kinds(examination)


def test_rows_without_a_group_are_of_no_common_group() -> None:
    frame, features = twins(50, 20)
    frame["patient"] = None
    (finding,) = neighbour_findings(look(frame, label="y", inputs=["x"], row_id=None).examined, features)
    assert finding.kind == "neighbour_agreement"
    assert finding.evidence["agreement_other_groups"] == finding.evidence["agreement"] == 1.0


def test_rows_whose_group_has_all_training_rows_have_nothing_to_be_compared_with() -> None:
    frame, features = twins(50, 20)
    frame["patient"] = "p"
    (finding,) = neighbour_findings(look(frame, label="y", inputs=["x"], row_id=None).examined, features)
    assert finding.kind == "neighbour_agreement"
    assert finding.evidence["agreement_other_groups"] is None


def test_such_rows_are_left_out_of_the_comparison_and_others_are_not() -> None:
    features = np.array([[0.0], [0.1], [5.0], [5.1]], dtype=np.float32)
    labels, groups = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    same, apart = nearest_agreement(features, labels, np.array([0, 2]), np.array([1, 3]), groups)
    assert apart is not None
    assert same.tolist() == [1, 1]
    assert np.isnan(apart[0])
    assert apart[1] == 1


def frames(streams: int = 12, length: int = 20, leaky: bool = True) -> pd.DataFrame:
    """Return numbered frames of streams, whose label changes once within a stream."""
    generator = np.random.default_rng(0)
    number = np.tile(np.arange(length), streams)
    stream = np.repeat(np.arange(streams), length)
    turn = generator.integers(1, length - 1, streams)
    part = np.where((number if leaky else stream) % 4 == 3, "test", "train")
    return pd.DataFrame(
        {
            "frame": number,
            "angle": generator.normal(size=streams * length),
            "stream": [f"s{k}" for k in stream],
            "part": part,
            "y": (number > turn[stream]) ^ (stream % 2 == 1),
        }
    )


def test_numbered_rows_are_judged_by_their_number() -> None:
    table = frames()
    finding = named(look(table, label="y", group="stream", inputs=["angle"], row_id=None), "neighbours_across_parts")
    test, train = table[table["part"] == "test"], table[table["part"] == "train"]
    right = 0
    for _, row in test.iterrows():
        own = train[train["stream"] == row["stream"]]
        right += own.iloc[(own["frame"] - row["frame"]).abs().argmin()]["y"] == row["y"]
    assert finding.evidence["nearest_by"] == "'frame' within the group"
    assert finding.evidence["agreement"] == round(right / len(test), 4)
    assert (finding.evidence["mean_distance"], finding.evidence["next_to_it"]) == (1.0, 1.0)
    assert set(finding.rows) == set(map(str, test.index))


def test_streams_that_are_kept_together_do_not_leak() -> None:
    examination = look(frames(leaky=False), label="y", group="stream", inputs=["angle"], row_id=None)
    assert "neighbours_across_parts" not in kinds(examination)
    assert named(examination, "neighbour_agreement").evidence["nearest_by"] == "cheap features"


@pytest.mark.parametrize("change", ["floats", "repeated", "short"])
def test_numbers_that_count_nothing_are_not_trusted(change: str) -> None:
    table = frames(60, 4) if change == "short" else frames()
    if change == "floats":
        table["frame"] = table["frame"] + 0.5
    if change == "repeated":
        table["frame"] = table["frame"] // 2
    examination = look(table, label="y", group="stream", inputs=["angle"], row_id=None)
    (finding,) = (f for f in examination.findings if f.kind.startswith("neighbour"))
    assert finding.evidence["nearest_by"] == "cheap features"
