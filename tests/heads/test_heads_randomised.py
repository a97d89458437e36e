"""Randomised trees: tensors say what scikit-learn says, and forests are judged on rows that they did not learn from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor

from fusetune.heads import build_head, randomised
from fusetune.heads.base import HeadData
from fusetune.heads.randomised import fit_randomised
from fusetune.heads.trees import Forest, TreesHead
from fusetune.targets import Regression

ROWS = 400


def data_of(seed: int = 0) -> HeadData:
    """Cells with gaps and a category, a block of features, some of it absent, and a number that they tell."""
    rng = np.random.default_rng(seed)
    numbers, missing = rng.normal(size=(ROWS, 3)), rng.random((ROWS, 3)) < 0.2
    codes, wide = rng.integers(0, 5, (ROWS, 1)), rng.normal(size=(ROWS, 6))
    z = {
        "cells": np.concatenate([numbers * ~missing, missing, codes], 1).astype(np.float32)[None],
        "wide": wide.astype(np.float32)[None],
    }
    y = np.where(missing[:, 0], 1.0, numbers[:, 0]) + (codes[:, 0] > 2) + wide[:, 0] + rng.normal(0, 0.2, ROWS)
    present = {name: rng.random(ROWS) < 0.95 for name in z}
    return HeadData(z, present, (y - y.mean()) / y.std(), np.ones(ROWS), np.arange(ROWS), target=Regression)


def blank() -> TreesHead:
    return TreesHead({"cells": 7, "wide": 6}, 1, {"cells": [3, 1]})


def said(head: TreesHead, data: HeadData) -> np.ndarray:
    z = {name: torch.from_numpy(block[0]) for name, block in data.z.items()}
    return head.eval()(z, {name: torch.from_numpy(bits) for name, bits in data.present.items()}).numpy()[:, 0]


@pytest.mark.parametrize("gaps", [True, False], ids=["gaps in training", "gaps later"])
def test_tensors_say_what_scikit_learn_says(gaps: bool) -> None:
    data, head = data_of(), blank()
    table = head.tabulated(data)
    learnt = table if gaps else np.nan_to_num(table)
    trees = ExtraTreesRegressor(20, min_samples_leaf=3, random_state=0).fit(learnt.astype(np.float32), data.labels)
    forest = Forest()
    for tree in trees.estimators_:
        forest.add(randomised._described(tree.tree_), [1 / 20])
    asked = table if gaps else learnt
    told = head.planted(forest).grown(torch.from_numpy(asked))[:, 0].numpy()
    np.testing.assert_allclose(told, trees.predict(asked.astype(np.float32)), rtol=1e-9, atol=1e-9)


def test_a_row_is_told_by_the_forest_that_did_not_learn_from_it() -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    fit = fit_randomised(blank(), data, folds, seed=0, threads=1)
    assert fit.held is not None
    assert 0.5 < np.corrcoef(fit.held[:, 0], data.labels)[0, 1] < 0.99
    # Labels of one fold turned round: what is said of its rows stays, since nothing was learnt from them.
    turned = np.where(folds == 2, -data.labels, data.labels)
    other = fit_randomised(blank(), replace(data, labels=turned), folds, seed=0, threads=1)
    assert other.held is not None
    assert np.array_equal(other.held[folds == 2], fit.held[folds == 2])
    assert not np.array_equal(other.held[folds == 1], fit.held[folds == 1])
    assert fit.valid_nll == pytest.approx(data.nll(fit.held))


def test_the_head_is_the_mean_of_the_forests_and_is_built_again() -> None:
    data, folds = data_of(), np.arange(ROWS) % 2
    fit = fit_randomised(blank(), data, folds, seed=0, threads=1)
    assert isinstance(fit.head, TreesHead)
    assert fit.choice == "100 randomised trees, mean of 2 folds"
    halves = [fit_randomised(blank(), data, np.where(folds == f, 0, -1), seed=f, threads=1).head for f in (0, 1)]
    assert all(isinstance(half, TreesHead) for half in halves)
    mean = np.mean([said(half, data) for half in halves if isinstance(half, TreesHead)], 0)
    np.testing.assert_allclose(said(fit.head, data), mean, atol=1e-6)
    again = build_head(fit.head.describe())
    again.load_state_dict(fit.head.state_dict())
    assert isinstance(again, TreesHead)
    assert np.array_equal(said(again, data), said(fit.head, data))


def test_rows_without_a_fold_are_learnt_from_and_not_judged() -> None:
    data, folds = data_of(), np.where(np.arange(ROWS) < 300, -1, 0)
    fit = fit_randomised(blank(), data, folds, seed=0, threads=1)
    assert fit.held is not None
    assert not fit.held[:300].any()
    assert isinstance(fit.head, TreesHead)
    np.testing.assert_allclose(said(fit.head, data)[300:], fit.held[300:, 0], atol=1e-6)


def test_a_forest_has_a_size_whatever_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    data, folds = data_of(), np.arange(ROWS) % 2
    monkeypatch.setattr(randomised, "_LEAVES", 20)
    monkeypatch.setattr(randomised, "_ROWS", 150)
    fit = fit_randomised(blank(), data, folds, seed=0, threads=1)
    leaves = int((fit.head.get_buffer("left") == torch.arange(len(fit.head.get_buffer("left")))).sum())
    assert leaves <= 20 * 100
    assert fit.held is not None
    assert np.isfinite(fit.held).all()


def test_growing_ends_when_it_must_and_absurd_numbers_stop_nothing() -> None:
    data, folds = data_of(), np.arange(ROWS) % 2
    data.z["cells"][0, 3, 0] = 3e38
    data.z["wide"][0, 5, 1] = math.inf
    fit = fit_randomised(blank(), data, folds, seed=0, threads=1, over=lambda: True)
    assert fit.choice.startswith("20 randomised trees")
