"""How a finished run is told in a line and in tables, for each kind of what it predicts, from `metrics.json` alone.

The command line tells results before anything is loaded, so this file imports nothing that takes time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fusetune.data.choices import TargetKind
from fusetune.errors import UserError

_LEAST, _MOST = 1e-4, 1e9  # sizes outside are written in powers of ten
_DIGITS = 3


@dataclass(frozen=True)
class Gauge:
    """A score of the gain table.

    Attributes:
        key: Its name in `metrics.json`.
        word: What it is called at the head of a column.
        value: Prints it.
        figure: Prints it in a table of plain numbers.
    """

    key: str
    word: str
    value: Callable[[float], str]
    figure: Callable[[float], str] = "{:.3f}".format


def amount(value: float, size: float, digits: int = _DIGITS) -> str:
    """Print a number in the label's unit, as finely as shows `digits` digits of one of this size.

    Every number of a table has the same decimals; sizes below 0.0001 or from a billion on take powers of ten.
    """
    if not math.isfinite(value):
        return "unbounded" if value == math.inf else "-"
    if not _LEAST <= size < _MOST or abs(value) >= _MOST * 1000:
        return f"{value:.{digits}g}"
    text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text if text.strip("-0.,") else text.removeprefix("-")


class Telling(ABC):
    """How a run is told.

    Args:
        metrics: The content of `metrics.json`.

    Attributes:
        kind: The kind of target.
        surer: What is said of a comparison where only the loss is shown to be better.
        plainly: By what rows are decided that no threshold decides, and models compared.
        score: The score of which more is better.
        loss: The score of which less is better.
    """

    kind: ClassVar[TargetKind]
    surer: ClassVar[str] = "but its probabilities are better"
    plainly: ClassVar[str] = "the most probable class"
    score: Gauge
    loss: Gauge

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics

    @property
    def first(self) -> str:
        """Name of the score that is told first."""
        return self.score.key

    @abstractmethod
    def right(self, bounds: bool = False) -> str:
        """Return how right it is, in words before "on ... test rows"."""

    def form(self, key: str) -> Callable[[float], str]:
        """Return what prints a score of this name in a table of plain numbers."""
        return "{:.3f}".format

    @abstractmethod
    def further(self) -> str:
        """Return what is said of it after that."""

    def test(self, plain: str) -> str:
        """Return what the paired test of rows is called; `plain` is its name where all rows count alike."""
        return "sign test of weighted rows" if self.metrics.get("weight") else plain

    @abstractmethod
    def compared(self, comparison: Mapping[str, Any]) -> str:
        """Return the numbers of a paired comparison."""

    def recalls(self) -> list[dict[str, Any]]:
        """Return name, rows and share decided right of all that has a share of its own.

        Raises:
            UserError: If there are none.
        """
        raise UserError("a share of each class asks for classes, and this run predicts a number; see metrics['test']")

    @abstractmethod
    def check_classes(self) -> None:
        """Refuse what only makes sense of one class for each row.

        Raises:
            UserError: Saying why.
        """

    def bounds(self, key: str, gauge: Gauge) -> str:
        """Return the interval of a score of the test part in brackets, or nothing where there is none."""
        return _in_brackets(self.metrics["test"][key], gauge)


def _in_brackets(score: Mapping[str, Any], gauge: Gauge) -> str:
    return "" if score["low"] is None else f" [{gauge.value(score['low'])}, {gauge.value(score['high'])}]"


class OfClasses(Telling):
    """Classes."""

    kind = "classification"
    score = Gauge("accuracy", "accuracy", "{:.1%}".format)
    loss = Gauge("nll", "NLL", "{:.3f}".format)

    def right(self, bounds: bool = False) -> str:
        """Return the accuracy, by the model's threshold where it has one."""
        # Runs of earlier versions do not say by what they act.
        found = (self.metrics.get("acted") or self.metrics["test"])["accuracy"]
        return f"{found['value']:.1%}{_in_brackets(found, self.score) if bounds else ''} right"

    def further(self) -> str:
        """Return the NLL."""
        return f"NLL {self.metrics['test']['nll']['value']:.3f}"

    def compared(self, comparison: Mapping[str, Any]) -> str:
        """Return rows gained and lost, McNemar's test and the difference of NLLs."""
        c, test = comparison, self.test("exact McNemar")
        return f"{c['gained']} rows gained, {c['lost']} lost, {test} {_tests(c)}; NLL {c['nll']['value']:+.3f}"

    def check_classes(self) -> None:
        """Refuse nothing."""

    def recalls(self) -> list[dict[str, Any]]:
        """Return those of the classes."""
        return list(self.metrics["recalls"])


class OfLabels(Telling):
    """Labels, any number a row."""

    kind = "multilabel"
    plainly = "even odds"
    score = Gauge("label_accuracy", "label accuracy", "{:.1%}".format)
    loss = Gauge("nll", "NLL", "{:.3f}".format)

    @property
    def _acted(self) -> Mapping[str, Any]:
        """The scores of the test part, by the thresholds where it follows some."""
        return {**self.metrics["test"], **(self.metrics.get("acted") or {})}

    def right(self, bounds: bool = False) -> str:
        """Return the share of labels that is said or left out rightly."""
        found = self._acted["label_accuracy"]
        return f"{found['value']:.1%}{_in_brackets(found, self.score) if bounds else ''} of labels right"

    def further(self) -> str:
        """Return the share of rows with all labels right, and F1."""
        test = self._acted
        return f"all labels of a row right {test['subset_accuracy']['value']:.1%}; macro F1 {_f1(test['macro_f1'])}"

    def compared(self, comparison: Mapping[str, Any]) -> str:
        """Return rows with more and with fewer labels right, a sign test and the difference of NLLs."""
        c = comparison
        return (
            f"more labels right in {c['gained']} rows, fewer in {c['lost']}, {self.test('sign test')} {_tests(c)}; "
            f"NLL {c['nll']['value']:+.3f}"
        )

    def recalls(self) -> list[dict[str, Any]]:
        """Return those of the labels: of the rows that have one, the share that is said to."""
        return [{"name": one["name"], "rows": one["rows"], "share": one["recall"]} for one in self.metrics["each"]]

    def check_classes(self) -> None:
        """Refuse: a row can have several labels."""
        raise UserError(
            "a confusion matrix asks for one class a row, and here a row can have several labels; recalls() and "
            "metrics['each'] say how each label fares"
        )


class OfNumbers(Telling):
    """A number."""

    kind = "regression"
    surer = "but its mean error is smaller"
    score = Gauge("r2", "R²", "{:.3f}".format)

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        super().__init__(metrics)
        size = metrics["test"]["mae"]["value"] or metrics["target"]["deviation"]

        def printed(value: float) -> str:
            return amount(value, size)

        self.loss = Gauge("mae", "MAE", printed, printed)

    def form(self, key: str) -> Callable[[float], str]:
        """Return that of R2, or what prints an amount in the label's unit."""
        return self.score.figure if key == self.score.key else self.loss.figure

    @property
    def first(self) -> str:
        """The mean error: it is in the label's own unit."""
        return self.loss.key

    def right(self, bounds: bool = False) -> str:
        """Return the mean error."""
        error = self.metrics["test"]["mae"]["value"]
        return f"MAE {self.loss.value(error)}{self.bounds('mae', self.loss) if bounds else ''}"

    def further(self) -> str:
        """Return R2 with its interval."""
        r2 = self.metrics["test"]["r2"]
        return "R² -" if r2["value"] is None else f"R² {r2['value']:.3f}{self.bounds('r2', self.score)}"

    def compared(self, comparison: Mapping[str, Any]) -> str:
        """Return rows that it is nearer and farther, a sign test and both differences."""
        c = comparison
        r2 = "-" if c["r2"]["value"] is None else f"{c['r2']['value']:+.3f}"
        change = self.loss.value(c["mae"]["value"])
        return (
            f"nearer in {c['gained']} rows, farther in {c['lost']}, {self.test('sign test')} {_tests(c)}; R² {r2}, "
            f"MAE {'' if change.startswith('-') else '+'}{change}"
        )

    def check_classes(self) -> None:
        """Refuse: there are none."""
        raise UserError(
            "a confusion matrix asks for classes, and this run predicts a number; predictions.parquet holds what was "
            "said and what is"
        )


TELLING: dict[TargetKind, type[Telling]] = {one.kind: one for one in (OfClasses, OfLabels, OfNumbers)}


def telling_of(metrics: Mapping[str, Any]) -> Telling:
    """Return how a run of these metrics is told; those of earlier versions are about classes."""
    return TELLING[metrics.get("target", {"kind": OfClasses.kind})["kind"]](metrics)


def _tests(comparison: Mapping[str, Any]) -> str:
    c = comparison
    swapped = "" if c.get("p_group") is None else f"; groups swapped p = {c['p_group']:.2g}, {c['p_group_holm']:.2g}"
    return f"p = {c['p']:.2g}, {c['p_holm']:.2g} after Holm's correction{swapped}"


def _f1(score: Mapping[str, Any]) -> str:
    return "-" if score["value"] is None else f"{score['value']:.3f}"
