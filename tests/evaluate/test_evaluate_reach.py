"""Intervals of numbers: reaches against counting, bands against another library, and which of the two is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import QuantileRegressor

from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.conformal import LEVELS, quantiles
from fusetune.evaluate.reach import BAND, PLAIN, Band, Reaches, fit_band, fit_reaches, judge_reaches

Array = npt.NDArray[np.float64]
AT = LEVELS.index(0.9)


def told(rows: int, growth: float, seed: int = 0) -> tuple[Array, Array]:
    """Return said numbers from 0 to 10, and errors whose size grows with them."""
    random = np.random.default_rng(seed)
    said = 10 * random.random(rows)
    return said, random.normal(size=rows) * (1 + growth * said)


def pattern(rows: int) -> npt.NDArray[np.str_]:
    return np.array(["all"] * rows)


def pinball(rest: Array, line: Array, share: float) -> float:
    return float(np.maximum(share * (rest - line), (share - 1) * (rest - line)).mean())


def test_a_band_has_the_least_pinball_loss() -> None:
    said, errors = told(200, 0.3)
    band = fit_band(said, -errors)
    assert band is not None
    assert band.knots == pytest.approx(np.quantile(said, [0, 0.25, 0.5, 0.75, 1]))
    hats = np.stack([np.interp(said, band.knots, one) for one in np.eye(5)], axis=1)
    for share, line in zip((0.05, 0.95), band.ends(said), strict=True):
        theirs = QuantileRegressor(quantile=share, alpha=0, fit_intercept=False).fit(hats, -errors).predict(hats)
        assert pinball(-errors, line, share) == pytest.approx(pinball(-errors, theirs, share), rel=1e-6)
        assert np.mean(-errors < line) == pytest.approx(share, abs=0.03)
    large = fit_band(said * 1e13, -errors * 1e13)  # a number in another unit
    assert large is not None
    for ends, unit in ((large.low, band.low), (large.high, band.high)):
        assert np.array(ends) / 1e13 == pytest.approx(unit, rel=1e-6)
    assert fit_band(said[:19], errors[:19]) is None
    assert fit_band(np.ones(200), errors) is None


def test_reaches_without_a_band_are_order_statistics() -> None:
    said, errors = told(99, 0)
    found = fit_reaches(errors, pattern(99))
    assert found.levels["all"][AT] == np.sort(np.abs(errors))[89]
    low, high = found.ends(0.9, said, pattern(99))
    np.testing.assert_allclose([said - low, high - said], found.levels["all"][AT])


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_calibrate_the_bands_of_other_folds(grouped: bool) -> None:
    said, errors = told(240, 2.0)
    folds = np.arange(240) // 2 % 4
    groups = np.arange(240) // 2 if grouped else None
    found = fit_reaches(errors, pattern(240), groups, said, folds)
    assert found.way == BAND
    assert found.band == fit_band(said, -errors)
    outside = np.empty(240)
    for fold in range(4):
        here = folds == fold
        band = fit_band(said[~here], -errors[~here])
        assert band is not None
        low, high = band.ends(said[here])
        outside[here] = np.maximum(low + errors[here], -errors[here] - high)
    assert found.levels["all"] == quantiles(outside, groups, LEVELS)


def test_both_ways_are_tried_on_rows_that_they_did_not_learn_from() -> None:
    said, errors = told(120, 0.4, seed=1)
    folds, true = np.arange(120) % 4, said - errors
    found = fit_reaches(errors, pattern(120), None, said, folds)
    widths, held = np.empty((2, 120)), np.empty((2, 120))
    for fold in range(4):
        here, known = folds == fold, folds != fold
        band = fit_band(said[known], -errors[known])
        assert band is not None
        own = [errors[known & (folds == other)] for other in range(4) if other != fold]
        assert sum(map(len, own)) == known.sum()
        outside = np.empty(120)
        for other in set(range(4)) - {fold}:
            part, rest = folds == other, known & (folds != other)
            inner = fit_band(said[rest], -errors[rest])
            assert inner is not None
            outside[part] = inner.outside(said[part], -errors[part])
        reach = quantiles(np.abs(errors[known]), None, [0.9])[0], quantiles(outside[known], None, [0.9])[0]
        low, high = band.ends(said[here])
        ends = (
            (said[here] - reach[0], said[here] + reach[0]),
            (said[here] + low - reach[1], said[here] + high + reach[1]),
        )
        for at, (left, right) in enumerate(ends):
            widths[at, here], held[at, here] = right - left, (left <= true[here]) & (true[here] <= right)
    assert [one.way for one in found.tried] == [PLAIN, BAND]
    assert [one.width for one in found.tried] == pytest.approx(widths.mean(1))
    assert [one.coverage for one in found.tried] == pytest.approx(held.mean(1))


def test_the_band_is_used_only_where_errors_grow() -> None:
    folds = np.arange(240) // 2 % 4
    for growth in (0.0, 2.0):
        cases = [told(240, growth, seed) for seed in range(4)]
        ways = [fit_reaches(errors, pattern(240), None, said, folds).way for said, errors in cases]
        assert ways == [PLAIN if growth == 0 else BAND] * 4


def test_groups_that_are_alike_show_nothing() -> None:
    """Five copies of eighty rows: what rows show, eighty groups do not."""
    said, errors = (np.tile(one, 5) for one in told(80, 2.0, seed=2))
    groups = np.tile(np.arange(80), 5)
    assert fit_reaches(errors, pattern(400), None, said, groups % 5).way == BAND
    assert fit_reaches(errors, pattern(400), groups, said, groups % 5).way == PLAIN


def test_both_ways_keep_their_promise_on_new_rows_and_the_band_is_narrower() -> None:
    said, errors = told(400, 2.0)
    banded = fit_reaches(errors, pattern(400), None, said, np.arange(400) % 5)
    plain = fit_reaches(errors, pattern(400))
    new, off = told(4000, 2.0, seed=9)
    scores = [judge_reaches(one, new, new - off, pattern(4000)) for one in (plain, banded)]
    assert all(one is not None and abs(one.coverage.value - 0.9) < 0.03 for one in scores)
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[1].width.value < 0.93 * scores[0].width.value
    assert (scores[0].way, scores[1].way) == (PLAIN, BAND)
    few, shares = new < 2, []
    for one in (plain, banded):
        low, high = one.ends(0.9, new, pattern(4000))
        shares.append(float(((low <= new - off) & (new - off <= high))[few].mean()))
    assert shares[0] > 0.99, "where errors are small, the same reach is too wide"
    assert 0.85 < shares[1] < 0.97


def test_ends_never_cross_and_what_was_learnt_is_read_again() -> None:
    band = Band([0.0, 1.0], [-1.0, -1.0], [1.0, 3.0])
    learnt = Reaches({"all": [-5.0] * len(LEVELS), "all other patterns": [0.5] * len(LEVELS)}, band)
    low, high = learnt.ends(0.9, np.array([0.0, 2.0]), pattern(2))
    assert low.tolist() == high.tolist() == [0.0, 3.0]
    low, high = learnt.ends(0.9, np.array([0.0, 2.0]), np.array(["other", "other"]))
    assert (low.tolist(), high.tolist()) == ([-1.5, 0.5], [1.5, 5.5])
    learnt.check()
    assert Calibration.read(Calibration(reaches=learnt).describe()).reaches == learnt
    for wrong in (
        replace(learnt, band=None), replace(learnt, band=Band([1.0, 1.0], [0.0, 0.0], [1.0, 1.0])),
        replace(learnt, band=Band([0.0, 1.0], [0.0, 2.0], [1.0, 1.0])),
        replace(learnt, band=Band([0.0, 1.0], [0.0, np.nan], [1.0, 1.0])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"reaches of intervals|no band"):
            wrong.check()
