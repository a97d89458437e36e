"""Labels: a probability for each, label by label and all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fusetune.data.choices import By
from fusetune.errors import ConfigError, UserError, listed
from fusetune.evaluate.bootstrap import Clusters, Groups, clusters, resampled_areas, resampled_f1, some
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.decision import Learnt, Rule
from fusetune.evaluate.intervals import Interval, means, percentile, proportion, score_with_intervals
from fusetune.evaluate.measures.base import Answered, Measure
from fusetune.evaluate.metrics import SMALLEST_PROBABILITY, FloatArray, IntArray
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.temperature import FEW, Heat, Temperature, calibrate_each
from fusetune.evaluate.threshold import EVEN, EVEN_ODDS, F1, SHOWN, Limit, choose_threshold, f1_helps, label_aims
from fusetune.targets import Multilabel, Truth

_RESAMPLES = 200  # of areas and F1, which are computed anew for each
_PLAIN = "labels that are more probable than not"
_AIM_WORDS = {F1: "the largest F1"}


@dataclass(frozen=True)
class LabelRule(Rule):
    """How labels are said: each from a probability on.

    Attributes:
        limits: These probabilities.
        even: Are all of them even odds?
    """

    without: ClassVar[str] = "even_odds"
    limits: tuple[float, ...]
    even: bool

    @classmethod
    def evenly(cls, count: int, words: str = _PLAIN) -> LabelRule:
        """Return that each is said where it is more probable than not."""
        return cls(None, None, words, (EVEN,) * count, even=True)

    def decide(self, probabilities: FloatArray) -> IntArray:
        """Return the label whose log-odds are furthest above those of its threshold, int [rows]."""
        edges = logit(np.clip(self.limits, SMALLEST_PROBABILITY, np.nextafter(1.0, 0.0)))
        return np.asarray((logit(probabilities) - edges).argmax(1))

    def called(self, probabilities: FloatArray) -> FloatArray:
        """Return 1 for each label that is said, else 0, float [rows, labels]."""
        return np.asarray(probabilities >= np.array(self.limits), dtype=np.float64)

    def score(self, probabilities: FloatArray, labels: Truth, groups: Groups, **how: int) -> dict[str, Interval]:
        """Return the metrics that hang on what is said; empty at even odds, where `Labels.scores` says the same."""
        return {} if self.even else _decided(self.called(probabilities) > 0, labels > 0, groups, **how)

    def sureness(self, probabilities: FloatArray) -> FloatArray:
        """Return how far each row is from other labels."""
        return self.margin(probabilities)

    def margin(self, probabilities: FloatArray) -> FloatArray:
        """Return the distance of each row's nearest probability from its threshold, float [rows]."""
        return np.asarray(np.abs(probabilities - np.array(self.limits)).min(1))


@dataclass(frozen=True)
class LabelScore:
    """How one label fares on judged rows: those that have it, and what is said of all, from which probability on."""

    name: str
    rows: int
    threshold: float
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
    rule = _PLAIN
    constant = "always answering the same labels"

    @property
    def plainly(self) -> LabelRule:
        """Every label that is more probable than not."""
        return LabelRule.evenly(self.target.width)

    def check_aim(self, aim: str | Mapping[str, str] | None, positive: str | None) -> None:
        """Refuse aims of labels that there are not."""
        if positive is not None:
            raise ConfigError("evaluate.positive is for two classes, and a row can have several labels; leave it out")
        label_aims(aim, self.target.names)

    def thresholds(self, rows: Answered, aim: str | Mapping[str, str] | None, positive: str | None) -> dict[str, Any]:
        """Return the threshold of each label; for the largest F1 only of those with some rows with and without it."""
        self.check_aim(aim, positive)
        aims, limits = label_aims(aim, self.target.names), []
        for wanted, p, has in zip(aims, rows.p.T, rows.truth.T > 0, strict=True):
            few, aim_here = min(has.sum(), (~has).sum()) < FEW, wanted
            if wanted == SHOWN:
                aim_here = EVEN_ODDS if few or not f1_helps(p, has, rows.dealt, rows.groups) else F1
            limits.append(
                Limit(aim_here, None if aim_here == F1 and few else choose_threshold(aim_here, p, has, rows.groups))
            )
        return {"limits": limits if any(one.aim != EVEN_ODDS for one in limits) else []}

    def rule_of(self, names: Sequence[Any], learnt: Learnt, by: By) -> Rule:
        """Return the thresholds of the labels where some were learnt and are wanted, else even odds."""
        if not learnt.limits:
            return LabelRule.evenly(len(names))
        aims = dict.fromkeys(one.aim for one in learnt.limits)
        if by == "most-probable":
            told = listed([_AIM_WORDS.get(aim, aim) for aim in aims if aim != EVEN_ODDS])
            return LabelRule.evenly(len(names), f"{_PLAIN}; thresholds for {told} are not followed")
        return LabelRule(None, None, _words(names, learnt.limits), tuple(one.at for one in learnt.limits), even=False)

    def say(self, f: ArrayLike, temperature: Heat = 1.0) -> FloatArray:
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
        rows = np.stack([self.lost_rows(p, truth), ((p - truth) ** 2).mean(1)], 1)
        nll, brier = means(rows, groups, resamples=resamples, seed=seed)
        found = _decided(p > 0.5, truth > 0, groups, resamples=resamples, seed=seed)
        return found | _areas(p, truth > 0, groups, resamples=resamples, seed=seed) | {"nll": nll, "brier": brier}

    def calibrate(self, f: FloatArray, truth: Truth, folds: IntArray, groups: Groups) -> tuple[Temperature, FloatArray]:
        """Fit a temperature for all labels and one for each that it helps; see `calibrate_each`."""
        return calibrate_each(f, truth, folds, groups, self.losses_of)

    def mistakes(self, p: FloatArray, truth: Truth, rule: Rule) -> list[int]:
        """Return rows with a label too many or too few, those of the largest loss first."""
        wrong = np.flatnonzero((rule.called(p) != (truth > 0)).any(1))
        return [int(at) for at in wrong[np.argsort(-self.lost_rows(p, truth)[wrong], kind="stable")]]

    def telling(self, p: FloatArray, truth: Truth, rule: Rule) -> dict[str, int]:
        """Return a row of middling loss with all labels right, and the worst mistake."""
        lost, right = self.lost_rows(p, truth), (rule.called(p) == (truth > 0)).all(1)
        found = dict[str, int]()
        if right.any():
            rows = np.flatnonzero(right)
            found["A usual right answer"] = int(rows[np.argsort(lost[rows], kind="stable")][len(rows) // 2])
        if wrong := self.mistakes(p, truth, rule):
            found["Its worst mistake"] = wrong[0]
        return found

    def counts(self, truth: Truth) -> list[int]:
        """Return how many rows have each label."""
        return [int(count) for count in truth.sum(0)]

    def shown(self, answer: Any) -> str:
        """Return the labels, or that there is none."""
        return str(answer).replace(";", ", ") or "none"

    def further(
        self, rows: Answered, sets: Conformal, reaches: Reaches, *, rule: Rule, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return how each label fares, and which are said where which is."""
        assert isinstance(rule, LabelRule)
        how = {"resamples": resamples, "seed": seed}
        p, has, groups, called = rows.p, rows.truth > 0, rows.groups, rule.called(rows.p) > 0
        each = [
            _each(str(name), rule.limits[at], p[:, at], has[:, at], called[:, at], groups, **how)
            for at, name in enumerate(self.target.names)
        ]
        return {"each": each, "together": together(called, has, groups)}

    def called(self, p: FloatArray) -> NDArray[Any]:
        """Return the labels that are more probable than not, bool [rows, labels]."""
        return np.asarray(p > 0.5)

    def answers(self, p: FloatArray, rule: Rule) -> list[Any]:
        """Return the labels that are said, with `;` between them."""
        return self._joined(rule.called(p) > 0)

    def truths(self, truth: Truth) -> list[Any]:
        """Return the labels, with `;` between them."""
        return self._joined(truth > 0)

    def _joined(self, bits: NDArray[np.bool_]) -> list[Any]:
        return [";".join(str(self.target.names[at]) for at in np.flatnonzero(row)) for row in bits]


def together(called: NDArray[np.bool_], has: NDArray[np.bool_], groups: Groups = None) -> list[list[float | None]]:
    """Return for each label the share of the rows that have it of which each label is said; None without such a row.

    Args:
        called: What is said, bool [rows, labels].
        has: What is, bool [rows, labels].
        groups: What rows count, if it is a `Sampling`.
    """
    own = clusters(groups, len(has)).own[:, None] * has
    weight = own.sum(0)
    shares = own.T @ called / np.where(weight > 0, weight, 1.0)[:, None]
    return [
        [float(one) for one in row] if weighs else [None] * len(row) for row, weighs in zip(shares, weight, strict=True)
    ]


def _words(names: Sequence[Any], limits: Sequence[Limit]) -> str:
    """Return from when on labels are said, and what that was chosen for."""
    aims: dict[str, list[str]] = {}
    for name, one in zip(names, limits, strict=True):
        aims.setdefault(one.aim, []).append(str(name))
    told = [_AIM_WORDS.get(aim, aim) + (f" ({listed(own, 6)})" if len(aims) > 1 else "") for aim, own in aims.items()]
    words = f"every label from its own probability on, chosen on validation rows for {listed(told, 6)}"
    unknown = [str(name) for name, one in zip(names, limits, strict=True) if one.threshold is None]
    return words + (f"; at even odds, since none was found: {listed(unknown, 6)}" if unknown else "")


def _decided(
    called: NDArray[np.bool_], has: NDArray[np.bool_], groups: Groups, *, resamples: int, seed: int
) -> dict[str, Interval]:
    """Return the metrics that hang on which labels are said, bool [rows, labels] as `has`, which says which are."""
    right = called == has
    (label,) = means(right.mean(1)[:, None], groups, resamples=resamples, seed=seed)
    found = {"label_accuracy": label, "subset_accuracy": proportion(right.all(1), groups)}
    where = clusters(groups, len(has))
    whole = {
        f"{how}_f1": float(f1_score(has, called, average=how, sample_weight=where.weights, zero_division=0))
        for how in ("macro", "micro")
    }
    return found | _bounded(whole, where, resamples, lambda often: resampled_f1(called, has, where, seed=seed, **often))


def _areas(p: FloatArray, has: NDArray[np.bool_], groups: Groups, *, resamples: int, seed: int) -> dict[str, Interval]:
    """Return AUROC and AUPRC, means over labels that some rows have and others do not; NaN without such labels."""
    where = clusters(groups, len(has))
    both = [at for at in range(has.shape[1]) if has[:, at].any() and not has[:, at].all()]
    whole = {
        name: float(np.mean([area(has[:, at], p[:, at], sample_weight=where.weights) for at in both] or [math.nan]))
        for name, area in (("auroc", roc_auc_score), ("auprc", average_precision_score))
    }
    return _bounded(whole, where, resamples, lambda often: resampled_areas(p, has, where, seed=seed, **often))


def _bounded(
    whole: dict[str, float], where: Clusters, resamples: int, redrawn: Callable[[dict[str, int]], dict[str, FloatArray]]
) -> dict[str, Interval]:
    """Return scores with intervals from up to 200 resamples of groups."""
    draws = redrawn({"resamples": min(resamples, _RESAMPLES)}) if where.count >= 2 else {}
    return {name: percentile(value, draws.get(name, np.empty(0)), where.count) for name, value in whole.items()}


def _each(
    name: str, limit: float, p: FloatArray, y: NDArray[np.bool_], called: NDArray[np.bool_], groups: Groups, **how: int
) -> LabelScore:
    both = np.stack([1 - p, p], 1)
    scores = score_with_intervals(both, y.astype(np.int64), groups, **how)
    return LabelScore(
        name=name,
        rows=int(y.sum()),
        threshold=limit,
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
