"""Metrics against formulas written out in plain Python, and against published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fusetune.errors import UserError
from fusetune.evaluate import metrics, score


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def made_up(rows: int = 60, classes: int = 4, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Rounded scores, so that ties occur between and within classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    logits = random.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1
    return np.round(softmax(logits), decimals), labels


def recalls(decided: list[int], labels: list[int]) -> dict[int, float]:
    return {
        k: sum(d == k for d, y in zip(decided, labels, strict=True) if y == k) / labels.count(k) for k in set(labels)
    }


def test_accuracy_and_recalls_equal_counting() -> None:
    p, y = made_up()
    decided = [max(range(4), key=lambda k, row=row: (row[k], -k)) for row in p.tolist()]
    assert metrics.accuracy(p, y) == pytest.approx(np.mean([d == t for d, t in zip(decided, y, strict=True)]))
    assert metrics.balanced_accuracy(p, y) == pytest.approx(np.mean(list(recalls(decided, y.tolist()).values())))


def test_macro_f1_equals_counting() -> None:
    p, y = made_up()
    decided = p.argmax(axis=1)
    scores = []
    for k in range(4):
        hit, said, real = ((decided == k) & (y == k)).sum(), (decided == k).sum(), (y == k).sum()
        scores.append(2 * hit / (said + real))
    assert metrics.macro_f1(p, y) == pytest.approx(np.mean(scores))


def test_auroc_equals_comparing_all_pairs() -> None:
    p, y = made_up()
    areas = []
    for k in range(4):
        mine, others = p[y == k, k], p[y != k, k]
        areas.append(np.mean([(a > b) + 0.5 * (a == b) for a in mine for b in others]))
    assert metrics.auroc(p, y) == pytest.approx(np.mean(areas))


def test_auprc_equals_walking_down_the_ranking() -> None:
    p, y = made_up()
    areas = []
    for k in range(4):
        area, recall = 0.0, 0.0
        for level in sorted(set(p[:, k]), reverse=True):
            called = p[:, k] >= level
            reached = (called & (y == k)).sum() / (y == k).sum()
            area += (reached - recall) * (called & (y == k)).sum() / called.sum()
            recall = reached
        areas.append(area)
    assert metrics.auprc(p, y) == pytest.approx(np.mean(areas))


def test_brier_equals_its_sum() -> None:
    p, y = made_up()
    rows = [sum((p[i, k] - (k == y[i])) ** 2 for k in range(4)) for i in range(len(y))]
    assert metrics.brier(p, y) == pytest.approx(np.mean(rows))


def test_classwise_ece_equals_its_definition() -> None:
    p, y = made_up(decimals=9)
    total = 0.0
    for k in range(4):
        for b in range(15):
            here = [i for i in range(len(y)) if b / 15 < p[i, k] <= (b + 1) / 15]
            if here:
                total += len(here) / len(y) * abs(np.mean([y[i] == k for i in here]) - np.mean([p[i, k] for i in here]))
    assert metrics.classwise_ece(p, y) == pytest.approx(total / 4)


@pytest.mark.parametrize(("classes", "k"), [(2, None), (3, None), (4, 3), (6, 5), (101, 5)])
def test_top_k_takes_five_or_one_less_than_all(classes: int, k: int | None) -> None:
    assert metrics.top_size(classes) == k


def test_top_rows_equal_sorting_each_row() -> None:
    p, y = made_up(classes=6)
    for k in (1, 3, 5):
        best = [sorted(range(6), key=lambda c, row=row: (-row[c], c))[:k] for row in p.tolist()]
        assert metrics.top_rows(p, y, k).tolist() == [t in b for t, b in zip(y, best, strict=True)]


def test_auroc_equals_scikit_learn() -> None:
    p, y = made_up(decimals=9)
    p /= p.sum(axis=1, keepdims=True)
    assert metrics.auroc(p, y) == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))


def test_classes_that_never_occur_are_left_out() -> None:
    p, y = made_up(classes=3)
    wider = np.insert(p, 3, 0.0, axis=1)
    narrow = score(p, y)
    assert {name: score(wider, y)[name] for name in narrow} == pytest.approx(narrow)


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(metrics.auroc(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 1])))


def test_nll_is_clipped() -> None:
    p = np.array([[1.0, 0.0], [0.25, 0.75]])
    expected = -(math.log(1e-12) + math.log(0.75)) / 2
    assert metrics.nll(p, np.array([1, 1])) == pytest.approx(expected)


def test_ece_reference_value() -> None:
    logits = np.array([[2.0, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]])
    assert metrics.ece(softmax(logits), np.array([0, 1, 2, 1]), bins=10) == pytest.approx(0.3220027387769754, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_a_loop_over_bins(bins: int) -> None:
    p, y = made_up(rows=200)
    top, right = p.max(axis=1), p.argmax(axis=1) == y
    total = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        # Rounded scores may lie on a border, where 0.2 * 15 and 3 / 15 differ in the last bit.
        inside = (top > low + 1e-9) & (top <= high + 1e-9)
        if inside.any():
            total += inside.sum() / len(y) * abs(right[inside].mean() - top[inside].mean())
    assert metrics.ece(p, y, bins) == pytest.approx(total, abs=1e-9)


def test_ece_of_certain_and_right_is_zero() -> None:
    p = np.eye(3)
    assert metrics.ece(p, np.array([0, 1, 2])) == 0.0


def test_reliability_adds_up_to_ece() -> None:
    p, y = made_up(rows=200)
    bins = metrics.reliability(p, y)
    gaps = np.abs(np.nan_to_num(bins.confidence - bins.accuracy))
    assert bins.count.sum() == 200
    assert (bins.count * gaps).sum() / 200 == pytest.approx(metrics.ece(p, y))
    assert np.isnan(bins.accuracy[bins.count == 0]).all()


def test_confusion_counts_each_row_once() -> None:
    p, y = made_up(classes=3)
    table = metrics.confusion(np.insert(p, 3, 0.0, axis=1), y)
    assert table.shape == (4, 4)
    for row, decided in ((0, 1), (2, 2), (1, 0)):
        assert table[row, decided] == ((y == row) & (p.argmax(axis=1) == decided)).sum()
    assert table.sum() == len(y)


def test_score_has_the_agreed_keys() -> None:
    p, y = made_up()
    values = score(p, y)
    assert list(values) == [
        "accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "nll", "brier", "ece", "classwise_ece", "top_3",
    ]  # fmt: skip
    assert all(type(value) is float for value in values.values())


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no rows"),
        (np.full((2, 2), 0.5), np.zeros(3, int), r"\(2, 2\) and \(3,\)"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), np.zeros(2, int), r"NaN .* row\(s\) 1"),
        (np.full((2, 2), 0.5), np.array([0, 2]), r"row\(s\) 1 are not among the 2 classes"),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0]), "class indices"),
    ],
)
def test_what_cannot_be_scored_is_named(p: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(p, y)
