"""The policy: for every kind and every action, what is named is done, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from planted import look, plain_table

from fusetune.config.checks import ACTIONS, DEFAULTS, Action
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.doctor.duplicates import spare
from fusetune.doctor.examine import Examination, copy_numbers, examine
from fusetune.doctor.findings import Finding
from fusetune.doctor.treat import Treatment, refuse, treat
from fusetune.errors import TableError

FAMILIES = ("duplicate_rows", "duplicate_images", "near_duplicate_images", "duplicate_texts")
ALLOWED = [(kind, action) for kind, actions in ACTIONS.items() for action in actions]
# Rows 2, 5 and 9 are named; as copies they are one set. By their parts (train, valid, test) the last one stays.
ROWS = (2, 5, 9)


def kept(**actions: Action) -> dict[str, Action]:
    return {**dict.fromkeys(ACTIONS, "keep"), **actions}


def family(kind: str) -> str | None:
    plain = kind.removesuffix("_across_parts")
    return plain if plain in FAMILIES else None


@cache
def plain() -> Examination:
    return look(plain_table(20).assign(other=1.5))


def with_finding(kind: str, severity: str = "error", rows: tuple[int, ...] = ROWS) -> Examination:
    """Return a table with a finding, and with the copies that it is about."""
    if kind.startswith("column"):
        rows = ()
    about = () if family(kind) == "duplicate_rows" else ("note",)
    finding = Finding(kind, severity, tuple(f"r{row:03d}" for row in rows), about, {"what": "something"}, "do it")  # type: ignore[arg-type]
    copies = {name: {about: [np.array(rows)]} if name == family(kind) else {} for name in FAMILIES}
    return replace(plain(), findings=[finding], copies=copies)


def unchanged(treatment: Treatment, frame: pd.DataFrame) -> None:
    assert_frame_equal(treatment.table.frame, frame)
    assert treatment.as_dict() == {"dropped": {}, "masked": {}, "done": []}


@pytest.mark.parametrize(("kind", "action"), ALLOWED)
def test_every_action_of_every_kind_does_what_it_says(kind: str, action: Action) -> None:
    examination = with_finding(kind)
    frame = examination.examined.table.frame.copy()
    schema = examination.examined.schema
    policy = kept(**{kind: action})
    if action == "error":
        with pytest.raises(TableError, match=rf"(?s)refused.*- {kind}: something.*; do it"):
            treat(examination, policy)
        return
    treatment = treat(examination, policy)
    assert_frame_equal(examination.examined.table.frame, frame)  # the caller's table
    rows = list(ROWS)
    if action == "keep":
        unchanged(treatment, frame)
    elif action == "drop":
        gone = rows[:-1] if family(kind) else rows
        assert_frame_equal(treatment.table.frame, frame.drop(index=gone).reset_index(drop=True))
        assert treatment.dropped == {kind: [f"r{row:03d}" for row in gone]}
        assert treatment.masked == {}
        assert treatment.lines == [f"dropped {len(gone)} row(s) for {kind}: something"]
    elif kind.startswith("column"):
        assert_frame_equal(treatment.table.frame, frame)
        assert [c.name for c in treatment.schema.inputs] == ["age"]
        assert [c for c in treatment.schema.columns if c.name != "note"] == [
            c for c in schema.columns if c.name != "note"
        ]
        assert treatment.lines == [f"left out note for {kind}: something"]
    else:
        assert_frame_equal(treatment.table.frame.drop(columns="note"), frame.drop(columns="note"))
        empty = treatment.table.frame["note"].isna()
        assert empty.to_numpy().nonzero()[0].tolist() == rows
        assert treatment.table.frame["note"][~empty].tolist() == frame["note"].drop(index=rows).tolist()
        assert treatment.masked == {kind: [f"r{row:03d}" for row in rows]}
        assert treatment.dropped == {}
        assert treatment.lines == [f"emptied 3 cell(s) for {kind}: something"]
    if kind.startswith("column") is False:
        assert treatment.schema == schema


@pytest.mark.parametrize(("kind", "action"), ALLOWED)
def test_information_is_never_acted_on(kind: str, action: Action) -> None:
    examination = with_finding(kind, "info")
    unchanged(treat(examination, kept(**{kind: action})), examination.examined.table.frame)


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_default_leaves_out_copies_and_nothing_else(kind: str) -> None:
    examination = with_finding(kind)
    treatment = treat(examination, DEFAULTS)
    if kind.startswith("duplicate_rows"):
        assert treatment.dropped == {kind: ["r002", "r005"]}
    else:
        unchanged(treatment, examination.examined.table.frame)


def test_refusing_names_every_reason_and_only_those() -> None:
    findings = [
        Finding("image_empty", "error", ("a", "b"), ("scan",), {"what": "2 pictures"}, "copy again"),
        Finding("column_constant", "warn", (), ("age",), {"what": "1 column"}, "leave out"),
        Finding("text_empty", "warn", ("c",), ("note",), {"what": "1 text"}, "empty it"),
        Finding("text_missing", "info", ("d",), ("note",), {"what": "1 cell"}, "nothing"),
    ]
    policy = kept(image_empty="error", column_constant="error", text_missing="error")
    with pytest.raises(TableError) as caught:
        refuse(findings, policy)
    assert str(caught.value).splitlines() == [
        "the table was refused, as doctor.policy asks:",
        "  - image_empty: 2 pictures (rows a, b) (sure); copy again",
        "  - column_constant: 1 column (sure); leave out",
    ]
    refuse(findings, kept(text_missing="error"))


@pytest.mark.parametrize("across", ["", "_across_parts"])
@pytest.mark.parametrize("name", ["duplicate_images", "near_duplicate_images", "duplicate_texts"])
def test_copies_in_one_column_are_not_dropped_for_another(name: str, across: str) -> None:
    kind = name + across
    one, other = [np.array([0, 1]), np.array([2, 3])], [np.array([1, 2])]
    copies = {name: {("scan",): one, ("slide",): other}}
    rows = ("r000", "r001", "r002", "r003")
    finding = Finding(kind, "error", rows, ("scan",), {"what": "x"}, "y")
    examination = replace(plain(), findings=[finding], copies=copies)
    assert treat(examination, kept(**{kind: "drop"})).dropped == {kind: ["r001", "r003"]}


def test_of_a_set_only_the_named_rows_are_dropped() -> None:
    examination = with_finding("duplicate_images", rows=(0, 1, 2, 3))
    (finding,) = examination.findings
    # The set goes on beyond the part that the finding is about.
    examination.copies["duplicate_images"]["note",] = [np.array([0, 1, 2, 3, 7])]
    treatment = treat(examination, kept(duplicate_images="drop"))
    assert treatment.dropped == {finding.kind: ["r001", "r002", "r003"]}


@pytest.mark.parametrize(
    ("parts", "stays"),
    [
        (["train", "test", "test"], 1),
        (["valid", "train", "train"], 0),
        (["train", "train", "train"], 0),
        (["x", "x", "train"], 2),
    ],
)
def test_the_copy_that_stays(parts: list[str], stays: int) -> None:
    frame = plain_table(20).astype({"part": object})
    frame.loc[:2, "part"] = parts
    gone = spare(look(frame).examined, [np.array([0, 1, 2])]).tolist()
    assert gone == [row for row in range(3) if row != stays]
    assert spare(look(frame).examined, []).tolist() == []


def test_several_findings_act_together() -> None:
    examination = with_finding("image_empty", rows=(1, 2))
    examination.findings += [
        Finding("text_empty", "warn", ("r003",), ("note", "site"), {"what": "x"}, "y"),
        Finding("label_missing", "error", ("r001", "r004"), ("organ",), {"what": "x"}, "y"),
        Finding("column_constant", "warn", (), ("age",), {"what": "x"}, "y"),
    ]
    policy = kept(image_empty="drop", text_empty="mask", label_missing="drop", column_constant="mask")
    treatment = treat(examination, policy)
    frame = treatment.table.frame
    assert frame["id"].tolist() == [f"r{row:03d}" for row in range(20) if row not in (1, 2, 4)]
    assert frame.loc[frame["note"].isna(), "id"].tolist() == frame.loc[frame["site"].isna(), "id"].tolist() == ["r003"]
    assert frame["other"].notna().all()
    assert [c.name for c in treatment.schema.inputs] == ["note"]
    assert treatment.schema.columns[2].reason == "left out by doctor.policy"
    assert len(treatment.lines) == 4


def test_a_policy_that_leaves_no_row_is_refused() -> None:
    examination = with_finding("label_missing", rows=tuple(range(20)))
    with pytest.raises(TableError, match="drops every row"):
        treat(examination, kept(label_missing="drop"))


def test_the_users_own_index_goes_with_the_rows() -> None:
    frame = plain_table(20).astype({"organ": object})
    frame.loc[4, "organ"] = None
    frame.index = pd.Index([f"mine {row}" for row in range(20)])
    table = read_table(frame)
    examination = examine(table, infer_schema(table, Roles("organ", row_id="id", inputs=["age"])), pixel_limit=1000)
    treated = treat(examination, kept(label_missing="drop")).table
    assert treated.index is not None
    assert treated.index.tolist() == [f"mine {row}" for row in range(20) if row != 4]
    assert treated.frame.index.tolist() == list(range(19))


def test_without_ids_rows_keep_their_numbers_and_their_copies() -> None:
    frame = pd.DataFrame({"note": [f"note number {row} is long" for row in range(40)], "kind": list("ab") * 20})
    frame = pd.concat([frame.iloc[[5]], frame, frame.iloc[[9]].assign(kind="a")], ignore_index=True)
    table = read_table(frame)
    schema = infer_schema(table, Roles("kind", inputs=["note"]))
    examination = examine(schema.read(table), schema, pixel_limit=10**6)
    left = treat(examination, DEFAULTS)
    (gone,) = (rows for kind, rows in left.dropped.items() if kind == "duplicate_rows")
    ids = left.table.ids(None)
    assert sorted([*ids.astype(int), *map(int, gone)]) == list(range(len(frame))) and gone
    for row, number in enumerate(ids.astype(int)):
        assert left.table.frame["note"][row] == frame["note"][number]
    numbers = copy_numbers(left.table, left.schema, examination)
    (pair,) = (
        np.flatnonzero(numbers == number) for number in set(numbers[numbers >= 0]) if (numbers == number).sum() > 1
    )
    assert set(ids.iloc[pair]) == {"10", "41"}  # the same words with another label
    assert left.table.take(np.array([3, 1])).ids(None).tolist() == ids.iloc[[3, 1]].tolist()
