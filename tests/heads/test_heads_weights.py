"""Heads on rows that do not count alike: a row of weight k gives what k copies of it give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fusetune.config import HeadConfig
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.boosted import Boosting, fit_trees
from fusetune.heads.solver import fit_crossed, fit_logistic, fit_ridge
from fusetune.heads.trained import _judge
from fusetune.heads.trees import TreesHead
from fusetune.targets import Classification, Multilabel, Regression, Target

ROWS, DIM, CLASSES = 45, 3, 3
random = np.random.default_rng(1)
Z = random.normal(size=(ROWS, DIM)).astype(np.float32)
TRUTHS: dict[type[Target], Any] = {
    Classification: np.argmax(Z + random.normal(0, 1, Z.shape), 1),
    Multilabel: (Z + random.normal(0, 1, Z.shape) > 0).astype(np.float32),
    Regression: Z[:, 0] + random.standard_t(2, ROWS),
}
K = random.integers(1, 4, ROWS)
COPIES = np.repeat(np.arange(ROWS), K)


def rows_of(target: type[Target], rows: Any = slice(None), weights: Any = None) -> HeadData:
    """Return rows, with weights of mean 1."""
    truth = TRUTHS[target][rows]
    own = None if weights is None else weights / weights.mean()
    z, losses = {"a": Z[None, rows]}, np.ones(len(truth)) if own is None else own
    has, keys = {"a": np.ones(len(truth), bool)}, np.arange(len(truth))
    return HeadData(z, has, truth, losses, keys, target=target, sample_weight=own)


@pytest.mark.parametrize(
    ("target", "outputs", "robust"),
    [(Classification, 3, False), (Multilabel, 3, False), (Regression, 1, False), (Regression, 1, True)],
)
def test_solved_heads_are_those_of_copies(target: type[Target], outputs: int, robust: bool) -> None:
    """Scales of features, the solution and the choice of its penalty, all as of copies."""
    config = HeadConfig(modality_dropout=0, robust=robust, penalties=[1.0, 0.1, 0.01])
    folds = np.arange(ROWS) % 3
    weighed, copied = rows_of(target, weights=K.astype(float)), rows_of(target, COPIES)
    one = fit_crossed(weighed, weighed, folds, config, outputs, 0)
    other = fit_crossed(copied, copied, folds[COPIES], config, outputs, 0)
    plain = fit_crossed(rows_of(target), rows_of(target), folds, config, outputs, 0)
    said = [logits_of(fit.head, rows_of(target)).numpy() for fit in (one, other, plain)]
    assert said[0] == pytest.approx(said[1], abs=1e-4)
    assert np.abs(said[0] - said[2]).max() > 1e-2
    assert (one.choice, one.valid_nll) == (other.choice, pytest.approx(other.valid_nll, rel=1e-3))


def test_choices_are_made_by_weights_of_validation_rows() -> None:
    config = HeadConfig(modality_dropout=0)
    learn, held = np.arange(ROWS) < 30, np.arange(ROWS) >= 30
    for fit in (fit_logistic, fit_ridge):
        weighed = fit(rows_of(Classification, learn), rows_of(Classification, held, K[held]), config, CLASSES, 0)
        copies = COPIES[COPIES >= 30]
        copied = fit(rows_of(Classification, learn), rows_of(Classification, copies), config, CLASSES, 0)
        assert weighed.valid_nll == pytest.approx(copied.valid_nll, rel=1e-6)
        assert weighed.choice == copied.choice


def test_trained_heads_are_judged_by_weights() -> None:
    head = fit_logistic(rows_of(Classification), rows_of(Classification), HeadConfig(), CLASSES, 0).head
    one, other = (
        _judge(head, {"a": torch.from_numpy(data.z["a"][0])}, data)
        for data in (rows_of(Classification, weights=K.astype(float)), rows_of(Classification, COPIES))
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_trees_learn_and_stop_by_weights() -> None:
    """LightGBM draws rows, so that copies are other trees; what is known is what its rounds are chosen by."""
    blank, how = TreesHead({"a": DIM}, CLASSES), Boosting(rounds=15, stop_after=15)
    folds = np.arange(ROWS) % 2

    def grown(weights: Any) -> Any:
        return fit_trees(blank, rows_of(Classification, weights=weights), folds, how, seed=0, threads=1)

    heavy = np.where(TRUTHS[Classification] == 0, 9.0, 1.0)
    plain, alike, weighed = grown(None), grown(np.full(ROWS, 4.0)), grown(heavy)
    assert (alike.held == plain.held).all()
    zero = TRUTHS[Classification] == 0
    assert weighed.held[~zero].argmax(1).tolist().count(0) > plain.held[~zero].argmax(1).tolist().count(0)
    nll = Classification.nll(weighed.held, TRUTHS[Classification], heavy)
    assert weighed.valid_nll == pytest.approx(nll)
    copies = np.repeat(np.arange(ROWS), heavy.astype(int))
    assert nll == pytest.approx(Classification.nll(weighed.held[copies], TRUTHS[Classification][copies]))
