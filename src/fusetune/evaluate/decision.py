"""From probabilities to one class: the one place where a threshold is followed; of labels it is `measures.labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from fusetune.data.choices import By
from fusetune.evaluate.bootstrap import Groups
from fusetune.evaluate.intervals import Interval, score_with_intervals
from fusetune.evaluate.metrics import FloatArray, IntArray, decisions
from fusetune.evaluate.threshold import Limit

# Metrics of `metrics.score` that hang on the decision and not on the probabilities.
DECIDED = ("accuracy", "balanced_accuracy", "macro_f1")


class Learnt(Protocol):
    """What was learnt of decisions on validation rows: of two classes, or of each label (`Calibration`)."""

    @property
    def aim(self) -> str | None:
        """What the threshold of two classes was chosen for."""

    @property
    def positive(self) -> int | None:
        """Index of the positive class."""

    @property
    def threshold(self) -> float | None:
        """What was chosen; None: no aim, or out of reach."""

    @property
    def limits(self) -> Sequence[Limit]:
        """What was chosen for each label; empty where labels are said at even odds."""


@dataclass(frozen=True)
class Rule:
    """How rows are decided.

    Attributes:
        without: What scores are called that leave thresholds out, where the rule has any.
        positive: Index of the positive class of two, where there is a threshold.
        threshold: Probability of the positive class from which a row is called so; None: the most probable class.
        words: The rule in a sentence without a full stop.
    """

    without: ClassVar[str] = "most_probable"
    positive: int | None
    threshold: float | None
    words: str

    @classmethod
    def of(
        cls,
        classes: Sequence[Any],
        aim: str | None,
        positive: int | None,
        threshold: float | None,
        by: By = "judged",
        plain: str = "the most probable class",
    ) -> Rule:
        """Return the rule of a model: its threshold where one was learnt and is wanted, else the most probable class.

        Args:
            classes: Class names.
            aim: What the threshold was chosen for, or None.
            positive: Index of the positive class.
            threshold: What was chosen; None: no aim, or out of reach.
            by: `judged`: as the aim says; `most-probable`: whatever it says.
            plain: How an answer is made where there is no threshold, in words.
        """
        if aim is None or positive is None:
            return cls(None, None, plain)
        if by == "most-probable":
            return cls(None, None, f"{plain}; the threshold for {aim} is not followed")
        if threshold is None:
            return cls(None, None, f"{plain}, since no threshold reached {aim} on the validation rows")
        return cls(positive, threshold, f"'{classes[positive]}' from a probability of {threshold:.4g}, for {aim}")

    def decide(self, probabilities: FloatArray) -> IntArray:
        """Return the class of each row, ``int [rows]``, for probabilities ``float [rows, classes]``."""
        if self.threshold is None or self.positive is None:
            return decisions(probabilities)
        called = probabilities[:, self.positive] >= self.threshold
        return np.asarray(np.where(called, self.positive, 1 - self.positive))

    def called(self, probabilities: FloatArray) -> FloatArray:
        """Return the decisions as probabilities of 0 and 1, ``float [rows, classes]``, for scores that hang on them."""
        return np.asarray(np.eye(probabilities.shape[1])[self.decide(probabilities)])

    def score(self, probabilities: FloatArray, labels: IntArray, groups: Groups, **how: int) -> dict[str, Interval]:
        """Return the metrics of `DECIDED` by this rule; empty without a threshold, where `score` says the same.

        Args:
            probabilities: ``float [rows, classes]``.
            labels: Class indices, ``int [rows]``.
            groups: The group of each row, or None.
            how: As for `intervals.score_with_intervals`.
        """
        if self.threshold is None:
            return {}
        scores = score_with_intervals(self.called(probabilities), labels, groups, **how)
        return {name: scores[name] for name in DECIDED}

    def sureness(self, probabilities: FloatArray) -> FloatArray:
        """Return how sure each decision is, ``float [rows]``: its probability, or how far it is from the threshold."""
        return np.asarray(probabilities.max(axis=1)) if self.threshold is None else self.margin(probabilities)

    def margin(self, probabilities: FloatArray) -> FloatArray:
        """Return how far each row is from another decision, ``float [rows]`` from 0 to 1.

        That is the distance of the two largest probabilities, or of the positive class's from the threshold.
        """
        if self.threshold is not None and self.positive is not None:
            return np.asarray(np.abs(probabilities[:, self.positive] - self.threshold))
        if probabilities.shape[1] < 2:
            return np.ones(len(probabilities))
        best = np.partition(probabilities, -2, axis=1)[:, -2:]
        return np.asarray(best[:, 1] - best[:, 0])
