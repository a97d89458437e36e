"""What is learnt of labels on validation rows: a temperature and a threshold each, by rows that had no part in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import f1_score

from fusetune.errors import ConfigError
from fusetune.evaluate.calibration import Calibration, Judged, Scaled, learn, scale
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.measures import Answered, Labels
from fusetune.evaluate.measures.labels import LabelRule, together
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.temperature import Temperature, fit_temperature
from fusetune.evaluate.threshold import EVEN, Limit, choose_threshold
from fusetune.networks import Outputs
from fusetune.targets import Multilabel

Matrix = npt.NDArray[np.float64]
NAMES = ["bold", "meek", "rare"]
MEASURE, ROWS, FOLD = Labels(Multilabel(NAMES)), 300, np.arange(300) % 4
HEATS = np.array([5.0, 1.0, 5.0])


def told(seed: int = 0, rare: bool = True) -> tuple[Matrix, npt.NDArray[np.float32]]:
    """Return log-odds, those of two labels five times the true ones, and labels; the last one may be in six rows."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (ROWS, 3))
    has = random.random((ROWS, 3)) < expit(true)
    if rare:
        has[:, 2] = np.arange(ROWS) < 6
    return true * HEATS, has.astype(np.float32)


def judged(f: Matrix, y: npt.NDArray[np.float32], groups: Any = None) -> Judged:
    has = {"a": torch.ones(len(y), dtype=torch.bool)}
    return Judged(Outputs({}, {}, torch.from_numpy(f), has), y, np.arange(len(y)), groups, MEASURE)


def scaled(f: Matrix, y: npt.NDArray[np.float32]) -> Scaled:
    return scale(judged(f, y), (), FOLD, chosen_elsewhere=True)


def test_each_label_has_the_temperature_of_the_other_folds_where_that_helps() -> None:
    f, y = told()
    found = scaled(f, y)
    value = found.heat.value
    assert isinstance(value, list)
    assert value[0] == pytest.approx(5, rel=0.3)
    assert value[1] == pytest.approx(1, rel=0.3)
    assert value[2] == found.heat.common, "six rows with a label choose nothing of their own"
    assert [one.applied for one in found.heat.each] == [True, True, False]
    expected = np.empty_like(f)
    for fold in range(4):
        here, known = fold == FOLD, fold != FOLD
        common = fit_temperature(f[known], y[known], MEASURE.losses_of)
        for at in range(3):
            own = common * fit_temperature(f[known][:, [at]] / common, y[known][:, [at]], MEASURE.losses_of)
            expected[here, at] = expit(f[here, at] / (own if at < 2 else common))
    np.testing.assert_allclose(found.p, expected, rtol=1e-9)
    assert MEASURE.lost_rows(found.p, y).mean() < found.heat.after < found.heat.before


def test_a_rows_labels_do_not_change_what_is_said_of_it() -> None:
    f, y = told()
    other, here = y.copy(), FOLD == 0
    some = np.flatnonzero(here)[::10]
    other[some, :2] = 1 - other[some, :2]
    before, after = scaled(f, y), scaled(f, other)
    assert before.heat.fitted != after.heat.fitted
    assert [one.applied for one in after.heat.each] == [one.applied for one in before.heat.each]
    np.testing.assert_array_equal(before.p[here], after.p[here])


def test_labels_of_one_temperature_keep_the_common_one() -> None:
    kept = 0
    for seed in range(8):
        f, y = told(seed, rare=False)
        heat = scaled(f / HEATS * 3, y).heat
        assert heat.applied
        kept += sum(not one.applied for one in heat.each)
    assert kept >= 18


def test_thresholds_come_from_what_other_folds_say() -> None:
    f, y = told()
    rows, p = judged(f, y), np.random.default_rng(5).random((ROWS, 3))
    held = Scaled(scaled(f, y).heat, p, True, FOLD)
    aim = {"bold": "sensitivity >= 0.8", "meek": "f1", "rare": "f1"}
    found = learn(rows, held, aim=aim, positive=None, seed=3)
    assert found.limits == [
        Limit("sensitivity >= 0.8", choose_threshold("sensitivity >= 0.8", p[:, 0], y[:, 0] > 0)),
        Limit("f1", choose_threshold("f1", p[:, 1], y[:, 1] > 0)),
        Limit("f1", None),
    ]
    (line,) = found.unreached(NAMES)
    assert line.startswith("no threshold is chosen for 'f1' of rare: it is out of reach")
    plain = learn(rows, held, aim="even odds", positive=None, seed=3)
    assert plain.limits == []
    assert plain.rule(NAMES, measure=MEASURE).words == "labels that are more probable than not"
    # Of probabilities that know nothing, no threshold is shown to be better than even odds, but for one that says all.
    assert {one.aim for one in learn(rows, held, aim=None, positive=None, seed=3).limits} <= {"f1", "even odds"}


def test_a_rule_of_labels_is_followed_or_left_out() -> None:
    learnt = Calibration(limits=[Limit("f1", 0.2), Limit("ppv >= 0.8", 0.7), Limit("f1", None)])
    rule = learnt.rule(NAMES, measure=MEASURE)
    p = np.array([[0.3, 0.69, 0.5], [0.1, 0.9, 0.51]])
    assert MEASURE.answers(p, rule) == ["bold", "meek;rare"]
    assert rule.decide(p).tolist() == [0, 1]
    assert rule.words == (
        "every label from its own probability on, chosen on validation rows for the largest F1 (bold, rare), "
        "ppv >= 0.8 (meek); at even odds, since none was found: rare"
    )
    plain = learnt.rule(NAMES, "most-probable", MEASURE)
    assert MEASURE.answers(p, plain) == ["meek", "meek;rare"]
    assert plain.words.endswith("thresholds for the largest F1, ppv >= 0.8 are not followed")
    assert rule.margin(p) == pytest.approx([0.0, 0.01], abs=0.011)


def test_scores_by_thresholds_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    p, y, groups = random.random((80, 3)), (random.random((80, 3)) < 0.4).astype(np.float32), np.arange(80) // 4
    limits = np.array([0.3, 0.6, 0.5])
    rule = LabelRule(None, None, "", tuple(limits), even=False)
    found = rule.score(p, y, groups, resamples=100, seed=0)
    called = p >= limits
    assert found["label_accuracy"].value == pytest.approx((called == y).mean())
    assert found["subset_accuracy"].value == pytest.approx((called == y).all(1).mean())
    for how in ("macro", "micro"):
        assert found[f"{how}_f1"].value == pytest.approx(f1_score(y, called, average=how))
        assert found[f"{how}_f1"].low < found[f"{how}_f1"].value < found[f"{how}_f1"].high
    assert MEASURE.plainly.score(p, y, groups, resamples=100, seed=0) == {}
    even = MEASURE.scores(p, y, groups, resamples=100, seed=0)
    again = LabelRule(None, None, "", (EVEN,) * 3, even=False).score(p, y, groups, resamples=100, seed=0)
    assert {name: even[name] for name in again} == again


def test_labels_fare_by_the_thresholds_that_other_rows_chose() -> None:
    random = np.random.default_rng(4)
    p, y = random.random((40, 3)), (random.random((40, 3)) < 0.4).astype(np.float32)
    limits = np.array([0.9, 0.2, 0.6])
    rule = Calibration(limits=[Limit("f1", at) for at in limits]).rule(NAMES, measure=MEASURE)
    rows = Answered(p, y, np.arange(40), np.array(["a"] * 40), None)
    found = MEASURE.further(rows, Conformal(), Reaches(), rule=rule, resamples=100, seed=0)
    for at, one in enumerate(found["each"]):
        called, has = p[:, at] >= limits[at], y[:, at] > 0
        assert (one.name, one.threshold, one.rows) == (NAMES[at], limits[at], has.sum())
        assert one.recall.value == pytest.approx(called[has].mean())
        assert one.precision.value == pytest.approx(has[called].mean())
    assert found["together"] == together(p >= limits, y > 0)


def test_what_is_said_where_a_label_is() -> None:
    random = np.random.default_rng(2)
    called, has = random.random((50, 3)) < 0.5, random.random((50, 3)) < 0.4
    has[:, 2] = False
    found = together(called, has)
    for is_, row in enumerate(found[:2]):
        assert row == pytest.approx([called[has[:, is_], said].mean() for said in range(3)])
    assert found[2] == [None, None, None]


def test_what_was_learnt_of_labels_is_written_and_read() -> None:
    learnt = Calibration([1.0, 2.0, 3.0], limits=[Limit("f1", 0.2), Limit("f1", None), Limit("even odds", EVEN)])
    assert Calibration.read(learnt.describe()) == learnt
    learnt.check(3)
    assert "limits" not in Calibration(2.0).describe()
    for wrong in (
        replace(learnt, temperature=[1.0, 2.0]), replace(learnt, temperature=[1.0, 2.0, 0.0]),
        replace(learnt, limits=learnt.limits[:2]), replace(learnt, limits=[Limit("f1", 1.5)] * 3),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"(temperature|thresholds) of"):
            wrong.check(3)
    np.testing.assert_allclose(MEASURE.say(np.ones((2, 3)), [1.0, 2.0, 4.0]), expit([[1, 0.5, 0.25]] * 2))


def test_aims_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.positive is for two classes"):
        MEASURE.check_aim("f1", "bold")
    with pytest.raises(ConfigError, match="'old' is no label"):
        MEASURE.check_aim({"old": "f1"}, None)


def test_the_temperature_of_a_label_needs_more_than_one_fold() -> None:
    f, y = told()
    found = scale(judged(f, y), (), np.zeros(ROWS, np.int64), chosen_elsewhere=True)
    assert found.heat.value == 1.0
    assert isinstance(found.heat, Temperature)
    np.testing.assert_array_equal(found.p, expit(f))
