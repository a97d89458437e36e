"""Classes: probabilities, accuracy and NLL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusetune.data.choices import By
from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import Groups
from fusetune.evaluate.conformal import Conformal, fit_conformal, judge_sets, sets_at
from fusetune.evaluate.decision import Learnt, Rule
from fusetune.evaluate.intervals import Interval, means, proportion, score_with_intervals
from fusetune.evaluate.measures.base import Answered, Measure
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.miscalibration import miscalibration
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.seeds import crossed_mean, crossed_share
from fusetune.evaluate.selective import recalls, risk_coverage, worst
from fusetune.evaluate.temperature import Heat, softmax
from fusetune.evaluate.threshold import choose_threshold, positive_class
from fusetune.targets import Classification, Truth


class Classes(Measure[Classification]):
    """Probabilities of classes."""

    kind = "classification"
    score, loss, score_word, loss_word = "accuracy", "nll", "accuracy", "NLL"
    changed = ("nll", "brier", "ece", "classwise_ece")
    alike = (
        "all judged rows are of class {}; accuracy is then that of one class, and areas under ROC curves are unknown"
    )
    over_seeds, certain = ("macro_f1", "ece"), ("accuracy", *changed)
    rule = "the most probable class"
    decides = True
    constant = "always answering the most frequent class"

    def say(self, f: ArrayLike, temperature: Heat = 1.0) -> FloatArray:
        """Return softmax(f / T)."""
        return softmax(f, temperature)

    def right_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return whether the most probable class is right."""
        return metrics.correct_rows(p, truth).astype(np.float64)

    def lost_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return -log p of the label."""
        return metrics.nll_rows(p, truth)

    def scores(
        self, p: FloatArray, truth: Truth, groups: Groups = None, *, resamples: int = 2000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return the metrics of `score_with_intervals`."""
        return score_with_intervals(p, truth, groups, resamples=resamples, seed=seed)

    def check_aim(self, aim: str | Mapping[str, str] | None, positive: str | None) -> None:
        """Refuse aims of other than two classes."""
        positive_class(aim, positive, self.target.names)

    def called(self, p: FloatArray) -> NDArray[Any]:
        """Return the most probable class, int [rows]."""
        return metrics.decisions(p)

    def thresholds(self, rows: Answered, aim: str | Mapping[str, str] | None, positive: str | None) -> dict[str, Any]:
        """Return the threshold of two classes."""
        at = positive_class(aim, positive, self.target.names)
        limit = None if at is None else choose_threshold(str(aim), rows.p[:, at], rows.truth == at, rows.groups)
        return {"aim": aim, "positive": at, "threshold": limit}

    def rule_of(self, names: Sequence[Any], learnt: Learnt, by: By) -> Rule:
        """Return the threshold of two classes where one was learnt and is wanted, else the most probable class."""
        return Rule.of(names, learnt.aim, learnt.positive, learnt.threshold, by, self.rule)

    def answers(self, p: FloatArray, rule: Rule) -> list[Any]:
        """Return the class that is decided for."""
        return [self.target.names[at] for at in rule.decide(p)]

    def truths(self, truth: Truth) -> list[Any]:
        """Return the classes."""
        return [self.target.names[at] for at in truth]

    def promise(self, rows: Answered, seed: int) -> tuple[Conformal, Reaches]:
        """Learn thresholds of prediction sets."""
        return fit_conformal(rows.p, rows.truth, rows.keys, rows.pattern, rows.groups, seed), Reaches()

    def further(
        self, rows: Answered, sets: Conformal, reaches: Reaches, *, rule: Rule, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return prediction sets, error rates without the least sure rows, and where the model is worst."""
        p, truth, groups = rows.p, rows.truth, rows.groups
        names = [str(name) for name in self.target.names or range(p.shape[1])]
        return {
            "conformal": judge_sets(sets, p, truth, rows.keys, rows.pattern, groups),
            "risk_coverage": risk_coverage(p, truth, groups, resamples=resamples, seed=seed),
            "worst_group": worst(rule.called(p), truth, names, groups),
        }

    def beyond(self, p: FloatArray, truth: Truth, groups: Groups, *, rule: Rule, seed: int) -> dict[str, Any]:
        """Return the recall of every class, and how far certainty is off."""
        names = [str(name) for name in self.target.names]
        return {
            "recalls": recalls(rule.called(p), truth, names, groups),
            "miscalibration": miscalibration(p, truth, groups, seed=seed),
        }

    def facts(self) -> dict[str, Any]:
        """Return nothing: files of earlier versions are about classes, too."""
        return {}

    def right_at(self, truth: Truth) -> IntArray:
        """Return the classes."""
        return truth

    def mistakes(self, p: FloatArray, truth: Truth, rule: Rule) -> list[int]:
        """Return wrongly decided rows, the surest first."""
        sure, wrong = rule.sureness(p), np.flatnonzero(rule.decide(p) != truth)
        return [int(at) for at in wrong[np.argsort(-sure[wrong], kind="stable")]]

    def telling(self, p: FloatArray, truth: Truth, rule: Rule) -> dict[str, int]:
        """Return a right answer of middling certainty, the least sure answer and the surest mistake."""
        sure, right = rule.sureness(p), rule.decide(p) == truth
        found = dict[str, int]()
        if right.any():
            rows = np.flatnonzero(right)
            found["A usual right answer"] = int(rows[np.argsort(sure[rows], kind="stable")][len(rows) // 2])
        if len(sure):
            found["Its least sure answer"] = int(sure.argmin())
        if wrong := self.mistakes(p, truth, rule):
            found["Its surest mistake"] = wrong[0]
        return found

    def counts(self, truth: Truth) -> list[int]:
        """Return how many rows each class has."""
        counts: list[int] = np.bincount(truth, minlength=self.target.width).tolist()
        return counts

    def beside(self, p: FloatArray, decided: IntArray) -> dict[str, Any]:
        """Return the probability of the class that was decided for."""
        return {"probability": p[np.arange(len(p)), decided]}

    def check_coverage(self, coverage: float, sets: Conformal, reaches: Reaches) -> None:
        """Refuse what thresholds are not known for."""
        sets.at(coverage)

    def held(
        self, coverage: float, p: FloatArray, pattern: NDArray[np.str_], sets: Conformal, reaches: Reaches
    ) -> dict[str, Any]:
        """Return the prediction set of each row as a JSON list, and its size."""
        within, names = sets_at(sets, coverage, p, pattern), self.target.names
        listing = [json.dumps([names[at] for at in np.flatnonzero(row).tolist()], ensure_ascii=False) for row in within]
        return {"set": listing, "set_size": within.sum(1)}

    def trained_score(
        self, rows: FloatArray, truth: Truth, groups: ArrayLike | None, *, perfect: float = 1.0, **how: int
    ) -> Interval:
        """Return accuracy, with the interval of a share, or a difference of two."""
        return crossed_share(rows, groups, **how) if perfect else crossed_mean(rows, groups, **how)

    def pairs(
        self, answers: Sequence[FloatArray], truth: Truth, groups: Groups, **how: int
    ) -> list[tuple[Interval, Interval]]:
        """Return accuracy, with the interval of a share, and NLL."""
        losses = means(np.stack([metrics.nll_rows(p, truth) for p in answers], axis=1), groups, **how)
        return [
            (proportion(metrics.correct_rows(p, truth), groups), loss) for p, loss in zip(answers, losses, strict=True)
        ]
