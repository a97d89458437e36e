"""Labels: a probability for each, label by label and all together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fusetune.errors import UserError, listed
from fusetune.evaluate.bootstrap import Groups, clusters, resampled_areas, resampled_f1, some
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.decision import PLAIN, Rule
from fusetune.evaluate.intervals import Interval, means, percentile, proportion, score_with_intervals
from fusetune.evaluate.measures.base import Answered, Measure
from fusetune.evaluate.metrics import SMALLEST_PROBABILITY, FloatArray, IntArray
from fusetune.evaluate.reach import Reaches
from fusetune.targets import Multilabel, Truth

_RESAMPLES = 200  # of areas and F1, which are computed anew for each


@dataclass(frozen=True)
class LabelScore:
    """How one label fares on judged rows: those that have it, and what is said of all."""

    name: str
    rows: int
    recall: Interval
    precision: Interval
    auroc: Interval
    auprc: Interval
    nll: Interval


class Labels(Measure[Multilabel]):
    """Probabilities of labels."""

    kind = "multilabel"
    score, loss, score_word, loss_word = "label_accuracy", "nll", "label accuracy", "NLL"
    changed = ("nll", "brier")
    over_seeds, certain = ("subset_accuracy", "macro_f1", "micro_f1"), ("label_accuracy", "subset_accuracy", *changed)
    rule = "labels that are more probable than not"
    constant = "always answering the same labels"

    def say(self, f: ArrayLike, temperature: float = 1.0) -> FloatArray:
        """Return sigmoid(f / T)."""
        return np.asarray(expit(np.asarray(f, dtype=np.float64) / temperature))

    def right_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return the share of labels that are decided rightly at even odds."""
        return np.asarray(((p > 0.5) == (truth > 0)).mean(1))

    def lost_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return -log p of all labels as they are, summed, in nats."""
        own = np.where(truth > 0, p, 1 - p)
        return np.asarray(-np.log(np.clip(own, SMALLEST_PROBABILITY, 1.0)).sum(1))

    def scores(
        self, p: FloatArray, truth: Truth, groups: Groups = None, *, resamples: int = 2000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return label_accuracy, subset_accuracy, macro_f1, micro_f1, auroc, auprc (means over labels), nll and brier.

        Shares of rows and means have intervals of whole groups; F1 and areas, of up to 200 resamples of groups.
        """
        if not len(truth):
            raise UserError("there are no rows to score; give a table with at least one labelled row")
        if len(broken := np.flatnonzero(~np.isfinite(p).all(1))):
            raise UserError(f"the model gave NaN or infinite probabilities in row(s) {listed(broken)}")
        right = (p > 0.5) == (truth > 0)
        rows = np.stack([right.mean(1), self.lost_rows(p, truth), ((p - truth) ** 2).mean(1)], 1)
        label, nll, brier = means(rows, groups, resamples=resamples, seed=seed)
        found = {"label_accuracy": label, "subset_accuracy": proportion(right.all(1), groups)}
        where = clusters(groups, len(truth))
        whole, draws = _ranked(p, truth, where.own), dict[str, FloatArray]()
        if where.count >= 2:
            often: dict[str, int] = {"resamples": min(resamples, _RESAMPLES), "seed": seed}
            draws = resampled_f1(p > 0.5, truth > 0, where, **often) | resampled_areas(p, truth > 0, where, **often)
        found |= {name: percentile(value, draws.get(name, np.empty(0)), where.count) for name, value in whole.items()}
        return found | {"nll": nll, "brier": brier}

    def mistakes(self, p: FloatArray, truth: Truth, rule: Rule = PLAIN) -> list[int]:
        """Return rows with a label too many or too few, those of the largest loss first."""
        wrong = np.flatnonzero(((p > 0.5) != (truth > 0)).any(1))
        return [int(at) for at in wrong[np.argsort(-self.lost_rows(p, truth)[wrong], kind="stable")]]

    def telling(self, p: FloatArray, truth: Truth, rule: Rule = PLAIN) -> dict[str, int]:
        """Return a row of middling loss with all labels right, and the worst mistake."""
        lost, right = self.lost_rows(p, truth), ((p > 0.5) == (truth > 0)).all(1)
        found = dict[str, int]()
        if right.any():
            rows = np.flatnonzero(right)
            found["A usual right answer"] = int(rows[np.argsort(lost[rows], kind="stable")][len(rows) // 2])
        if wrong := self.mistakes(p, truth):
            found["Its worst mistake"] = wrong[0]
        return found

    def counts(self, truth: Truth) -> list[int]:
        """Return how many rows have each label."""
        return [int(count) for count in truth.sum(0)]

    def shown(self, answer: Any) -> str:
        """Return the labels, or that there is none."""
        return str(answer).replace(";", ", ") or "none"

    def further(
        self, rows: Answered, sets: Conformal, reaches: Reaches, *, rule: Rule = PLAIN, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return how each label fares."""
        how = {"resamples": resamples, "seed": seed}
        names = [str(name) for name in self.target.names]
        p, has, groups = rows.p, rows.truth > 0, rows.groups
        return {"each": [_each(name, p[:, at], has[:, at], groups, **how) for at, name in enumerate(names)]}

    def decide(self, p: FloatArray) -> IntArray:
        """Return the most probable label."""
        return np.asarray(p.argmax(1))

    def called(self, p: FloatArray) -> NDArray[Any]:
        """Return which labels are said, bool [rows, labels]."""
        return np.asarray(p > 0.5)

    def answers(self, p: FloatArray, decided: IntArray) -> list[Any]:
        """Return the labels that are more probable than not, with `;` between them."""
        return [";".join(str(self.target.names[at]) for at in np.flatnonzero(row > 0.5)) for row in p]

    def truths(self, truth: Truth) -> list[Any]:
        """Return the labels, with `;` between them."""
        return self.answers(np.asarray(truth, dtype=np.float64), np.zeros(len(truth), dtype=np.int64))


def _each(name: str, p: FloatArray, y: NDArray[np.bool_], groups: Groups, **how: int) -> LabelScore:
    both = np.stack([1 - p, p], 1)
    scores = score_with_intervals(both, y.astype(np.int64), groups, **how)
    called = p > 0.5
    return LabelScore(
        name=name,
        rows=int(y.sum()),
        recall=proportion(called[y], some(groups, y)),
        precision=proportion(y[called], some(groups, called)),
        auroc=scores["auroc"],
        auprc=_own_auprc(p, y, groups, **how),
        nll=scores["nll"],
    )


def _own_auprc(p: FloatArray, y: NDArray[np.bool_], groups: Groups, **how: int) -> Interval:
    """Return the average precision of a label, not the mean of its and its absence's."""
    if not y.any() or y.all():
        return Interval(math.nan, math.nan, math.nan)
    where = clusters(groups, len(y))
    value = float(average_precision_score(y, p, sample_weight=where.weights))
    if where.count < 2:
        return Interval(value, math.nan, math.nan)
    often = how | {"resamples": min(how["resamples"], _RESAMPLES)}
    return percentile(value, resampled_areas(p[:, None], y[:, None], where, **often)["auprc"], where.count)


def _ranked(p: FloatArray, truth: Truth, weights: FloatArray) -> dict[str, float]:
    """Return F1 and areas of rows that count so often; NaN where no label occurs in some rows and not in others."""
    y, called = truth > 0, p > 0.5
    both = [at for at in range(y.shape[1]) if y[:, at].any() and not y[:, at].all()]
    found = {
        f"{how}_f1": float(f1_score(y, called, average=how, sample_weight=weights, zero_division=0))
        for how in ("macro", "micro")
    }
    areas = {"auroc": roc_auc_score, "auprc": average_precision_score}
    return found | {
        name: float(np.mean([area(y[:, at], p[:, at], sample_weight=weights) for at in both])) if both else math.nan
        for name, area in areas.items()
    }
