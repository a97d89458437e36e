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
from fusetune.doctor.labels import Doubt, crossed_probabilities, doubt
from fusetune.doctor.noise import estimate


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


def doubts_of(frame: pd.DataFrame, **roles: Any) -> Doubt:
    examination = examined(frame, **roles)
    doubts = doubt(examination.examined, examination.features)
    assert doubts is not None
    return doubts


def test_swapped_labels_come_first() -> None:
    frame = clear_table()
    swapped = [7, 33, 60, 88, 101, 150, 171, 190]
    for row in swapped:
        frame.loc[row, "y"] = other(frame.at[row, "y"])
    finding = named(examined(frame), "label_errors")
    assert (finding.severity, finding.certainty) == ("warn", "likely")
    assert set(finding.rows) == {f"r{row:03d}" for row in swapped}
    assert finding.columns == ("y",)
    assert [finding.evidence[name] for name in ("likely", "possible", "checked", "count")] == [8, 0, 200, 8]
    low, high = finding.evidence["interval"]
    assert low < 8 / 200 <= high < 0.1
    assert finding.evidence["share"] == pytest.approx(8 / 200, abs=0.01)
    assert "8 of 200 labels are likely to be wrong" in finding.evidence["what"]
    for name, suspect in zip(finding.rows, finding.evidence["suspects"], strict=True):
        stated = frame.set_index("id").at[name, "y"]
        assert (suspect["row"], suspect["label"], suspect["likely"]) == (name, stated, other(stated))
        assert suspect["p_label"] < 0.2
        assert suspect["p_wrong"] > 0.5
        assert suspect["p_label"] + suspect["p_likely"] == pytest.approx(1, abs=1e-3)
    assert "correct labels that are wrong" in finding.remedy


def test_honest_labels_are_left_alone() -> None:
    assert "label_errors" not in kinds(examined(clear_table()))


def test_one_odd_row_is_possible_and_no_more() -> None:
    frame = clear_table()
    frame.loc[0, "y"] = "dog"
    finding = named(examined(frame), "label_errors")
    assert (finding.severity, finding.certainty, finding.rows[0]) == ("info", "possible", "r000")
    assert (finding.evidence["likely"], finding.evidence["share"], finding.evidence["interval"][0]) == (0, 0, 0)
    assert "no label is shown to be wrong" in finding.evidence["what"]


def hard_table(kind: str, seed: int, rows: int = 800) -> pd.DataFrame:
    """Return a table that is right by construction and that no model can learn well."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 6))
    if kind == "faint":  # five classes, drawn from probabilities that are nearly flat
        code = (0.5 * x[:, :5] + generator.gumbel(size=(rows, 5))).argmax(1)
    elif kind == "rare":  # the same, of very different sizes
        code = (0.4 * x[:, :5] + np.log([60, 25, 10, 4, 1]) + generator.gumbel(size=(rows, 5))).argmax(1)
    else:  # quarters of a number; half of its spread cannot be seen
        number = {"quarters": x[:, 0], "bent quarters": np.exp(x[:, 0]) + x[:, 1] ** 2}[kind]
        number = number + 0.7 * generator.normal(size=rows)
        code = np.searchsorted(np.quantile(number, [0.25, 0.5, 0.75]), number)
    frame = pd.DataFrame(x, columns=[f"v_{k}" for k in range(6)])
    return frame.assign(id=[f"r{row}" for row in range(rows)], y=[f"class {k}" for k in code])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["faint", "rare", "quarters", "bent quarters"])
def test_a_hard_table_that_is_right_has_no_likely_error(kind: str, seed: int) -> None:
    doubts = doubts_of(hard_table(kind, seed))
    assert doubts.agreement < 0.75, "the table is hard"
    assert not len(doubts.likely())
    assert len(doubts.possible()) <= 0.05 * len(doubts.rows)
    assert not doubts.noise.shown


@pytest.mark.parametrize("share", [0.05, 0.15])
@pytest.mark.parametrize("kind", ["quarters", "clear"])
def test_the_share_of_wrong_labels_is_within_its_interval(kind: str, share: float) -> None:
    frame = clear_table(800, overlap=5.0) if kind == "clear" else hard_table(kind, 3)
    generator = np.random.default_rng(5)
    swapped = generator.permutation(800)[: int(share * 800)]
    codes, names = pd.factorize(frame["y"], sort=True)
    codes[swapped] = (codes[swapped] + generator.integers(1, len(names), len(swapped))) % len(names)
    doubts = doubts_of(frame.assign(y=names[codes]))
    assert doubts.noise.low <= share <= doubts.noise.high
    if kind == "clear":
        likely = doubts.likely()
        right = np.isin(likely, swapped).sum()
        assert right / len(likely) > 0.85, "precision"
        assert right / len(swapped) > 0.85, "recall"


def test_the_likelihood_by_hand() -> None:
    """Of two classes that are written equally often, an error turns one into the other."""
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 2
    chances = np.clip(0.5 + (labels - 0.5) * 0.9 + generator.normal(0, 0.04, 300), 0.02, 0.98)
    chances = np.stack([1 - chances, chances], 1)
    labels = np.where(np.arange(300) < 12, 1 - labels, labels)
    noise = estimate(labels, [np.log(chances)], np.arange(300))
    own = noise.clean[np.arange(300), labels]
    assert noise.wrong == pytest.approx((1 - own) / own, rel=1e-6)
    mixed = (1 - noise.share) * own + noise.share * (1 - own)
    assert noise.chance(noise.share) == pytest.approx(noise.share * (1 - own) / mixed, rel=1e-6)
    assert noise.chance(noise.share).mean() == pytest.approx(noise.share, rel=0.02), "at the greatest likelihood"
    assert noise.low < 12 / 300 < noise.high
    for change in (0.8, 1.25):  # no other share is likelier
        other_mixed = (1 - noise.share * change) * own + noise.share * change * (1 - own)
        assert np.log(other_mixed).sum() < np.log(mixed).sum()


def test_rows_of_a_group_count_once() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 2
    chances = np.clip(0.5 + (labels - 0.5) * 0.8 + generator.normal(0, 0.1, 60), 0.02, 0.98)
    chances = np.stack([1 - chances, chances], 1)
    labels[:5] = 1 - labels[:5]
    alone = estimate(labels, [np.log(chances)], np.arange(60))
    ten = estimate(np.repeat(labels, 10), [np.log(np.repeat(chances, 10, 0))], np.repeat(np.arange(60), 10))
    assert ten.share == pytest.approx(alone.share, abs=0.005)
    assert (ten.low, ten.high) == pytest.approx((alone.low, alone.high), abs=0.02)


@pytest.mark.parametrize(("count", "checked"), [(13, 200), (15, 215)])
def test_a_class_that_is_rare_beside_the_others_is_not_judged(count: int, checked: int) -> None:
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
    assert finding.rows[0] == "r007"
    assert finding.evidence["checked"] == 198


def test_a_column_that_holds_the_label_does_not_vouch_for_it() -> None:
    frame = clear_table()
    frame.loc[7, "y"] = other(frame.at[7, "y"])
    frame["same"] = frame["y"].map({"cat": 1.5, "dog": 9.5})
    finding = named(examined(frame, inputs=["same"]), "label_errors")
    assert finding.rows[0] == "r007"


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
    units = np.arange(len(labels))
    one, two = (estimate(y, [np.log(chances)], units) for y, chances in ((labels, here), (renamed[labels], there)))
    assert one.share == pytest.approx(two.share, abs=2e-3)
    assert np.allclose(np.argsort(one.wrong)[-3:], np.argsort(two.wrong)[-3:]) or np.allclose(
        np.sort(one.wrong)[-3:], np.sort(two.wrong)[-3:], rtol=0.05
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
