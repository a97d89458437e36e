"""Rows that do not count alike: a row of weight k gives what k copies of it give, drawn together."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import t as student
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import f1_score

from fusetune.data.weights import shared
from fusetune.errors import UserError
from fusetune.evaluate import metrics, permutation_test
from fusetune.evaluate.bootstrap import Sampling, clusters, sampling, some
from fusetune.evaluate.conformal import Conformal, fit_conformal, judge_sets, quantile, scores
from fusetune.evaluate.intervals import Interval, group_spread, means, proportion, score_with_intervals
from fusetune.evaluate.measures import Answered, Labels, Numbers
from fusetune.evaluate.measures.labels import LabelRule, together
from fusetune.evaluate.miscalibration import miscalibration
from fusetune.evaluate.paired import mcnemar
from fusetune.evaluate.reach import BAND, PLAIN, Reaches, fit_band, fit_reaches, judge_reaches
from fusetune.evaluate.selective import risk_coverage, worst
from fusetune.evaluate.temperature import (
    calibrate,
    calibrate_each,
    class_losses,
    crossfit,
    fit_temperature,
    standard_error,
)
from fusetune.evaluate.threshold import F1, choose_threshold, f1_gain, f1_helps, judge_threshold
from fusetune.targets import Multilabel, Regression

ROWS, CLASSES = 60, 4
HOW: dict[str, Any] = {"resamples": 60, "seed": 3}
random = np.random.default_rng(0)
P = random.dirichlet(np.ones(CLASSES), ROWS).round(2) + 0.01
P /= P.sum(1, keepdims=True)
Y = np.where(random.random(ROWS) < 0.6, P.argmax(1), random.integers(0, CLASSES, ROWS))
K = random.integers(1, 4, ROWS)
K[0] += 10 - K.sum() % 10  # of the copies there are whole tenths
GROUPS = np.arange(ROWS) // 3
COPIES = np.repeat(np.arange(ROWS), K)
WEIGHED = sampling(None, K.astype(float))
BOTH = sampling(GROUPS, K.astype(float))


def same(one: Any, other: Any, rel: float = 1e-6) -> None:
    """Compare numbers, intervals, and mappings of them."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name], rel)
    elif isinstance(one, Interval):
        same([one.value, one.low, one.high], [other.value, other.low, other.high], rel)
    else:
        np.testing.assert_allclose(one, other, rel, 1e-9)


def test_metrics_are_those_of_copies() -> None:
    same(metrics.score(P, Y, K.astype(float)), metrics.score(P[COPIES], Y[COPIES]))
    weighed, copied = metrics.reliability(P, Y, weights=K.astype(float)), metrics.reliability(P[COPIES], Y[COPIES])
    same(weighed.confidence, copied.confidence)
    same(weighed.accuracy, copied.accuracy)


@pytest.mark.parametrize(("own", "copied"), [(WEIGHED, COPIES), (BOTH, GROUPS[COPIES])], ids=["rows", "groups"])
def test_intervals_are_those_of_copies_that_are_drawn_together(own: Any, copied: Any) -> None:
    """A row that counts for three is more of the value, and no more evidence for it."""
    ours, theirs = (
        score_with_intervals(p, y, groups, **HOW) for p, y, groups in ((P, Y, own), (P[COPIES], Y[COPIES], copied))
    )
    assert ours.pop("accuracy").value == pytest.approx(theirs.pop("accuracy").value)
    same(ours, theirs)
    for one, other in zip(means(P, own, **HOW), means(P[COPIES], copied, **HOW), strict=True):
        same(one, other)
    difference = P[:, 0] - P[:, 1]
    same(permutation_test(difference, own), permutation_test(difference[COPIES], copied))
    off, copies = miscalibration(P, Y, own), miscalibration(P[COPIES], Y[COPIES], copied)
    assert off is not None
    assert copies is not None
    same([off.error.value, off.plain, off.p], [copies.error.value, copies.plain, copies.p])
    losses = metrics.nll_rows(P, Y)
    same(standard_error(losses, own), standard_error(losses[COPIES], copied))


def test_a_share_is_as_sure_as_its_groups_vary_and_no_surer_than_rows_of_equal_weight() -> None:
    """Groups that are right or wrong as a whole vary as copies do; rows by themselves tell as much as Kish says."""
    whole = GROUPS % 3 > 0
    same(proportion(whole, BOTH), proportion(whole[COPIES], GROUPS[COPIES]))
    every = np.ones(ROWS, dtype=bool)
    independent = K.sum() ** 2 / (K**2).sum()
    assert independent < ROWS
    z = 1.959964
    assert proportion(every, WEIGHED).low == pytest.approx(independent / (independent + z**2), rel=1e-6)
    half = np.arange(ROWS) % 2 == 0
    found = proportion(half, sampling(None, np.repeat([1.0, 3.0], ROWS // 2)))  # weights as wide as Kish thinks of
    assert found.value == 0.5
    kish = ROWS * 4 / 5
    reach = student.ppf(0.975, kurtosis_freedom(np.repeat([1.0, 3.0], ROWS // 2)))
    assert found.high - found.value == pytest.approx(reach / 2 / math.sqrt(kish + reach**2), rel=0.02)


def kurtosis_freedom(weights: Any) -> float:
    """Return Satterthwaite's degrees of freedom of a variance of rows whose deviations are alike but for weights."""
    heavy = max((weights**4).mean() / (weights**2).mean() ** 2 - 3, 0.0)
    return float(2 / (heavy / len(weights) + 2 / (len(weights) - 1)))


def test_groups_and_classes_are_as_their_copies() -> None:
    right, names = P.argmax(1) == Y, list("abcd")
    one, other = group_spread(right, BOTH), group_spread(right[COPIES], GROUPS[COPIES])
    same([one.count, one.mean, one.lowest_decile], [other.count, other.mean, other.lowest_decile])
    rows = sampling(np.arange(ROWS) // 20, K.astype(float))
    lows, copied = worst(P, Y, names, rows), worst(P[COPIES], Y[COPIES], names, (np.arange(ROWS) // 20)[COPIES])
    assert lows.group is not None and copied.group is not None and lows.class_ is not None and copied.class_ is not None
    assert (lows.group.name, lows.class_.name) == (copied.group.name, copied.class_.name)
    same(lows.group.accuracy.value, copied.group.accuracy.value)


def test_error_rates_of_the_surest_rows_are_those_of_copies() -> None:
    one, other = risk_coverage(P, Y, WEIGHED, **HOW), risk_coverage(P[COPIES], Y[COPIES], COPIES, **HOW)
    same(one.aurc, other.aurc)
    for mine, theirs in zip(one.points, other.points, strict=True):
        same([mine.coverage, mine.error.value], [theirs.coverage, theirs.error.value])
    # The best area does not hang on how large a copy is: that of very many copies of each row comes near it.
    many = np.repeat(COPIES, 50)
    assert one.best == pytest.approx(risk_coverage(P[many], Y[many], many, resamples=2).best, rel=1e-2)


def test_rates_of_a_threshold_are_those_of_copies() -> None:
    p, y = P[:, 0], Y == 0
    for aim in ("sensitivity >= 0.7", "ppv >= 0.5"):
        chosen = choose_threshold(aim, p, y, WEIGHED)
        assert chosen == choose_threshold(aim, p[COPIES], y[COPIES])
    assert chosen is not None
    one, other = judge_threshold(chosen, p, y, WEIGHED), judge_threshold(chosen, p[COPIES], y[COPIES], COPIES)
    same(one.ppv, other.ppv)
    assert sum(one.counts.values()) == ROWS  # counts are of rows


@pytest.mark.parametrize("aim", [F1, "sensitivity >= 0.8", "specificity >= 0.75", "ppv >= 0.5", "npv >= 0.8"])
def test_thresholds_of_labels_are_those_of_copies(aim: str) -> None:
    """Probabilities have two digits, so that rows share them, and shares of whole weights reach aims exactly."""
    for seed in range(20):
        draw = np.random.default_rng(seed)
        p, k = draw.random(ROWS).round(2), draw.integers(1, 5, ROWS)
        y, copies = draw.random(ROWS) < 0.1 + 0.4 * p, np.repeat(np.arange(ROWS), k)
        assert choose_threshold(aim, p, y, sampling(None, k / 7)) == choose_threshold(aim, p[copies], y[copies])


def test_the_gain_of_f1_and_its_error_are_those_of_copies_that_are_drawn_together() -> None:
    folds, helped = GROUPS % 4, set()
    for seed in range(6):
        draw = np.random.default_rng(seed)
        p = draw.random(ROWS).round(2) * (0.6 if seed % 2 else 1)
        y = draw.random(ROWS) < (1.2 if seed % 2 else 0.8) * p
        for own, copied in ((WEIGHED, COPIES), (BOTH, GROUPS[COPIES])):
            ours = f1_gain(p, y, folds, own)
            same(ours, f1_gain(p[COPIES], y[COPIES], folds[COPIES], copied))
            helps = f1_helps(p, y, folds, own)
            assert helps == (ours[0] > ours[1])
            helped.add(helps)
            even = p > 0.5
            chosen = np.empty(ROWS, dtype=bool)
            for fold in range(4):
                limit = choose_threshold(F1, p[folds != fold], y[folds != fold], some(own, folds != fold))
                assert limit is not None
                chosen[folds == fold] = p[folds == fold] >= limit
            gain = [f1_score(y, said, sample_weight=K) for said in (chosen, even)]
            assert ours[0] == pytest.approx(gain[0] - gain[1])
    assert helped == {True, False}


def test_a_rule_of_labels_is_judged_as_on_copies() -> None:
    labels, bits = Labels(Multilabel(list("abc"))), (random.random((ROWS, 3)) < 0.4).astype(np.float32)
    said = np.clip(bits * 0.4 + random.random((ROWS, 3)) * 0.6, 0.01, 0.99).round(2)
    rule = LabelRule(None, None, "", (0.3, 0.6, 0.45), even=False)
    how = {**HOW, "resamples": 10}
    ours, theirs = rule.score(said, bits, BOTH, **how), rule.score(said[COPIES], bits[COPIES], GROUPS[COPIES], **how)
    assert ours.pop("subset_accuracy").value == pytest.approx(theirs.pop("subset_accuracy").value)
    same(ours, theirs)
    called = rule.called(said) > 0
    copied = together(called[COPIES], bits[COPIES] > 0)
    same(np.array(together(called, bits > 0, WEIGHED)), np.array(copied))
    keys, pattern, folds = np.arange(ROWS), np.full(ROWS, "text"), GROUPS % 4
    rows = Answered(said, bits, keys, pattern, BOTH, folds)
    again = Answered(said[COPIES], bits[COPIES], COPIES, pattern[COPIES], GROUPS[COPIES], folds[COPIES])
    for aim in (None, "f1", {"a": "ppv >= 0.5", "b": "sensitivity >= 0.75"}):
        assert labels.thresholds(rows, aim, None) == labels.thresholds(again, aim, None)
    told, other = (labels.further(one, Conformal(), Reaches(), rule=rule, **how) for one in (rows, again))
    same(np.array(told["together"]), np.array(copied))
    for mine, its in zip(told["each"], other["each"], strict=True):
        same([mine.recall.value, mine.precision.value], [its.recall.value, its.precision.value])
        for name in ("auroc", "auprc", "nll"):
            same(getattr(mine, name), getattr(its, name))


def test_numbers_and_labels_are_those_of_copies() -> None:
    target, truth = Regression("y", 5.0, 2.0), random.normal(size=ROWS)
    p, q = (target.numbers(truth + random.normal(0, 0.5, ROWS))[:, None] for _ in range(2))
    numbers = Numbers(target)
    ours, theirs = (
        numbers.scores(p, truth, BOTH, **HOW),
        numbers.scores(p[COPIES], truth[COPIES], GROUPS[COPIES], **HOW),
    )
    median = ours.pop("median_absolute_error")
    assert median.value == pytest.approx(theirs.pop("median_absolute_error").value)
    assert median.low < median.value < median.high
    same(ours, theirs)
    value = numbers.scores(p, truth, WEIGHED, **HOW)["median_absolute_error"].value
    assert value == pytest.approx(np.median(np.abs(numbers.errors(p, truth))[COPIES]))
    pairs = numbers.difference(p, q, truth, BOTH, **HOW)
    copied = numbers.difference(p[COPIES], q[COPIES], truth[COPIES], GROUPS[COPIES], **HOW)
    for one, other in zip(pairs, copied, strict=True):
        same(one, other)
    labels, bits = Labels(Multilabel(list("abc"))), (random.random((ROWS, 3)) < 0.4).astype(np.float32)
    said = np.clip(bits * 0.4 + random.random((ROWS, 3)) * 0.6, 0.01, 0.99)
    told, again = (
        labels.scores(said, bits, BOTH, **HOW),
        labels.scores(said[COPIES], bits[COPIES], GROUPS[COPIES], **HOW),
    )
    assert told.pop("subset_accuracy").value == pytest.approx(again.pop("subset_accuracy").value)
    same(told, again)


def test_equal_weights_are_no_weights() -> None:
    for weight in (1.0, 0.1, 3.0):
        assert sampling(None, np.full(ROWS, weight)) is None
        assert sampling(GROUPS, np.full(ROWS, weight)) is GROUPS
    part = some(sampling(GROUPS, np.repeat([1.0, 5.0], ROWS // 2)), np.arange(ROWS) < 10)
    assert isinstance(part, np.ndarray)
    assert isinstance(some(BOTH, np.arange(10)), Sampling)


def test_weights_of_other_rows_are_refused() -> None:
    with pytest.raises(UserError, match="60 weights for 59 rows"):
        clusters(WEIGHED, 59)


def test_signs_of_rows_that_count_alike_are_mcnemars_test() -> None:
    """The test that takes McNemar's place where rows have weights is the same test where they have none."""
    one, other = (random.random(14) < share for share in (0.9, 0.4))
    assert (one != other).sum() <= 12
    signs = one.astype(float) - other
    assert permutation_test(signs) == pytest.approx(mcnemar(one, other).p)
    weights = random.integers(1, 5, 14).astype(float)
    sums = (signs * weights)[signs != 0]
    every = np.array(list(product((1, -1), repeat=len(sums)))) @ sums
    share = float((np.abs(every) >= abs(sums.sum()) - 1e-9).mean())
    assert permutation_test(signs, sampling(None, weights)) == pytest.approx(share)


def test_temperature_and_choice_are_of_weighted_losses() -> None:
    logits, weights = np.log(P) * 2, K / K.mean()

    def loss(log_t: float) -> float:  # of every copy, which counts one over the mean number of copies
        copied = class_losses(logits[COPIES] / math.exp(log_t), Y[COPIES])
        return float(copied.sum() / K.mean() + log_t**2 / (2 * 0.5**2))

    best = math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
    assert fit_temperature(logits, Y, groups=WEIGHED) == pytest.approx(best, rel=1e-4)
    heat, _ = calibrate(logits, Y, GROUPS % 2, BOTH)
    assert heat.before == pytest.approx(weights @ class_losses(logits, Y) / ROWS)
    # Of two candidates, one is better on rows and the other on what they weigh.
    truth, folds = np.zeros(40, dtype=int), np.arange(40) % 2
    first = np.where(np.arange(40) < 30, 2.0, -2.0)[:, None] * [1, 0]
    heavy = sampling(None, np.where(np.arange(40) < 30, 1.0, 9.0))
    assert (crossfit([first, -first], truth, folds) == first).all()
    assert (crossfit([first, -first], truth, folds, groups=heavy) == -first).all()


def test_temperatures_of_labels_are_of_weighted_losses() -> None:
    """Light rows say ten times too much of one label, and heavy ones what is so."""
    rows, labels = 240, Labels(Multilabel(["so", "other"]))
    light, folds, draw = np.arange(240) % 2 == 0, np.arange(rows) // 2 % 4, np.random.default_rng(2)
    true = draw.normal(0, 2, (rows, 2))
    y = (draw.random((rows, 2)) < expit(true)).astype(np.float32)
    f = true * np.where(light[:, None], [10, 1], 1)
    weights = np.where(light, 1.0, 200.0)
    own, groups = sampling(None, weights), np.arange(rows) // 2
    plain, _ = calibrate_each(f, y, folds, None, labels.losses_of)
    heat, heats = calibrate_each(f, y, folds, own, labels.losses_of)
    assert plain.each[0].common > 3
    assert heat.each[0].common == pytest.approx(1, abs=0.4)
    loss = labels.losses_of(f, y)
    assert heat.before == pytest.approx(np.average(loss, weights=weights))
    # Both temperatures are used, and each row has those of weighted rows of the other folds.
    both = sampling(groups, np.where(light, 3.0, 1.0))
    heat, heats = calibrate_each(f, y, folds, both, labels.losses_of)
    assert heat.applied
    assert heat.each[0].applied
    for fold in range(4):
        here, others = folds == fold, some(both, folds != fold)
        common = fit_temperature(f[~here], y[~here], labels.losses_of, others)
        for at, one in enumerate(heat.each):
            last = fit_temperature(f[~here][:, [at]] / common, y[~here][:, [at]], labels.losses_of, others)
            np.testing.assert_allclose(heats[here, at], common * last if one.applied else common)
    scaled = labels.losses_of(f[:, [0]] / heats[:, [0]], y[:, [0]])
    assert heat.each[0].after == pytest.approx(np.average(scaled, weights=np.where(light, 3.0, 1.0)))


def copied_quantile(values: Any, weights: Any, new: int, coverage: float) -> float:
    """Sort copies of every row and of a new row, which counts as infinite, and take the one that is wanted."""
    every = np.sort(np.concatenate([np.repeat(values, weights), np.full(new, np.inf)]))
    return float(every[math.ceil(coverage * len(every)) - 1])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_a_quantile_is_that_of_copies_beside_a_new_row_that_weighs_what_rows_drawn_so_do(coverage: float) -> None:
    weights = np.array([1, 3, 3, 3, 1, 1] * 5)  # sum w^2 / sum w is 2.5: each twice, and the new row five times
    values = random.normal(size=len(weights))
    expected = copied_quantile(values, 2 * weights, 5, coverage)
    assert quantile(values, sampling(None, weights.astype(float)), coverage) == expected


def test_groups_count_what_their_rows_weigh_however_many_they_are() -> None:
    member = np.array([0, 0, 0, 1, 2, 2])
    assert shared(np.array([2.0, 2, 2, 5, 1, 3]), member) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 5, 10 / 16, 30 / 16])
    weights = np.repeat([1.0, 3.0, 3.0, 3.0, 1.0, 1.0], 4)  # of four rows each: groups weigh 1 or 3
    groups, values = np.arange(24) // 4, random.normal(size=24)
    expected = copied_quantile(values, 2 * weights.astype(int), 4 * 5, 0.75)
    assert quantile(values, sampling(groups, weights), 0.75) == expected


def test_sets_and_reaches_are_learnt_and_judged_by_weights() -> None:
    keys, pattern = np.arange(ROWS), np.full(ROWS, "image")
    found = fit_conformal(P, Y, keys, pattern, WEIGHED)
    own = scores("lac", P, np.zeros(ROWS))[np.arange(ROWS), Y]
    assert found.pooled["lac"] == quantile(own, WEIGHED)
    judged = judge_sets(found, P, Y, keys, pattern, WEIGHED)
    assert judged is not None and judged.caveat is None
    held = found.sets("lac", P, keys)[np.arange(ROWS), Y]
    assert judged.sets[0].coverage.value == pytest.approx(held[COPIES].mean())
    assert judged.sets[0].by_pattern["image"].coverage == pytest.approx(held[COPIES].mean())
    assert judged.sets[0].by_group is None
    errors = random.normal(size=ROWS)
    assert fit_reaches(errors, pattern, WEIGHED).at(0.9, pattern)[0] == quantile(np.abs(errors), WEIGHED, 0.9)


def said_of_numbers() -> tuple[Any, Any]:
    """Return numbers that are said, and errors whose size grows with them."""
    draw = np.random.default_rng(4)
    said = 10 * draw.random(ROWS)
    return said, draw.normal(size=ROWS) * (0.1 + said)


def pinball(rest: Any, line: Any, share: float) -> float:
    return float(np.maximum(share * (rest - line), (share - 1) * (rest - line)).mean())


def test_a_band_is_that_of_copies() -> None:
    """It has the least loss of copies, by another library; its knots divide them, of which as many as rows allow."""
    said, errors = said_of_numbers()
    band, rows = fit_band(said, -errors, WEIGHED), fit_band(said, -errors)
    assert band is not None
    assert rows is not None
    assert band.knots == np.quantile(said[COPIES], [0, 1 / 3, 2 / 3, 1], method="inverted_cdf").tolist()
    hats = np.stack([np.interp(said, band.knots, one) for one in np.eye(4)], axis=1)[COPIES]
    for share, line in zip((0.05, 0.95), band.ends(said), strict=True):
        theirs = QuantileRegressor(quantile=share, alpha=0, fit_intercept=False).fit(hats, -errors[COPIES])
        least = pinball(-errors[COPIES], theirs.predict(hats), share)
        assert pinball(-errors[COPIES], line[COPIES], share) == pytest.approx(least, rel=1e-6)
    assert fit_band(said, -errors, BOTH) == band
    assert fit_band(said, -errors, sampling(None, np.full(ROWS, 3.0))) == rows


@pytest.mark.parametrize("own", [WEIGHED, BOTH], ids=["rows", "groups"])
def test_both_ways_of_intervals_are_tried_and_learnt_by_weights(own: Any) -> None:
    said, errors = said_of_numbers()
    folds, pattern, true = GROUPS % 4, np.full(ROWS, "image"), said - errors

    def outside_of(known: Any) -> Any:
        """Return how far rows lie outside of the bands of the other folds."""
        found = np.full(ROWS, np.nan)
        for fold in np.unique(folds[known]):
            here, rest = known & (folds == fold), known & (folds != fold)
            band = fit_band(said[rest], -errors[rest], some(own, rest))
            assert band is not None
            found[here] = band.outside(said[here], -errors[here])
        return found[known]

    widths, held = np.empty((2, ROWS)), np.empty((2, ROWS))
    for fold in range(4):
        here, known = folds == fold, folds != fold
        others, band = some(own, known), fit_band(said[known], -errors[known], some(own, known))
        assert band is not None
        low, high = band.ends(said[here])
        reach = quantile(np.abs(errors[known]), others)
        beyond = quantile(outside_of(known), others)
        for at, (left, right) in enumerate(((-reach, reach), (low - beyond, high + beyond))):
            widths[at, here] = right - left
            held[at, here] = (left <= -errors[here]) & (-errors[here] <= right)
    found = fit_reaches(errors, pattern, own, said, folds)
    assert [one.width for one in found.tried] == pytest.approx(np.average(widths, axis=1, weights=K))
    assert [one.coverage for one in found.tried] == pytest.approx(np.average(held, axis=1, weights=K))
    banded = fit_reaches(errors, pattern, own, said, folds, ways=(BAND,))
    assert banded.band == fit_band(said, -errors, own)
    assert banded.at(0.9, pattern)[0] == quantile(outside_of(np.ones(ROWS, dtype=bool)), own)
    judged = judge_reaches(banded, said, true, pattern, own)
    copied = judge_reaches(banded, said[COPIES], true[COPIES], pattern[COPIES], GROUPS[COPIES])
    assert judged is not None
    assert copied is not None
    same([judged.coverage.value, judged.width.value], [copied.coverage.value, copied.width.value])
    assert judged.by_pattern["image"].coverage == pytest.approx(copied.by_pattern["image"].coverage)


def test_the_band_is_used_where_errors_grow_among_rows_that_count() -> None:
    draw, folds, pattern = np.random.default_rng(1), np.arange(400) % 4, np.full(400, "image")
    said, even = 10 * draw.random(400), np.arange(400) // 4 % 2 == 0
    errors = draw.normal(size=400) * np.where(even, 5.0, 0.2 + said)
    ways = [
        fit_reaches(errors, pattern, sampling(None, np.where(even, *counted)), said, folds).way
        for counted in ((100.0, 1.0), (1.0, 100.0))
    ]
    assert ways == [PLAIN, BAND]
