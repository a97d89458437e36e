"""What findings may not depend on, how they are written, and tables of odd shapes that are examined all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import kinds, look, plain_table, with_pictures

from fusetune.config.checks import ACTIONS
from fusetune.doctor.examine import Examination
from fusetune.doctor.findings import Finding, by_severity, counts

INPUTS = ["scan", "note", "age", "site"]
# Fold and components of rows come from their place in the table, so what models say may differ by a little.
_MODELS = ("label_errors", "neighbours_across_parts", "neighbour_agreement")


def faulty(folder: Path) -> pd.DataFrame:
    """Return a table with a fault of almost every kind."""
    frame = with_pictures(plain_table(120), folder).astype({"organ": object, "patient": object, "part": object})
    (folder / "scan-3.png").unlink()
    (folder / "scan-5.png").write_bytes(b"")
    (folder / "scan-7.png").write_bytes(b"no picture")
    frame.loc[9, "note"], frame.loc[11, "note"] = "...", None
    frame.loc[90, ["note", "age", "site", "scan"]] = frame.loc[0, ["note", "age", "site", "scan"]]
    frame.loc[18, ["note", "age", "site", "scan"]] = frame.loc[12, ["note", "age", "site", "scan"]]
    frame.loc[30, "scan"], frame.loc[44, "note"] = frame.at[40, "scan"], frame.at[42, "note"]
    frame.loc[50, "organ"], frame.loc[52, "organ"], frame.loc[54, "patient"] = None, "spleen", None
    frame.loc[56, "part"], frame.loc[61, "part"] = "elsewhere", "test"
    return frame.assign(same=1, telling=pd.factorize(frame["organ"])[0] * 1.5)


def essence(examination: Examination) -> set[Any]:
    return {
        (
            f.kind, f.severity, frozenset(f.rows), frozenset(f.columns), f.remedy, f.evidence.get("count"),
            frozenset(frozenset(rows) for rows in f.evidence.get("sets", [])),
            frozenset(f.evidence.get("files", {}).items()),
        )
        for f in examination.findings if f.kind not in _MODELS
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return faulty(folder)


def everything(frame: pd.DataFrame, folder: Path) -> Examination:
    return look(frame, folder, inputs=[*INPUTS, "same", "telling"])


@pytest.fixture(scope="module")
def plain(frame: pd.DataFrame, folder: Path) -> Examination:
    return everything(frame, folder)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_findings_do_not_depend_on_the_order_of_rows(
    seed: int, frame: pd.DataFrame, folder: Path, plain: Examination
) -> None:
    shuffled = frame.sample(frac=1, random_state=seed)
    there = everything(shuffled, folder)
    assert essence(there) == essence(plain)
    places = {name: place for place, name in enumerate(shuffled["id"])}
    for finding in there.findings:
        if finding.rows and "sets" not in finding.evidence and finding.kind not in _MODELS:
            assert list(finding.rows) == sorted(finding.rows, key=places.__getitem__), "first rows first"


def test_nor_on_the_order_of_columns(frame: pd.DataFrame, folder: Path, plain: Examination) -> None:
    assert essence(everything(frame[frame.columns[::-1]], folder)) == essence(plain)


def test_an_examination_changes_nothing_and_repeats_itself(
    frame: pd.DataFrame, folder: Path, plain: Examination
) -> None:
    before = frame.copy()
    again = everything(frame, folder)
    pd.testing.assert_frame_equal(frame, before)
    assert [f.as_dict() for f in again.findings] == [f.as_dict() for f in plain.findings]


def test_findings_are_json_with_rows_that_exist(frame: pd.DataFrame, plain: Examination) -> None:
    findings = plain.findings
    assert {f.kind for f in findings} >= {
        "image_missing", "image_empty", "image_unreadable", "text_empty", "text_missing", "duplicate_rows",
        "duplicate_rows_across_parts", "duplicate_images", "duplicate_texts", "label_missing",
        "group_missing", "part_unknown",
        "group_across_parts", "class_single_row", "column_constant", "column_gives_label", "column_scores",
    }  # fmt: skip
    for finding in findings:
        plain = finding.as_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert plain.keys() == {"kind", "severity", "rows", "columns", "evidence", "remedy", "certainty"}
        assert finding.kind in ACTIONS
        assert set(finding.rows) <= set(frame["id"])
        assert set(finding.columns) <= set(frame.columns)
        assert len(set(finding.rows)) == len(finding.rows)
        assert finding.evidence["what"]
        assert finding.remedy


def test_errors_come_first_and_keep_their_order() -> None:
    order = ["warn", "info", "error", "warn", "error", "info"]
    findings = [Finding(f"k{i}", name, (), (), {}, "") for i, name in enumerate(order)]  # type: ignore[arg-type]
    assert [f.kind for f in by_severity(findings)] == ["k2", "k4", "k0", "k3", "k1", "k5"]
    assert counts(findings) == {"error": 2, "warn": 2, "info": 2}
    assert counts([]) == {"error": 0, "warn": 0, "info": 0}


ODD: list[tuple[str, dict[str, Any]]] = [
    ("one row", {}),
    ("one row", {"label": None, "group": None, "split": None}),
    ("two rows", {}),
    ("no cell", {}),
    ("one group", {}),
    ("no group", {}),
    ("no part", {}),
    ("no label", {}),
    ("no test label", {}),
    ("a class per row", {}),
]


@pytest.mark.parametrize(("shape", "roles"), ODD)
def test_tables_of_odd_shapes_are_examined(shape: str, roles: dict[str, Any], tmp_path: Path) -> None:
    frame = with_pictures(plain_table(40), tmp_path).assign(v_0=np.arange(40.0) % 7, v_1=np.arange(40.0) % 5)
    frame = frame.astype({"organ": object, "patient": object, "part": object})
    match shape:
        case "one row":
            frame = frame.head(1)
        case "two rows":
            frame = frame.iloc[[0, 30]]
        case "no cell":
            frame[["scan", "note", "age", "site", "v_0", "v_1"]] = None
            frame = frame.astype({"v_0": float, "v_1": float})
        case "one group":
            frame["patient"] = "p"
        case "no group":
            frame["patient"] = None
        case "no part":
            frame["part"] = None
        case "no label":
            frame["organ"] = None
        case "no test label":
            frame.loc[frame["part"] != "train", "organ"] = None
            frame["patient"] = "p"
        case _:
            frame["organ"] = frame["id"]
    kinds_ = {"scan": "image", "note": "text", "age": "number", "site": "category"}
    examination = look(frame, tmp_path, inputs=INPUTS, kinds=kinds_, vectors={"v": "v_*"}, **roles)
    for finding in examination.findings:
        json.dumps(finding.as_dict(), allow_nan=False)
    allowed = {
        "group_missing", "group_across_parts", "part_unknown", "label_missing", "class_single_row", "class_too_small",
        "class_not_in_training",
    }  # fmt: skip
    assert kinds(examination, "error") <= allowed


def named_table() -> pd.DataFrame:
    frame = plain_table(80, seed=1).astype({"organ": object})
    frame.loc[4, "organ"], frame.loc[5, "part"] = None, "test"
    frame.loc[30, "note"] = frame.at[42, "note"]
    return frame


@pytest.fixture(scope="module")
def unnamed() -> set[Any]:
    """What is found in that table, apart from its columns."""
    return {facts for facts in essence(look(named_table())) if "column" not in facts[0]}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_names_of_labels_groups_and_ids_do_not_matter(seed: int, unnamed: set[Any]) -> None:
    generator, frame = np.random.default_rng(seed), named_table()
    names = generator.permutation(40)
    other = frame.assign(
        organ=frame["organ"].map({"heart": 3, "liver": 1, "lung": 2}), patient=[names[row // 2] for row in range(80)]
    )
    assert {facts for facts in essence(look(other)) if "column" not in facts[0]} == unnamed


def test_sampled_rows_are_all_rows_up_to_the_limit() -> None:
    subject = look(plain_table()).examined
    assert subject.sample.tolist() == list(range(60))
    assert sorted(set(subject.folds.tolist())) == [0, 1, 2, 3, 4]


def test_rows_without_a_group_are_units_of_their_own() -> None:
    frame = plain_table(8).astype({"patient": object}).assign(patient=["b", None, "a", "b", None, "a", " a ", None])
    units = look(frame).examined.units
    assert units[[2, 5, 6]].tolist() == [units[2]] * 3
    assert units[0] == units[3]
    assert len(set(units.tolist())) == 5
    everyone = look(frame.drop(columns="patient"), group=None).examined.units
    assert everyone.tolist() == list(range(8))
