"""The page's parts for labels, any number a row: how each fares, how many rows have all of them right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fusetune.errors import listed
from fusetune.evaluate import metrics
from fusetune.evaluate.decision import Rule
from fusetune.evaluate.metrics import Reliability
from fusetune.evaluate.selective import Recall
from fusetune.report import panels, plots, prose
from fusetune.report.form import NLL, Forms, share
from fusetune.report.kinds.base import Kind
from fusetune.report.prose import Wording, count, number, percent, percent_bounds, point_bounds, points
from fusetune.report.terms import LABEL_SCORES, LABEL_TERMS
from fusetune.result import Case, Comparison

_SHARES = frozenset({"label_accuracy", "subset_accuracy"})
_OPEN = 20  # labels whose counts are shown at once
_DRAWN = 12  # labels in the heat map


@dataclass(frozen=True)
class Together:
    """The rows that have a label, and the share of them of which each label is said; None without such rows."""

    name: str
    rows: int
    shares: list[float | None]


class LabelKind(Kind):
    """Any number of labels."""

    kind, sheet = "multilabel", "labels.css"
    links = (("labels", "Labels"), ("calibration", "Certainty"))
    first_template, template = "labels_first.html", "labels.html"
    right = "of the labels right (said or left out)"
    constant, scored = "always the same labels", "Share of labels right"
    others, views = "with the same or with another rarest label", "the labels"
    mistakes_title = "Its worst mistakes"
    mistakes_words = (
        "Test rows with a label too many or too few, those of the largest NLL first. A row whose labels are wrong, or "
        "whose picture shows something else, is often among them. Bars say what each input adds to the probability of "
        "the label that the model is surest of;"
    )
    plainly = "this model, at even odds"
    acted = (
        "Models are compared by the labels that are more probable than not, since each would have thresholds of its "
        "own. The large number, the labels and the rows below are by the thresholds, as the model acts."
    )
    scored_plainly = "shares of labels and rows and F1 are at even odds, as the comparisons are"
    no_mistakes = "No test row has a label too many or too few, or mistakes were not collected."
    promised = "The temperature is that"
    score_in_words = "is right about {} of the labels"
    over_seeds = "Rows with all labels right, macro F1 and micro F1"
    terms, meanings = LABEL_TERMS, LABEL_SCORES

    @classmethod
    def forms(cls, size: float) -> Forms:
        """Return percent for shares."""
        return Forms(share("label accuracy", "Label accuracy"), NLL, _SHARES, cls.meanings, "rarest label")

    @property
    def described(self) -> str:
        """The number of labels."""
        return count(len(self.result.data.classes), "label") + ", any number a row"

    @property
    def card(self) -> tuple[str, str]:
        """A model of labels, and when it says them."""
        labels = count(len(self.result.data.classes))
        return (
            f"A model that says which of {labels} labels (“{self.result.origin.label}”) a row has, any number of them,",
            f"It decides {self._rule.words}. A row can get no label; it knows no others than these.",
        )

    @property
    def _rule(self) -> Rule:
        return self.result.judged.rule(self.result.data.classes)

    def beside(self) -> list[str]:
        """Return the share of rows with all labels right, and macro F1."""
        whole, f1 = map(self.result.judged.acted_on, ("subset_accuracy", "macro_f1"))
        bounds = [f" ({form(one)})" if one.bounded else "" for one, form in
                  ((whole, percent_bounds), (f1, prose.number_bounds))]  # fmt: skip
        return [f"{percent(whole.value)} of rows with all labels right{bounds[0]}",
                f"Macro F1 {number(f1.value)}{bounds[1]}"]  # fmt: skip

    @cached_property
    def wording(self) -> Wording:
        """What is said of comparisons: a model is better where it has more labels of more rows right."""
        return Wording(
            always=self.result.judged.measure.constant,
            unshown="Not shown to have more labels right than",
            surer="though its probabilities are shown to be better",
            loss_alone="its probabilities are better than those of each input alone",
            right="that it has more labels right than",
            gained=_gained,
            test=prose.paired_test(self.result, "exact sign test"),
        )

    def opening(self) -> list[str]:
        """Return the share of labels and of rows that are right, and that of the simplest answer."""
        judged = self.result.judged
        right, whole = map(judged.acted_on, ("label_accuracy", "subset_accuracy"))
        sentences = [
            f"{prose.on_test_rows(self.result)} the model is right about {percent(right.value)} of the labels in "
            f"“{self.result.origin.label}” ({prose.level_bounds(right, percent_bounds)}), and about all labels of "
            f"{percent(whole.value)} of the rows ({prose.level_bounds(whole, percent_bounds)})."
        ]
        if judged.acted:
            plain = percent(judged.test["label_accuracy"].value)
            sentences.append(
                f"It decides {judged.rule(self.result.data.classes).words}; at even odds it would be {plain}."
            )
        train = self.result.data.class_counts.get("train")
        if train and self.result.data.rows.get("train") and len(judged.labels["test"]):
            said = np.asarray(train) > self.result.data.rows["train"] / 2
            right_rows = ((judged.labels["test"] > 0) == said).mean(1)
            share_right = float(metrics.average(right_rows, judged.counted.get("test")))
            names = listed([name for name, one in zip(self.result.data.classes, said, strict=True) if one]) or "none"
            sentences.append(
                f"Always saying the labels that more than half of the training rows have ({names}) would be right "
                f"about {percent(share_right)} of them."
            )
        return sentences

    def certainty(self) -> str:
        """Return how sure it is of labels, and how often that is right."""
        judged = self.result.judged
        p, truth, counted = judged.probabilities["test"], judged.labels["test"], judged.counted.get("test")
        if not len(truth):
            return "Whether its stated certainty can be believed was not measured."
        each = np.maximum(p, 1 - p).mean(1), ((p > 0.5) == (truth > 0)).mean(1)
        stated, right = (float(metrics.average(rows, counted)) for rows in each)
        return (
            f"Label by label, it states a certainty of {percent(stated)} on average that a label is there or not, and "
            f"is right in {percent(right)}."
        )

    @cached_property
    def _bins(self) -> Reliability:
        """Every label of every row as a decision between two classes, there and not."""
        judged = self.result.judged
        p, truth = judged.probabilities["test"].ravel(), judged.labels["test"].ravel()
        counted = judged.counted.get("test")
        weights = None if counted is None else np.repeat(counted, judged.labels["test"].shape[1])
        return metrics.reliability(np.stack([1 - p, p], 1), (truth > 0).astype(np.int64), weights=weights)

    def limits(self) -> list[str]:
        """Return labels of few rows, and the one that is found least."""
        each, few_rows, sentences = self.result.judged.analysis.each, panels.FEW_ROWS, list[str]()
        few = [one.name for one in each if one.rows < few_rows]
        if few:
            sentences.append(f"Fewer than {few_rows} test rows have {listed(few)}: little is known about it.")
        large = [one for one in each if one.rows >= few_rows]
        if len(large) > 1:
            low = min(large, key=lambda one: one.recall.value)
            many = f"Of the labels that at least {few_rows} test rows have" if few else "Of all labels"
            sentences.append(
                f"{many}, “{low.name}” is found least often: in {percent(low.recall.value)} of {low.rows} rows "
                f"({percent_bounds(low.recall)})."
            )
        return sentences

    def context(self) -> dict[str, Any]:
        """Return how each label fares, and calibration over all of them."""
        each = self.result.judged.analysis.each
        recalls, more = panels.first_recalls([Recall(one.name, one.rows, one.recall) for one in each])
        precision = {one.name: one.precision for one in each}
        heat = self.result.judged.analysis.calibration
        shown = self._most_frequent()
        return {
            "each": each,
            "decides": self._rule.words,
            "own_heats": heat.each if heat is not None and any(own for _, own in heat.each) else [],
            "shown": [each[at].name for at in shown],
            "together": [
                Together(each[at].name, each[at].rows, [self.result.judged.analysis.together[at][to] for to in shown])
                for at in shown
            ],
            "recalls": recalls,
            "more_recalls": more,
            "precision": precision,
            "recall_axis": panels.accuracy_axis(row.share for row in recalls),
            "bins": self._bins,
            "reliability": plots.reliability_plot(self._bins, "stated certainty (label there or not)"),
            "counted": "label",
            "counts_open": len(self.result.data.classes) <= _OPEN,
        }

    def _most_frequent(self) -> list[int]:
        """Return the labels that most test rows have, in their order, as many as a heat map has room for."""
        analysis = self.result.judged.analysis
        if not analysis.together:
            return []
        return sorted(sorted(range(len(analysis.each)), key=lambda at: -analysis.each[at].rows)[:_DRAWN])

    def shares_words(self, case: Case) -> str:
        """Return which label's probability they are of."""
        return f"What each input adds to the probability of “{case.about}”, in points"


def _gained(comparison: Comparison) -> str:
    difference = comparison.accuracy
    return (
        f"has more labels right in {count(comparison.gained, 'row')} and fewer in {count(comparison.lost)}, a "
        f"difference of {points(difference.value)} percentage points of the labels ({point_bounds(difference)}"
    )
