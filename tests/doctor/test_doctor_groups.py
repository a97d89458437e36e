"""Labels, groups, parts and classes: what is missing, shared or too small, and what is just enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import ALWAYS, check, kinds, look, named, plain_table

from fusetune.data.split import Split
from fusetune.doctor.examine import examine_split
from fusetune.doctor.groups import constant_accuracy

NORMAL = {*ALWAYS, "label_errors"}


def loose(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"organ": object, "patient": object, "part": object})


def test_nothing_is_wrong_with_the_plain_table() -> None:
    assert kinds(look(plain_table())) <= NORMAL
    assert kinds(look(plain_table()), "error") == set()


def test_missing_labels() -> None:
    frame = loose(plain_table())
    frame.loc[[3, 7], "organ"] = [None, np.nan]
    examination = look(frame)
    check(named(examination, "label_missing"), "error", {"r003", "r007"}, ("organ",), "fill in the labels")
    assert named(examination, "label_missing").evidence["what"] == "2 of 60 rows have no label"


def test_missing_groups() -> None:
    frame = loose(plain_table())
    frame.loc[[3, 50], "patient"] = None
    examination = look(frame)
    check(named(examination, "group_missing"), "error", {"r003", "r050"}, ("patient",), "fill in the group")
    assert kinds(examination, "error") == {"group_missing"}, "two rows without a group do not share one"


def test_parts_that_nobody_knows() -> None:
    frame = loose(plain_table())
    frame.loc[:9, "part"] = ["Train", " train ", "TRAINING", "holdout", None, "", "train", "train", "val", "dev"]
    frame["patient"] = frame["id"]
    examination = look(frame)
    check(named(examination, "part_unknown"), "error", {"r003", "r004", "r005"}, ("part",), "write train, valid")


@pytest.mark.parametrize("word", ["train", "training", "valid", "val", "validation", "dev", "test", "Test "])
def test_every_usual_word_for_a_part_is_known(word: str) -> None:
    frame = loose(plain_table())
    frame.loc[:1, "part"] = word
    assert "part_unknown" not in kinds(look(frame))


def test_a_group_on_both_sides() -> None:
    frame = loose(plain_table())
    frame.loc[1, "part"] = "test"
    examination = look(frame)
    finding = named(examination, "group_across_parts")
    check(finding, "error", {"r000", "r001"}, ("patient",), "split by group")
    assert (finding.evidence["groups"], finding.evidence["all_groups"]) == (1, 30)
    assert finding.evidence["constant_per_group"] == 1.0
    assert finding.evidence["majority"] == round(20 / 60, 4)


def test_a_group_whose_other_row_is_in_no_part_is_on_one_side() -> None:
    frame = loose(plain_table())
    frame.loc[1, "part"] = "elsewhere"
    assert kinds(look(frame), "error") == {"part_unknown"}


def test_one_group_with_all_rows() -> None:
    finding = named(look(plain_table().assign(patient="p")), "group_across_parts")
    assert len(finding.rows) == 60
    assert (finding.evidence["groups"], finding.evidence["all_groups"]) == (1, 1)
    assert finding.evidence["constant_per_group"] == finding.evidence["majority"]


def test_a_class_of_one_row() -> None:
    frame = loose(plain_table())
    frame.loc[4, "organ"] = "spleen"
    examination = look(frame)
    check(named(examination, "class_single_row"), "error", {"r004"}, ("organ",), "merge the class")
    assert "spleen" in named(examination, "class_single_row").evidence["what"]
    assert "class_too_small" not in kinds(examination), "one finding is enough for one row"


@pytest.mark.parametrize(("rows", "small"), [([0, 1], True), ([0, 2], True), ([0, 1, 2, 3], True), ([0, 2, 4], False)])
def test_a_class_needs_three_groups(rows: list[int], small: bool) -> None:
    frame = loose(plain_table())
    frame.loc[rows, "organ"] = "spleen"
    examination = look(frame)
    assert ("class_too_small" in kinds(examination)) == small
    if small:
        names = {f"r{row:03d}" for row in rows}
        check(named(examination, "class_too_small"), "warn", names, ("organ",), "merge the class")
        assert f"spleen: {len({row // 2 for row in rows})}" in named(examination, "class_too_small").evidence["what"]


@pytest.mark.parametrize(("count", "small"), [(2, True), (3, False)])
def test_a_class_needs_three_rows_where_there_are_no_groups(count: int, small: bool) -> None:
    frame = loose(plain_table())
    frame.loc[: count - 1, "organ"] = "spleen"
    examination = look(frame, group=None)
    assert ("class_too_small" in kinds(examination)) == small
    assert not small or "fewer than 3 rows" in named(examination, "class_too_small").evidence["what"]


@pytest.mark.parametrize("value", ["heart", 1, True])
def test_one_class_is_nothing_to_learn(value: Any) -> None:
    finding = named(look(plain_table().assign(organ=value)), "class_too_small")
    assert (finding.severity, finding.rows, finding.columns) == ("error", (), ("organ",))
    assert "1 value(s)" in finding.evidence["what"]
    assert "nothing to learn" in finding.evidence["what"]


def test_no_label_at_all_is_nothing_to_learn() -> None:
    examination = look(plain_table().assign(organ=None))
    assert "0 value(s)" in named(examination, "class_too_small").evidence["what"]
    assert len(named(examination, "label_missing").rows) == 60


def test_a_class_without_a_training_row() -> None:
    frame = loose(plain_table())
    lungs = frame.index[(frame["organ"] == "lung") & (frame["part"] == "train")]
    frame.loc[lungs, "organ"] = "heart"
    examination = look(frame)
    rows = set(frame.loc[frame["organ"] == "lung", "id"])
    check(named(examination, "class_not_in_training"), "error", rows, ("organ",), "move rows of the class")
    assert "lung" in named(examination, "class_not_in_training").evidence["what"]
    frame.loc[lungs[0], "organ"] = "lung"
    assert "class_not_in_training" not in kinds(look(frame)), "one training row is one"


def test_a_class_that_is_only_in_no_part_is_not_judged() -> None:
    frame = loose(plain_table())
    frame.loc[[0, 2, 4], ["organ", "part"]] = ["spleen", "elsewhere"]
    assert "class_not_in_training" not in kinds(look(frame.assign(patient=frame["id"])))


def test_without_any_training_row_no_class_is_blamed() -> None:
    assert "class_not_in_training" not in kinds(look(plain_table().assign(part="test")))


@pytest.mark.parametrize("values", [[1, 2, 3], [True, False, True], [0.5, 1.5, 2.5], ["1", "2", " 3 "]])
def test_labels_may_be_numbers_or_truth_values(values: list[Any]) -> None:
    frame = plain_table()
    frame["organ"] = [values[row // 2 % 3] for row in range(60)]
    examination = look(frame)
    assert kinds(examination) <= NORMAL
    assert len(examination.findings) > 0
    frame = frame.astype({"organ": object})
    frame.loc[4, "organ"] = None
    assert named(look(frame), "label_missing").rows == ("r004",)


def test_a_split_that_was_made_is_checked_for_groups_alone() -> None:
    frame = plain_table()
    examination = look(frame, split=None)
    parts = np.where(np.arange(60) % 2, 2, 0).astype(np.int8)
    ids = pd.Series(frame["id"].to_numpy()[::-1].copy())
    examination.check_split(Split(ids, parts[::-1].copy(), "by hand"))
    assert len(named(examination, "group_across_parts").rows) == 60, "rows are known by their ids, not their places"
    assert "part_unknown" not in kinds(examination)
    without = examine_split(look(frame.assign(part="train")).examined)
    assert [f.kind for f in without] == []


@pytest.mark.parametrize("labels", [[0, 1, 1, 2, 2, 2], [-1, 1, 1, -1, 2, 2]])
def test_the_best_constant_per_group_by_hand(labels: list[int]) -> None:
    codes, truth = np.array([0, 0, 0, 1, 1, -1]), np.array(labels)
    # Group 0: label 1 twice. Group 1: label 2. The last row is of no group.
    some = (codes >= 0) & (truth >= 0)
    best = sum(np.bincount(truth[some & (codes == code)]).max() for code in (0, 1))
    assert constant_accuracy(codes, truth) == round(best / some.sum(), 4)
