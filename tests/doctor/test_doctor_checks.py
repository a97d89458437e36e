from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _faults import COUNTS, false_alarms, found_of, plant
from planted import kinds, named
from tiny import tiny_table

import fusetune.doctor.examined as tables
from fusetune.config.checks import ACTIONS, DEFAULTS
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.split import make_split
from fusetune.data.table import Table, read_table
from fusetune.doctor.columns import crossed_accuracy
from fusetune.doctor.duplicates import spare
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.examined import Examined
from fusetune.doctor.findings import CERTAINTIES, INFERRED, Finding, counts
from fusetune.doctor.groups import constant_accuracy
from fusetune.doctor.labels import doubt, group_shares
from fusetune.doctor.leaks import nearest_agreement
from fusetune.doctor.treat import treat
from fusetune.errors import TableError

ROLES = {"label": "organ", "group": "patient", "split": "part"}


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return tiny_table(tmp_path)


def look(frame: pd.DataFrame, root: Path, **roles: Any) -> Examination:
    table = Table(frame.reset_index(drop=True), "t", root)
    named = {**ROLES, "inputs": ["scan", "note", "age", "site"], **roles}
    return examine(table, infer_schema(table, Roles(**named)), pixel_limit=10_000_000)


def test_a_clean_table_has_no_error(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert kinds(look(frame, tmp_path), "error") == set()


def test_planted_faults_are_found(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("medpix2")
    clean = pd.read_csv(root / "manifest.csv")
    clean = clean[pd.factorize(clean["uid"])[0] % 4 == 0].reset_index(drop=True)
    planted = plant(clean, root, tmp_path)
    assert sum(map(len, planted.faults.values())) == sum(COUNTS.values()) == 40
    examination = look(
        planted.frame, root, label="label", group="uid", split="split", row_id="id",
        inputs=["image", "history", "age", "sex", "region_code"],
    )  # fmt: skip
    faults = found_of(planted, examination.findings)
    for kind in COUNTS.keys() - {"label_errors"}:
        assert faults[kind] == planted.faults[kind]
    assert false_alarms(planted, examination.findings) == []
    doubts = doubt(examination.examined, examination.features)
    assert doubts is not None
    order = examination.examined.ids.iloc[doubts.rows[doubts.order]].tolist()
    assert max(order.index(name) for name in planted.faults["label_errors"]) < 0.1 * len(order)


@pytest.mark.parametrize("task", ["head", "arm"])
def test_frames_leak_and_streams_do_not(shared_data: Callable[[str], Path], task: str) -> None:
    shared_data("fpus23_annotations")
    from doctor import look_at_frames

    leaking, clean = look_at_frames(task, "frame"), look_at_frames(task, "stream")
    assert kinds(leaking, "error") == {"group_across_parts", "neighbours_across_parts"}
    assert kinds(clean, "error") == set()
    assert kinds(clean, "warn") <= {"label_errors"}
    location = {"head": 0.9053, "arm": 0.8735}[task]
    assert named(clean, "column_scores").evidence["columns"]["location"]["fitted"] == location
    constant = {"head": 0.9606, "arm": 0.9248}[task]
    assert named(leaking, "group_across_parts").evidence["constant_per_group"] == constant
    nearest = named(leaking, "neighbours_across_parts").evidence
    assert nearest["agreement"] > 0.99 > nearest["agreement_other_groups"] + 0.2


def test_copies_are_told_apart_by_part_and_label(frame: pd.DataFrame, tmp_path: Path) -> None:
    train = frame.index[frame["part"] == "train"]
    copies = frame.loc[[train[0], train[1]]].copy()
    copies["case_id"], copies["patient"], copies["part"] = ["new-1", "new-2"], ["new-1", "new-2"], ["test", "train"]
    copies.loc[train[1], "organ"] = "liver" if copies.at[train[1], "organ"] != "liver" else "lung"
    both = pd.concat([frame, copies])
    examination = look(both, tmp_path)
    first, second = frame.at[train[0], "case_id"], frame.at[train[1], "case_id"]
    assert set(named(examination, "duplicate_rows_across_parts").rows) == {first, "new-1"}
    assert "duplicate_rows" not in kinds(examination, "warn"), "nobody knows which of two labels is right"
    assert set(named(examination, "conflicting_labels").rows) == {second, "new-2"}
    done = treat(examination, DEFAULTS)
    assert done.dropped["duplicate_rows_across_parts"] == [first], "the training side goes"
    assert len(done.table) == len(both) - 1
    assert len(done.lines) == 1


def test_rows_are_no_copies_if_anything_in_them_differs(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.loc[[1, 2, 3, 4, 5, 6], ["age", "site", "part", "organ"]] = [50.0, "site 1", "train", "heart"]
    frame.loc[[1, 2], "note"], frame.loc[[3, 4], "scan"] = ["left", "right"], frame.at[3, "scan"]
    frame.loc[[1, 2], "scan"] = frame.at[1, "scan"]
    frame.loc[[3, 4], "note"] = ["one and the same long report", "One and the same long report!"]
    frame.loc[[5, 6], "note"] = "one more and the same long report"
    for row in (5, 6):
        (tmp_path / frame.at[row, "scan"]).write_bytes(b"broken")
    assert set(named(look(frame, tmp_path), "duplicate_rows").rows) == {"case-003", "case-004"}


def test_policies_mask_cells_and_leave_columns_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(b"")
    frame["telling"] = frame["organ"].map({"heart": 1, "liver": 2, "lung": 3})
    examination = look(frame, tmp_path, inputs=["scan", "note", "age", "telling"])
    assert named(examination, "image_empty").rows == ("case-003",)
    done = treat(examination, {**DEFAULTS, "image_empty": "mask", "column_gives_label": "mask"})
    assert done.table.frame["scan"].isna().to_numpy().nonzero()[0].tolist() == [3]
    assert [c.name for c in done.schema.inputs] == ["scan", "note", "age"]
    assert frame["scan"].notna().all(), "the caller's table is not touched"
    with pytest.raises(TableError, match=r"(?s)image_empty: 1 of 96 pictures.*case-003"):
        treat(examination, {**DEFAULTS, "image_empty": "error"})


def test_a_split_that_is_made_later_is_checked_too(frame: pd.DataFrame, tmp_path: Path) -> None:
    examination = look(frame.drop(columns="part"), tmp_path, split=None)
    subject = examination.examined
    assert subject.labels is not None
    examination.check_split(make_split(subject.ids, subject.labels, how="stratified", seed=1))
    assert "group_across_parts" in kinds(examination, "error")


def test_labels_groups_and_parts_that_are_missing(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = frame.astype({"organ": object, "patient": object, "part": object})
    frame.loc[[1, 2], "organ"], frame.loc[5, "patient"], frame.loc[7, "part"] = None, None, "holdout"
    frame.loc[9, "organ"] = "spleen"
    examination = look(frame, tmp_path)
    assert named(examination, "label_missing").rows == ("case-001", "case-002")
    assert named(examination, "group_missing").rows == ("case-005",)
    assert named(examination, "part_unknown").rows == ("case-007",)
    assert named(examination, "class_single_row").rows == ("case-009",)


def test_columns_that_say_nothing(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["same"], frame["counter"] = 4.0, np.arange(len(frame))
    examination = look(frame, tmp_path, inputs=["age", "same", "counter"], kinds={"same": "number"})
    assert named(examination, "column_constant").columns == ("same",)
    assert named(examination, "column_like_id").columns == ("counter",)


def test_columns_give_the_label_together_only(frame: pd.DataFrame, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    big = pd.DataFrame({"a": generator.integers(0, 4, 600), "b": generator.integers(0, 4, 600)})
    big["y"] = (big["a"] + big["b"]) % 2
    big["a"], big["b"] = "a" + big["a"].astype(str), "b" + big["b"].astype(str)
    examination = look(big, tmp_path, label="y", group=None, split=None, inputs=["a", "b"])
    assert named(examination, "columns_give_label").evidence["accuracy"] == 1.0
    assert "column_gives_label" not in kinds(examination, "error")


def test_scores_equal_a_naive_loop() -> None:
    generator = np.random.default_rng(1)
    codes, labels, folds = generator.integers(0, 7, 200), generator.integers(0, 3, 200), generator.integers(0, 5, 200)
    right = 0
    for row in range(200):
        others = labels[(folds != folds[row]) & (codes == codes[row])]
        right += np.bincount(others, minlength=3).argmax() == labels[row]
    assert crossed_accuracy(codes, labels, folds) == right / 200
    best = sum(np.bincount(labels[codes == code]).max() for code in range(7))
    assert constant_accuracy(codes, labels) == round(best / 200, 4)


def test_nearest_rows_equal_a_naive_loop() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(60, 3)).astype(np.float32)
    features[5] = features[6]
    labels, groups = generator.integers(0, 2, 60), generator.integers(0, 9, 60)
    test, train = np.arange(5, 60, 5), np.setdiff1d(np.arange(60), np.arange(5, 60, 5))
    same, apart = nearest_agreement(features, labels, test, train, groups)
    assert apart is not None
    for place, row in enumerate(test):
        for result, rows in ((same, train), (apart, train[groups[train] != groups[row]])):
            distance = ((features[rows].astype(float) - features[row]) ** 2).sum(1)
            assert result[place] == (labels[rows[distance.argmin()]] == labels[row])


def test_equally_near_rows_share_the_vote() -> None:
    features = np.zeros((5, 1), dtype=np.float32)
    same, _ = nearest_agreement(features, np.array([0, 0, 1, 1, 1]), np.array([0]), np.array([1, 2, 3, 4]), None)
    assert same.tolist() == [0.25]


def test_the_rest_of_the_group_is_evidence() -> None:
    labels, groups = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    result = group_shares(labels, groups)
    # Row 2: the others of its group say 0 twice, and one row more is shared by the classes' shares of a half each.
    assert result[2].tolist() == pytest.approx([2.5 / 3, 0.5 / 3])
    assert result[3].tolist() == pytest.approx([0.5, 0.5])


def test_folds_and_sample_keep_groups_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SAMPLE", 100)
    frame = pd.DataFrame({"g": np.repeat(np.arange(80), 5), "x": np.random.default_rng(0).normal(size=400)})
    table = read_table(frame)
    subject = Examined.of(table, infer_schema(table, Roles(None, group="g")))
    assert len(subject.sample) == 100
    assert frame["g"].iloc[subject.sample].value_counts().eq(5).all()
    assert pd.Series(subject.folds).groupby(frame["g"]).nunique().eq(1).all()
    assert np.bincount(subject.folds, minlength=5).min() > 20


def test_what_is_spared_is_the_test_row(frame: pd.DataFrame, tmp_path: Path) -> None:
    table = Table(frame, "t", tmp_path)
    subject = Examined.of(table, infer_schema(table, Roles("organ", group="patient", split="part")))
    test, train = int(np.flatnonzero(frame["part"] == "test")[0]), int(np.flatnonzero(frame["part"] == "train")[0])
    assert spare(subject, [np.array([train, test])]).tolist() == [train]


def test_findings_are_plain_json_values() -> None:
    finding = Finding("image_tiny", "warn", ("a", "b"), ("scan",), {"what": "two"}, "look")
    assert finding.as_dict() == {
        "kind": "image_tiny", "severity": "warn", "rows": ["a", "b"], "columns": ["scan"],
        "evidence": {"what": "two"}, "remedy": "look", "certainty": "sure",
    }  # fmt: skip
    assert counts([finding]) == {"error": 0, "warn": 1, "info": 0}


def test_kinds_that_infer_are_documented_with_their_certainty() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    assert INFERRED.keys() <= ACTIONS.keys()
    assert {*INFERRED.values(), "sure"} == {*CERTAINTIES}
    scale = [line.split("**")[1] for line in page.splitlines() if line.startswith("- **")]
    assert scale == list(CERTAINTIES)


def test_every_kind_is_documented_with_its_policies() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert lines.keys() == ACTIONS.keys()
    for kind, actions in ACTIONS.items():
        policy = lines[kind].rsplit("|", 2)[1]
        assert {word.strip(" *") for word in policy.split(",")} == {*actions} - {"keep"}, kind
        assert (f"**{DEFAULTS[kind]}**" in policy) == (DEFAULTS[kind] != "keep")


def test_a_table_without_label_or_split_is_checked_for_the_rest(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["day"] = "2020-01-0" + (np.arange(len(frame)) % 9 + 1).astype(str)
    (tmp_path / "3.png").write_bytes(b"not a picture")
    examination = look(frame, tmp_path, label=None, group=None, split=None, inputs=["scan", "age", "day"])
    assert {f.kind for f in examination.findings} - {"column_constant", "column_like_id"} == {"image_unreadable"}
    dated = look(frame, tmp_path, inputs=["day", "age"])
    assert set(named(dated, "column_scores").evidence["columns"]) == {"day", "age"}
