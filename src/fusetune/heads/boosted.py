"""Gradient boosting by LightGBM (Ke et al., NeurIPS 2017), one booster per fold, all of as many rounds.

The number of rounds is chosen on the rows that boosters did not learn from, of all folds together: one fold is too few
rows to stop by. New rows are told the mean of all boosters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fusetune.config import Section
from fusetune.errors import OPENMP, UserError
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.trees import Forest, TreesHead
from fusetune.progress import bar
from fusetune.targets import Boosted
from fusetune.targets.logarithm import told

# Trees of all boosters; pairs of trees and rows of the table, which are looked at several times when a model is judged;
# and how far all rounds together go at least, where they are few.
_MOST, _PAIRS, _REACH = 50_000, 100_000_000, 6.0


class Boosting(Section):
    """How trees are grown."""

    rate: float = Field(0.05, gt=0, le=1, description="what each round of trees counts for")
    leaves: int = Field(15, ge=2, le=1024, description="leaves of a tree at most")
    rounds: int = Field(1000, ge=1, description="rounds at most; fewer where held-out rows gain no more")
    stop_after: int = Field(40, ge=1, description="rounds without gain on held-out rows before growing stops")


@dataclass(frozen=True)
class _Grower:
    """One booster, what its trees say, and the rows that it is judged on."""

    booster: Any
    says: npt.NDArray[np.float64]
    held: npt.NDArray[np.int64]


def fit_trees(
    blank: TreesHead,
    data: HeadData,
    folds: npt.NDArray[np.int64],
    settings: Boosting,
    *,
    seed: int,
    threads: int,
    over: Callable[[], bool] = lambda: False,
    asked: int = 0,
) -> HeadFit:
    """Grow trees.

    Args:
        blank: A head without trees that knows the blocks; its reduction is learnt from these rows, labels apart.
        data: All rows, one view.
        folds: Fold of each row, from 0, whose booster does not learn from it; -1: all learn from it, and none is judged
            on it. With a single fold, one booster learns from the others and stops by these.
        settings: How.
        seed: Draws what each round sees.
        threads: Threads of LightGBM.
        over: Must growing end? Asked after each round.
        asked: How many rows will be asked about, such as all of the table; fewer trees are grown where they are many.

    Returns:
        The head; `held` are logits of all rows, zero where the fold is -1.
    """
    table, target = blank.tabulated(data), data.target
    learnt = data.labels if blank.scale is None else blank.scale.learnt(data.labels)
    count, parts = int(folds.max()) + 1, target.boosted(learnt, blank.classes)
    settings = _bounded(settings, sum(len(part.says) for part in parts), count, asked)
    growers = [
        _Grower(
            _booster(blank, table, data.weights, part, folds != fold, settings, seed, threads),
            part.says,
            np.flatnonzero(folds == fold),
        )
        for fold in range(count)
        for part in parts
    ]
    judged, logits = np.flatnonzero(folds >= 0), np.zeros((len(folds), blank.classes))
    best, rounds, kept, path = np.inf, 0, logits, list[tuple[float, float]]()
    with bar("growing trees", settings.rounds) as steps:
        for step in range(settings.rounds):
            stuck = [grower.booster.update() for grower in growers]
            for grower in growers:
                logits[grower.held] += _said(grower, table[grower.held], step)
            score = data.nll(told(blank.scale, logits[judged]), judged)
            path.append((step + 1, score))
            if score < best:
                best, rounds, kept = score, step + 1, logits.copy()
            steps.advance(note=f"NLL {score:.3f}")
            if all(stuck) or step + 1 - rounds >= settings.stop_after or over():
                break
    forest = Forest()
    for grower in growers:
        _plant(forest, grower, rounds, count)
    choice = f"{rounds} rounds of trees" + (f", mean of {count} folds" if count > 1 else "")
    held = np.where((folds >= 0)[:, None], told(blank.scale, kept), 0.0)
    return HeadFit(blank.planted(forest), best, choice, path[:: max(1, len(path) // 20)], held)


def _bounded(settings: Boosting, trees: int, folds: int, asked: int) -> Boosting:
    """Return settings under which many trees a round make no forest of gigabytes: fewer rounds that count for more."""
    rounds = max(1, min(_MOST, _PAIRS // max(asked, 1)) // (folds * trees))
    if rounds >= settings.rounds:
        return settings
    return settings.model_copy(update={"rounds": rounds, "rate": max(settings.rate, min(0.3, _REACH / rounds))})


def _library() -> Any:
    """Import what grows trees, which takes half a second that only they should cost.

    Raises:
        UserError: If the library of the system that it needs is missing, as in small images of Linux.
    """
    try:
        return import_module("lightgbm")
    except OSError as error:
        raise UserError(f"boosted trees need OpenMP, which is missing here ({error}): {OPENMP}") from error


def _booster(
    blank: TreesHead,
    table: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    part: Boosted,
    some: npt.NDArray[np.bool_],
    settings: Boosting,
    seed: int,
    threads: int,
) -> Any:
    lightgbm = _library()

    rows = int(some.sum())
    how = {
        **part.settings,
        "learning_rate": settings.rate,
        "num_leaves": settings.leaves,
        # The library's 20 and 100 leave small tables without a single split.
        "min_data_in_leaf": min(20, max(3, rows // 50)),
        "min_data_per_group": min(100, max(3, rows // 50)),
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "seed": seed % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of categories that are given as numbers, which is what codes are
        rows_of = lightgbm.Dataset(
            table[some], part.truth[some], weight=weights[some], categorical_feature=blank.categories,
            params={"verbosity": -1, "min_data_in_bin": 1, "feature_pre_filter": False},
        )  # fmt: skip
        return lightgbm.Booster(how, rows_of)


def _said(grower: _Grower, table: npt.NDArray[np.float64], step: int) -> npt.NDArray[np.float64]:
    """Return what one round adds to f of rows, [rows, width]."""
    if not len(table):
        return np.zeros((0, grower.says.shape[1]))
    raw = np.asarray(grower.booster.predict(table, raw_score=True, start_iteration=step, num_iteration=1))
    said: npt.NDArray[np.float64] = raw.reshape(len(table), -1) @ grower.says
    return said


def _plant(forest: Forest, grower: _Grower, rounds: int, folds: int) -> None:
    """Add the trees of some rounds."""
    for number, tree in enumerate(grower.booster.dump_model(num_iteration=rounds)["tree_info"]):
        forest.add(tree["tree_structure"], (grower.says[number % len(grower.says)] / folds).tolist())
