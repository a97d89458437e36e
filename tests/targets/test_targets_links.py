"""Linear heads of every target against scikit-learn, SciPy and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from fusetune.config import HeadConfig
from fusetune.errors import ConfigError
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.solver import fit_crossed, fit_logistic
from fusetune.targets import Classification, Multilabel, Regression, Target
from fusetune.targets.links import Bernoulli, Link, Multinomial, Normal, Robust

ROWS, DIM = 160, 6


def data(target: type[Target], labels: Any, seed: int = 0, rows: int = ROWS) -> HeadData:
    random = np.random.default_rng(seed)
    z = random.standard_normal((1, rows, DIM)).astype(np.float32)
    present = np.ones(rows, dtype=bool)
    weights = random.uniform(0.5, 2.0, rows)
    return HeadData({"a": z}, {"a": present}, labels, weights, np.arange(rows), target=target)


def labels(kind: str, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    x = data(Classification, np.zeros(ROWS, dtype=np.int64)).z["a"][0]
    score = x @ random.standard_normal((DIM, 3)) + random.standard_normal((ROWS, 3))
    return {
        "numbers": score[:, 0],
        "bits": (score > [0.0, 1.0, -1.0]).astype(np.float32),
        "classes": score.argmax(1),
    }[kind]


def settings(penalty: float, **more: Any) -> HeadConfig:
    return HeadConfig(penalties=(penalty,), modality_dropout=0, **more)


def standardised(given: HeadData) -> Any:
    x = given.z["a"][0].astype(np.float64)
    return (x - x.mean(0)) / x.std(0) / DIM**0.5


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_numbers_are_solved_as_by_ridge_regression(penalty: float) -> None:
    given = data(Regression, labels("numbers"))
    fit = fit_logistic(given, given, settings(penalty), 1, 0)
    weights = given.weights / given.weights.sum()
    plain = Ridge(alpha=penalty, solver="cholesky").fit(standardised(given), given.labels, sample_weight=weights)
    np.testing.assert_allclose(logits_of(fit.head, given)[:, 0], plain.predict(standardised(given)), atol=1e-5)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_labels_are_solved_as_by_one_logistic_regression_each(penalty: float) -> None:
    given = data(Multilabel, labels("bits"))
    fit = fit_logistic(given, given, settings(penalty), 3, 0)
    weights = given.weights / given.weights.sum()
    for at in range(3):
        plain = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000)
        plain.fit(standardised(given), given.labels[:, at], sample_weight=weights)
        expected = plain.decision_function(standardised(given))
        np.testing.assert_allclose(logits_of(fit.head, given)[:, at], expected, atol=1e-4)


def test_far_off_rows_do_not_dominate_a_robust_head() -> None:
    """Huber's loss against a general minimiser of the same objective, and against squares."""
    clean = labels("numbers")
    far = clean.copy()
    far[:8] += 60.0
    given = data(Regression, far)
    x, w = standardised(given), given.weights / given.weights.sum()

    def objective(values: Any) -> float:
        error = x @ values[:-1] + values[-1] - far
        size = np.abs(error)
        lost = np.where(size <= Robust.reach, error**2 / 2, Robust.reach * (size - Robust.reach / 2))
        return float(w @ lost + 0.01 / 2 * values[:-1] @ values[:-1])

    found = minimize(objective, np.zeros(DIM + 1), method="BFGS", options={"gtol": 1e-9}).x
    robust = fit_logistic(given, given, settings(0.01, robust=True), 1, 0)
    said = logits_of(robust.head, given)[:, 0].double().numpy()
    np.testing.assert_allclose(said, x @ found[:-1] + found[-1], atol=1e-3)
    squares = logits_of(fit_logistic(given, given, settings(0.01), 1, 0).head, given)[:, 0].double().numpy()
    assert np.square(said - clean)[8:].mean() < 0.2 * np.square(squares - clean)[8:].mean()


def test_a_robust_head_is_for_numbers() -> None:
    given = data(Classification, labels("classes"))
    with pytest.raises(ConfigError, match=r"head\.robust is for numbers"):
        fit_logistic(given, given, settings(0.01, robust=True), 3, 0)


@pytest.mark.parametrize(("target", "kind", "width"), [(Regression, "numbers", 1), (Multilabel, "bits", 3)])
def test_what_is_said_of_a_fold_does_not_know_its_labels(target: type[Target], kind: str, width: int) -> None:
    folds = np.arange(ROWS) % 4
    given = data(target, labels(kind))
    before = fit_crossed(given, given, folds, settings(1e-2), width, 0)
    other = given.labels.copy()
    other[folds == 2] = other[folds == 2][::-1]
    changed = HeadData(given.z, given.present, other, given.weights, given.keys, target=target)
    after = fit_crossed(changed, changed, folds, settings(1e-2), width, 0)
    assert before.held is not None
    assert after.held is not None
    np.testing.assert_allclose(after.held[folds == 2], before.held[folds == 2], atol=1e-4)
    assert np.abs(after.held[folds != 2] - before.held[folds != 2]).max() > 0.01


def test_a_label_that_a_fold_does_not_tell_apart_is_a_constant_there() -> None:
    """All rows of a label in one fold: without it, the label is never seen, and is never said."""
    bits = labels("bits")
    folds = np.arange(ROWS) % 4
    bits[:, 0] = folds == 1
    fit = fit_crossed(data(Multilabel, bits), data(Multilabel, bits), folds, settings(1e-2), 3, 0)
    assert fit.held is not None
    assert (fit.held[folds == 1, 0] == -30.0).all()
    assert np.isfinite(fit.held).all()


LINKS: list[tuple[Link, str]] = [
    (Multinomial(), "classes"), (Bernoulli(), "bits"), (Normal(), "numbers"), (Robust(), "numbers")
]  # fmt: skip


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_errors_and_curvature_are_derivatives_of_the_loss(link: Link, kind: str) -> None:
    truth, width = torch.from_numpy(labels(kind)), 1 if kind == "numbers" else 3
    z = torch.randn(ROWS, 2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    known = torch.ones(2, width, dtype=torch.bool)

    def loss(at: torch.Tensor) -> torch.Tensor:
        if kind == "bits":
            return F.binary_cross_entropy_with_logits(at, truth.double()[:, None].expand_as(at), reduction="sum")
        y = truth[:, None].expand(-1, 2)
        if kind == "classes":
            return F.cross_entropy(at.flatten(0, 1), y.flatten())
        error = at[..., 0] - y
        reach = getattr(link, "reach", None)
        if reach:
            return F.huber_loss(at[..., 0], y.double(), delta=reach, reduction="sum")
        return error.square().sum() / 2

    def scaled(at: torch.Tensor) -> torch.Tensor:
        return loss(at) * (2 * ROWS if kind == "classes" else 1)

    start = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scaled(start), start, create_graph=True)
    losses, errors, _ = link.judge(z.clone(), truth, known)
    torch.testing.assert_close(losses.sum(), scaled(z).detach())
    torch.testing.assert_close(errors, gradient.detach())
    way = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    if gradient.requires_grad:
        (bent,) = torch.autograd.grad((gradient * way).sum(), start, allow_unused=True)
        bent = torch.zeros_like(way) if bent is None else bent
        torch.testing.assert_close(link.bend(z.clone(), truth, known)(way.clone()), bent)


@pytest.mark.parametrize(("target", "kind", "width"), [
    (Classification, "classes", 3), (Multilabel, "bits", 3), (Regression, "numbers", 1)
])  # fmt: skip
def test_counts_of_words_are_solved_without_their_zeros(
    target: type[Target], kind: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are, and as a matrix of numbers like any other: the same classifier, whatever weights and folds."""
    random = np.random.default_rng(5)
    z = (random.random((1, ROWS, 300)) < 0.03) * random.random((1, ROWS, 300))
    z = z.astype(np.float32)
    truth = labels(kind)
    z[0, :, 0] = 0.5 * (truth if kind == "numbers" else (truth == 1) if kind == "classes" else truth[:, 0])
    present, weights = np.ones(ROWS, dtype=bool), random.uniform(0.5, 2.0, ROWS)
    given = HeadData({"a": z}, {"a": present}, truth, weights, np.arange(ROWS), target=target)
    folds, found = np.arange(ROWS) % 3, []
    for thin in (True, False):
        if not thin:
            monkeypatch.setattr("fusetune.heads.design._is_thin", lambda rows: False)
        fit = fit_crossed(given, given, folds, settings(1e-2), width, 0, False)
        assert fit.held is not None
        said = [fit.held, logits_of(fit.head, given).numpy()]
        if kind == "classes":  # what all logits of a row have in common means nothing
            said = [logits - logits.mean(1, keepdims=True) for logits in said]
        found.append((fit.choice, *said))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=5e-2)  # the path is walked roughly
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-4)
