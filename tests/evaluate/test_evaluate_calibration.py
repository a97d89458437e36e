"""What is learnt on validation rows: no row takes part in what is said of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fusetune.evaluate import metrics
from fusetune.evaluate.calibration import Judged, Scaled, learn, scale
from fusetune.evaluate.conformal import fit_conformal
from fusetune.evaluate.measures import Classes
from fusetune.evaluate.temperature import crossfit, fit_temperature, softmax
from fusetune.evaluate.threshold import choose_threshold
from fusetune.networks import Outputs
from fusetune.targets import Classification

Matrix = npt.NDArray[np.float64]
ROWS, FOLDS = 120, 4


def boastful(seed: int = 0, classes: int = 3, heat: float = 4.0) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Return logits that are `heat` times the true ones, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (ROWS, classes))
    y = (random.random(ROWS)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return heat * logits, y.astype(np.int64)


def judged(logits: Matrix, y: npt.NDArray[np.int64], groups: Any = None) -> Judged:
    has = {name: torch.from_numpy(np.arange(len(y)) % 3 != at) for at, name in enumerate("ab")}
    f = torch.from_numpy(logits)
    return Judged(Outputs({}, {}, f, has), y, np.arange(len(y)), groups)


FOLD = np.arange(ROWS) % FOLDS


def scaled(logits: Matrix, y: npt.NDArray[np.int64], tried: Any = (), elsewhere: bool = True) -> Scaled:
    return scale(judged(logits, y), tried, FOLD, chosen_elsewhere=elsewhere)


def test_each_row_is_scaled_by_the_temperature_of_the_other_folds() -> None:
    logits, y = boastful()
    found = scaled(logits, y)
    assert found.heat.applied
    expected = np.empty_like(logits)
    for fold in range(FOLDS):
        here = fold == FOLD
        expected[here] = softmax(logits[here], fit_temperature(logits[~here], y[~here]))
    np.testing.assert_allclose(found.p, expected, rtol=1e-9)
    assert found.heat.fitted == pytest.approx(fit_temperature(logits, y))
    assert metrics.nll(found.p, y) == pytest.approx(found.heat.after)


def test_a_rows_label_does_not_change_what_is_said_of_it() -> None:
    logits, y = boastful()
    other = y.copy()
    other[FOLD == 0] = (other[FOLD == 0] + 1) % 3
    np.testing.assert_array_equal(scaled(logits, y).p[FOLD == 0], scaled(logits, other).p[FOLD == 0])


def test_a_temperature_that_does_not_earn_its_place_scales_nothing() -> None:
    logits, y = boastful(heat=1.0)
    found = scaled(logits, y)
    assert not found.heat.applied
    np.testing.assert_array_equal(found.p, softmax(logits))


def test_rows_that_chose_a_candidate_are_judged_by_the_choice_of_others() -> None:
    """Ten candidates of which none knows anything: the one that these rows like best is no better."""
    tried = [boastful(seed, heat=1.0)[0] for seed in range(1, 11)]
    _, y = boastful()
    best = min(tried, key=lambda logits: metrics.nll(softmax(logits), y))
    found = scaled(best, y, tried, elsewhere=False)
    logits = crossfit(tried, y, FOLD)
    assert found.heat.before == pytest.approx(metrics.nll(softmax(logits), y))
    assert found.heat.before > metrics.nll(softmax(best), y) + 0.05
    assert found.crossfitted


@pytest.mark.parametrize(("tried", "elsewhere", "honest"), [(0, False, False), (0, True, True), (1, False, True)])
def test_it_is_said_whether_rows_chose_what_is_said_of_them(tried: int, elsewhere: bool, honest: bool) -> None:
    logits, y = boastful()
    assert scaled(logits, y, [logits] * tried, elsewhere).crossfitted is honest
    alone = scale(judged(logits, y), [logits] * tried, np.zeros(ROWS, np.int64), chosen_elsewhere=elsewhere)
    assert alone.crossfitted is elsewhere


def test_sets_and_threshold_come_from_what_other_folds_say() -> None:
    logits, y = boastful(classes=2)
    groups = np.arange(ROWS) // np.where(np.arange(ROWS) < 60, 1, 4)
    rows = replace(judged(logits, y, groups), measure=Classes(Classification(["a", "b"])))
    # Probabilities that have nothing to do with the logits: what is learnt can only come from them.
    p = np.random.default_rng(5).dirichlet([1, 1], ROWS)
    held = Scaled(scaled(logits, y).heat, p, True, FOLD)
    found = learn(rows, held, aim="sensitivity >= 0.8", positive=None, seed=3)
    assert found.threshold == choose_threshold("sensitivity >= 0.8", p[:, 1], y == 1)
    assert found.conformal == fit_conformal(p, y, rows.keys, rows.pattern, groups, 3)
    assert found.conformal != fit_conformal(p, y, rows.keys, rows.pattern, None, 3)
    assert found.temperature == scaled(logits, y).heat.value
