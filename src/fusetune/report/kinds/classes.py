"""The page's parts for classes: recalls, confusions, calibration, prediction sets."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from fusetune.errors import listed
from fusetune.evaluate import metrics
from fusetune.report import panels, plots, prose, tables
from fusetune.report.form import NLL, Forms, share
from fusetune.report.kinds.base import Kind
from fusetune.report.prose import Wording, percent, percent_bounds
from fusetune.result import Case

MANY_CLASSES = 20  # more do not fit a matrix on a page: the most frequent confusions are listed instead
_FIRST = 15
_SHARES = frozenset({"accuracy", "balanced_accuracy"})


class ClassKind(Kind):
    """One class of several."""

    kind = "classification"
    links = (("classes", "Classes"), ("calibration", "Certainty"))
    first_template, template = "classes_first.html", "classes.html"
    right = "right"
    sign_test, independent = "McNemar", "McNemar’s test takes rows"
    constant, scored = "always the most frequent class", "Share right"
    others, views = "of the same or of another class", "the class"
    mistakes_title = "Its most certain mistakes"
    mistakes_words = (
        "Test rows that the model decides wrongly, the surest first. A row whose label is wrong, or whose picture "
        "shows something else, is often among them. Bars say what each input adds to the wrong answer;"
    )
    no_mistakes = "No test row was decided wrongly, or mistakes were not collected."
    filtered = True
    promised = "Temperature and thresholds of prediction sets are those"
    sets = (
        "Prediction sets: how often they hold the label, against the promised {}, and their mean number of classes. "
        "Mondrian sets have thresholds of their own for what is missing."
    )
    score_in_words, over_seeds = "is right for {}", "Macro F1 and calibration error (ECE)"

    @classmethod
    def forms(cls, size: float) -> Forms:
        """Return percent for shares."""
        return Forms(share("accuracy", "Accuracy"), NLL, _SHARES, cls.meanings)

    @property
    def described(self) -> str:
        """The number of classes."""
        return f"{len(self.result.data.classes)} classes"

    @property
    def card(self) -> tuple[str, str]:
        """A classifier, and that it answers one of its classes."""
        origin, classes = self.result.origin, self.result.data.classes
        return (
            f"A classifier of “{origin.label}” into {prose.count(len(classes))} classes",
            "It answers one of its classes for every row, also for rows that belong to none.",
        )

    @cached_property
    def wording(self) -> Wording:
        """What `prose` says of classes."""
        return prose.class_wording(self.result)

    def opening(self) -> list[str]:
        """Return the accuracy, and that of always answering the most frequent class."""
        return prose.class_opening(self.result)

    def certainty(self) -> str:
        """Return what `prose.certainty` says."""
        return prose.certainty(self.result)

    def called(self, name: str) -> str:
        """Return the name."""
        return name

    def limits(self) -> list[str]:
        """Return classes of few rows, and the worst one."""
        result, few_rows = self.result, panels.FEW_ROWS
        classes, lows, sentences = result.data.classes, result.judged.analysis.worst_group, list[str]()
        counts = np.bincount(result.judged.labels["test"], minlength=len(classes))
        few = [name for name, rows in zip(classes, counts, strict=True) if rows < few_rows]
        if few:
            sentences.append(f"Fewer than {few_rows} test rows are of class {listed(few)}: little is known about it.")
        if lows is not None and lows.class_ is not None and lows.class_.judged > 1:
            low = lows.class_
            many = f"Of the classes with at least {few_rows} test rows" if low.judged < low.of else "Of all classes"
            sentences.append(
                f"{many}, “{low.name}” is decided right least often: {percent(low.accuracy.value)} of {low.rows} rows "
                f"({percent_bounds(low.accuracy)})."
            )
        return sentences

    def context(self) -> dict[str, Any]:
        """Return confusions, recalls, calibration and what is told of hard rows."""
        judged, names = self.result.judged, self.result.data.classes
        table = metrics.confusion(judged.rule(names).called(judged.probabilities["test"]), judged.labels["test"])
        bins = metrics.reliability(
            judged.probabilities["test"], judged.labels["test"], weights=judged.counted.get("test")
        )
        few, classes = len(names) <= MANY_CLASSES, tables.class_rows(names, table)
        recalls, more = panels.first_recalls(judged.recalls)
        return {
            "recalls": recalls,
            "more_recalls": more,
            "recall_axis": panels.accuracy_axis(row.share for row in recalls),
            "matrix_of": table.tolist() if len(names) <= panels.FEW_CLASSES else None,
            "selective": panels.selective(judged.analysis.risk_coverage),
            "selective_words": panels.selective_words(judged.analysis.risk_coverage),
            "classes": classes if few else sorted(classes, key=lambda row: (row.rows == 0, row.f1, row.name)),
            "first_classes": len(classes) if few else _FIRST,
            "confusion": table.tolist() if few else None,
            "confused": tables.confused_pairs(names, table)[:_FIRST],
            "bins": bins,
            "reliability": plots.reliability_plot(bins),
            "counted": "class",
            "counts_open": few,
        }

    def said(self, case: Case) -> str:
        """Return how sure it is."""
        return f" {percent(case.probability)}"

    def label_said(self, case: Case) -> str:
        """Return the probability of the label."""
        return f" {percent(case.label_probability)}"
