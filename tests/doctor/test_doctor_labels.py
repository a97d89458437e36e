"""Label errors: swapped labels come first, honest ones are left alone, and no name of a class matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import kinds, look, named

from fusetune.doctor.examine import Examination
from fusetune.doctor.labels import crossed_probabilities, doubt, margins, ranked_suspects


def clear_table(rows: int = 200, overlap: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Return two classes whose vectors lie 20 apart; no column alone is a cell that could give them away."""
    generator = np.random.default_rng(seed)
    code = np.arange(rows) % 2
    return pd.DataFrame(
        {
            "id": [f"r{row:03d}" for row in range(rows)],
            "v_size": 20.0 * code + generator.normal(0, overlap, rows),
            "v_width": generator.normal(0, 1, rows),
            "y": np.array(["cat", "dog"])[code],
        }
    )


def other(label: str) -> str:
    return "dog" if label == "cat" else "cat"


def examined(frame: pd.DataFrame, **roles: Any) -> Examination:
    roles = {"label": "y", "inputs": [], "vectors": {"v": "v_*"}, "group": None, "split": None, **roles}
    return look(frame, **roles)


def test_swapped_labels_come_first() -> None:
    frame = clear_table()
    swapped = [7, 60, 101, 150]
    for row in swapped:
        frame.loc[row, "y"] = other(frame.at[row, "y"])
    finding = named(examined(frame), "label_errors")
    assert finding.severity == "warn"
    assert set(finding.rows) == {f"r{row:03d}" for row in swapped}
    assert finding.columns == ("y",)
    assert (finding.evidence["confident"], finding.evidence["checked"], finding.evidence["count"]) == (4, 200, 4)
    assert finding.evidence["model_accuracy"] == 0.98
    assert "4 of 200 labels are likely to be wrong" in finding.evidence["what"]
    for name, suspect in zip(finding.rows, finding.evidence["suspects"], strict=True):
        stated = frame.set_index("id").at[name, "y"]
        assert (suspect["row"], suspect["label"], suspect["likely"]) == (name, stated, other(stated))
        assert suspect["p_label"] < 0.2
        assert suspect["p_label"] + suspect["p_likely"] == pytest.approx(1, abs=1e-3)
    assert "correct labels that are wrong" in finding.remedy


def test_honest_labels_are_left_alone() -> None:
    assert "label_errors" not in kinds(examined(clear_table()))


def test_a_label_that_is_merely_doubted_is_information() -> None:
    frame = clear_table()
    # Between the classes, a little nearer to the other one: not as likely as rows of that class usually are.
    frame.loc[0, "v_size"] = 10.6
    finding = named(examined(frame), "label_errors")
    assert (finding.severity, finding.rows, finding.evidence["confident"]) == ("info", ("r000",), 0)
    frame.loc[0, "v_size"] = 9.0
    assert "label_errors" not in kinds(examined(frame))


def test_at_most_a_tenth_is_listed_beside_the_confident_ones() -> None:
    finding = named(examined(clear_table(overlap=10.0)), "label_errors")
    assert 0 < finding.evidence["confident"] < finding.evidence["count"] == 20, "of 200 rows"
    assert len(finding.rows) == len(set(finding.rows)) == len(finding.evidence["suspects"]) == 20
    finding = named(examined(clear_table(overlap=40.0)), "label_errors")
    assert finding.evidence["confident"] == finding.evidence["count"] > 20, "what is certain is listed whole"


@pytest.mark.parametrize(("count", "checked"), [(4, 200), (5, 205)])
def test_a_class_needs_a_row_per_fold_to_be_doubted(count: int, checked: int) -> None:
    few = clear_table(count).assign(y="bat", id=[f"b{row}" for row in range(count)], v_size=-60.0)
    frame = pd.concat([clear_table(), few], ignore_index=True)
    doubts = doubt(examined(frame).examined, examined(frame).features)
    assert doubts is not None
    assert len(doubts.rows) == checked


@pytest.mark.parametrize("change", [{"label": None}, {"vectors": None}])
def test_without_labels_or_inputs_nothing_is_doubted(change: dict[str, Any]) -> None:
    assert "label_errors" not in kinds(examined(clear_table(), **change))


def test_rows_without_a_label_are_not_doubted() -> None:
    frame = clear_table().astype({"y": object})
    frame.loc[[3, 5], "y"] = None
    frame.loc[7, "y"] = "cat"
    finding = named(examined(frame), "label_errors")
    assert finding.rows == ("r007",)
    assert finding.evidence["checked"] == 198


def test_a_column_that_holds_the_label_does_not_vouch_for_it() -> None:
    frame = clear_table()
    frame.loc[7, "y"] = other(frame.at[7, "y"])
    frame["same"] = frame["y"].map({"cat": 1.5, "dog": 9.5})
    finding = named(examined(frame, inputs=["same"]), "label_errors")
    assert finding.rows == ("r007",)


def test_labels_of_the_group_are_evidence() -> None:
    frame = clear_table(overlap=30.0)
    frame["patient"] = [f"p{row // 8}" for row in range(200)]
    frame["y"] = np.array(["cat", "dog"])[np.arange(200) // 8 % 2]
    for row in (3, 30, 90):
        frame.loc[row, "y"] = other(frame.at[row, "y"])
    finding = named(examined(frame, group="patient"), "label_errors")
    assert set(finding.rows[:3]) == {"r003", "r030", "r090"}


def noisy(seed: int, classes: int) -> tuple[np.ndarray[Any, Any], ...]:
    generator = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes).repeat(8), generator.integers(0, classes, 40)]
    centres = generator.normal(0, 4, (classes, 3))
    features = (centres[labels] + generator.normal(size=(len(labels), 3))).astype(np.float32)
    labels[:3] = (labels[:3] + 1) % classes
    return features, labels, generator.integers(0, 5, len(labels)), generator.permutation(classes)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_suspects_do_not_depend_on_what_classes_are_called(seed: int, classes: int) -> None:
    features, labels, folds, renamed = noisy(seed, classes)
    here = crossed_probabilities(features, labels, folds)
    there = crossed_probabilities(features, renamed[labels], folds)
    assert np.allclose(here, there[:, renamed], atol=2e-3)
    assert (
        ranked_suspects(labels, here).tolist()
        == ranked_suspects(renamed[labels], here[:, np.argsort(renamed)]).tolist()
    )


def test_each_row_is_judged_by_a_model_that_did_not_see_its_fold() -> None:
    features, labels, folds, _ = noisy(3, 3)
    before = crossed_probabilities(features, labels, folds)
    changed = labels.copy()
    changed[folds == 2] = (labels[folds == 2] + 1) % 3
    after = crossed_probabilities(features, changed, folds)
    assert np.array_equal(before[folds == 2], after[folds == 2])
    assert not np.allclose(before[folds != 2], after[folds != 2])


def test_a_class_that_no_other_fold_has_is_improbable_not_impossible() -> None:
    labels, folds = np.array([0, 1] * 10 + [2] * 3), np.array([0, 1, 2, 3] * 5 + [4] * 3)
    features = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32)
    chances = crossed_probabilities(features, labels, folds)
    assert np.allclose(chances.sum(1), 1)
    assert (chances > 0).all()
    assert chances[20:, 2].max() < 1e-5


def test_margins_by_hand() -> None:
    frame = clear_table()
    examination = examined(frame)
    doubts = doubt(examination.examined, examination.features)
    assert doubts is not None
    naive = [
        max(chance for k, chance in enumerate(row) if k != label) - row[label]
        for row, label in zip(doubts.probabilities.tolist(), doubts.labels.tolist(), strict=True)
    ]
    assert margins(doubts).tolist() == pytest.approx(naive)
