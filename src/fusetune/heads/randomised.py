"""Extremely randomised trees (Geurts, Ernst and Wehenkel, Machine Learning 63, 2006), one forest per fold.

Each split is the best of thresholds that are drawn, one for each of some features that are drawn too; a leaf says the
mean of its rows. Trees that are grown so differ from each other more than those of boosting, and their mean is smooth
where few rows say much. scikit-learn grows them, and tensors hold them as they hold boosted ones (`trees`). New rows
are told the mean of all forests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesRegressor

from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.trees import Forest, TreesHead
from fusetune.progress import bar

TREES = 50  # of each fold
_STEP = 10  # trees that are grown before it is asked whether time is over
_SHARE = 0.4  # of the features, of which each split draws a threshold
# Rows of a leaf at least, and leaves of a tree at most, about, by which a forest has a size whatever the rows; rows
# that a forest learns from at most, which are drawn of more.
_LEAST, _LEAVES, _ROWS = 3, 1000, 50_000
_LARGEST = float(np.finfo(np.float32).max)  # scikit-learn reads float32


def fit_randomised(
    blank: TreesHead,
    data: HeadData,
    folds: npt.NDArray[np.int64],
    *,
    seed: int,
    threads: int,
    over: Callable[[], bool] = lambda: False,
) -> HeadFit:
    """Grow forests.

    Args:
        blank: A head without trees that knows the blocks; its reduction is learnt from these rows, labels apart.
        data: All rows, one view, with labels of which a leaf can say the mean.
        folds: Fold of each row, from 0, whose forest does not learn from it; -1: all learn from it.
        seed: Draws thresholds, features and rows.
        threads: Threads of scikit-learn.
        over: Must growing end? Asked after each ten trees of a forest, which has ten at least.

    Returns:
        The head; `held` is f of all rows, zero where the fold is -1.
    """
    table, count = blank.tabulated(data), int(folds.max()) + 1
    readable = np.clip(table, -_LARGEST, _LARGEST).astype(np.float32)
    held, forest, grown = np.zeros((len(folds), blank.classes)), Forest(), list[int]()
    with bar("growing randomised trees", count * TREES) as steps:
        for fold in range(count):
            rows = _drawn(np.flatnonzero(folds != fold), seed + fold)
            trees = _forest(len(rows), seed + fold, threads)
            for wanted in range(_STEP, TREES + 1, _STEP):
                trees.n_estimators = wanted  # those that are there stay (`warm_start`)
                trees.fit(readable[rows], data.labels[rows], data.weights[rows])
                steps.advance(_STEP)
                if over():
                    break
            judged = np.flatnonzero(folds == fold)
            if len(judged):
                held[judged, 0] = trees.predict(readable[judged])
            grown.append(len(trees.estimators_))
            for one in trees.estimators_:
                forest.add(_described(one.tree_), [1 / (count * grown[-1])])
    score = data.nll(held[folds >= 0], np.flatnonzero(folds >= 0))
    choice = f"{sum(grown)} randomised trees" + (f", mean of {count} folds" if count > 1 else "")
    return HeadFit(blank.planted(forest), score, choice, held=held)


def _forest(rows: int, seed: int, threads: int) -> Any:
    return ExtraTreesRegressor(
        min_samples_leaf=max(_LEAST, rows // _LEAVES),
        max_features=_SHARE,
        random_state=seed % 2**31,
        n_jobs=threads,
        warm_start=True,
    )


def _drawn(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return the rows, or some that are drawn of many."""
    if len(rows) <= _ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, _ROWS, replace=False))


def _described(tree: Any, node: int = 0) -> dict[str, Any]:
    """Return a tree of scikit-learn as LightGBM describes one."""
    if tree.children_left[node] < 0:
        return {"leaf_value": tree.value[node].item()}
    return {
        "split_feature": tree.feature[node],
        "threshold": tree.threshold[node],
        "decision_type": "<=",
        "missing_type": "NaN",
        "default_left": bool(tree.missing_go_to_left[node]),
        "left_child": _described(tree, tree.children_left[node]),
        "right_child": _described(tree, tree.children_right[node]),
    }
