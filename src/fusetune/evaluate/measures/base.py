"""How answers about a target are judged: the counterpart of `targets.Target` after learning.

An answer, p [rows, width], is what a user is told: probabilities of classes or of labels, or a number in its own unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fusetune.data.choices import By, TargetKind
from fusetune.data.weights import Weights
from fusetune.errors import ConfigError, UserError
from fusetune.evaluate.bootstrap import Groups, sampling
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.decision import Learnt, Rule
from fusetune.evaluate.intervals import Interval, means
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.seeds import crossed_mean
from fusetune.evaluate.temperature import Heat, Temperature, calibrate, fit_temperature
from fusetune.targets import Target, Truth

T = TypeVar("T", bound=Target)


@dataclass(frozen=True)
class Answered:
    """Labelled rows and what is answered about them.

    Attributes:
        p: Answers, float64 [rows, width].
        truth: Labels.
        keys: Row keys, int64 [rows].
        pattern: Which modalities each row has.
        groups: The group of each row, or None; where rows do not count alike, a `Sampling`.
        folds: The fold of each row, int [rows], where something is learnt from them; rows of a group share one.
    """

    p: FloatArray
    truth: Truth
    keys: IntArray
    pattern: NDArray[np.str_]
    groups: Groups
    folds: IntArray | None = None

    @property
    def dealt(self) -> IntArray:
        """The folds; where they are not known, one for all."""
        return np.zeros(len(self.truth), dtype=np.int64) if self.folds is None else self.folds


class Measure(ABC, Generic[T]):
    """How answers are judged.

    Attributes:
        kind: The kind of target.
        score: Metric of the gain table of which more is better; the mean of `right_rows`.
        loss: Metric of it of which less is better; the mean of `lost_rows`.
        score_word: What it is called in a table.
        loss_word: The same of the loss.
        share: Is the score a share, shown in percent?
        changed: Metrics that a temperature changes, since they are about certainty.
        rule: How an answer is made of what a network says, in words.
        constant: The simplest answer of all, in words after "better than".
        over_seeds: Metrics of which a contest tells how they differ between seeds.
        certain: Metrics that say whether certainty keeps its promise.
        forest: The forest of scikit-learn by which the importance of columns is told.
        alike: What is said of rows that all have one label, with a place for it.
        decides: Is an answer one of several, with a margin to the next?
        chances: Are the numbers of an answer probabilities?
    """

    kind: ClassVar[TargetKind]
    score: ClassVar[str]
    loss: ClassVar[str]
    score_word: ClassVar[str]
    loss_word: ClassVar[str]
    share: ClassVar[bool] = True
    changed: ClassVar[tuple[str, ...]] = ()
    rule: ClassVar[str]
    constant: ClassVar[str]
    over_seeds: ClassVar[tuple[str, ...]]
    certain: ClassVar[tuple[str, ...]]
    forest: ClassVar[str] = "RandomForestClassifier"
    alike: ClassVar[str] = "all judged rows have the same label, {}; scores that compare rows are unknown"
    decides: ClassVar[bool] = False
    chances: ClassVar[bool] = True

    def __init__(self, target: T) -> None:
        self.target = target

    @abstractmethod
    def say(self, f: ArrayLike, temperature: Heat = 1.0) -> FloatArray:
        """Return answers, float64 [rows, width]."""

    @property
    def size(self) -> float | None:
        """The size by which numbers of an answer are printed, in its unit; None: they are shares."""
        return None

    @abstractmethod
    def right_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return how right each row's answer is, float [rows]."""

    @abstractmethod
    def lost_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return the loss of each row's answer, float [rows]."""

    @abstractmethod
    def scores(
        self, p: FloatArray, truth: Truth, groups: Groups = None, *, resamples: int = 2000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return every metric by name, with its interval.

        Raises:
            UserError: If answers cannot be scored.
        """

    def values(self, p: FloatArray, truth: Truth) -> dict[str, float]:
        """Return every metric by name, without intervals; errors are those of `scores`."""
        one = np.zeros(len(truth), dtype=np.int64)  # of one group there are none, so that nothing is drawn
        return {name: score.value for name, score in self.scores(p, truth, one).items()}

    def losses_of(self, f: FloatArray, truth: Truth) -> FloatArray:
        """Return the loss of each row by what a network says of it, float [rows]."""
        return self.lost_rows(self.say(f), truth)

    def temperature(self, f: FloatArray, truth: Truth, sample_weight: Weights | None = None) -> float:
        """Return the T by which f is best divided, from held-out rows; 1 where certainty is nothing that f says."""
        return fit_temperature(f, truth, self.losses_of, sampling(None, sample_weight))

    def calibrate(self, f: FloatArray, truth: Truth, folds: IntArray, groups: Groups) -> tuple[Temperature, FloatArray]:
        """Fit a temperature, and decide by cross-validation whether it helps.

        Returns:
            The temperature, and each row's by the other folds, float [rows, 1], or [rows, width] of several.
        """
        heat, rows = calibrate(f, truth, folds, groups, self.losses_of)
        return heat, rows[:, None]

    def check_aim(self, aim: str | Mapping[str, str] | None, positive: str | None) -> None:
        """Refuse an aim (`evaluate.aim`, `evaluate.positive`) that does not fit what is predicted.

        Raises:
            ConfigError: Saying why.
        """
        if aim is not None:
            raise ConfigError(f"evaluate.aim is for classes and labels, and this is {self.kind}; leave it out")

    def thresholds(self, rows: Answered, aim: str | Mapping[str, str] | None, positive: str | None) -> dict[str, Any]:
        """Return the parts of `Calibration` that `rule_of` reads, by name.

        Args:
            rows: Calibration rows with answers by what did not learn from them.
            aim: What thresholds are chosen for.
            positive: The positive class of two.

        Raises:
            ConfigError: As `check_aim`.
        """
        self.check_aim(aim, positive)
        return {}

    @property
    def plainly(self) -> Rule:
        """How rows are decided where nothing was learnt of it."""
        return Rule(None, None, self.rule)

    def rule_of(self, names: Sequence[Any], learnt: Learnt, by: By) -> Rule:
        """Return how rows are decided, by what was learnt of it or, `by` the simplest rule, whatever that says."""
        return self.plainly

    def called(self, p: FloatArray) -> NDArray[Any] | None:
        """Return what each answer stands for plainly, [rows] or [rows, labels]; None where nothing is decided."""
        return None

    @abstractmethod
    def answers(self, p: FloatArray, rule: Rule) -> list[Any]:
        """Return what a user is told of each row in one word: a class, labels, a number."""

    @abstractmethod
    def truths(self, truth: Truth) -> list[Any]:
        """Return labels as a user wrote them."""

    def promise(self, rows: Answered, seed: int) -> tuple[Conformal, Reaches]:
        """Learn what holds the truth with a stated probability, sets or intervals, from calibration rows.

        Args:
            rows: Answers about them, by what did not learn from them.
            seed: Of what is random in it.
        """
        return Conformal(), Reaches()

    def further(
        self, rows: Answered, sets: Conformal, reaches: Reaches, *, rule: Rule, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return parts of `analysis.Analysis` that this kind of answer has beyond those of all, by name.

        Args:
            rows: Answers about the judged rows.
            sets: As `promise` learnt them on other rows.
            reaches: The same of numbers.
            rule: How rows are decided.
            resamples: Bootstrap samples behind each interval.
            seed: Their seed.
        """
        return {}

    def beyond(self, p: FloatArray, truth: Truth, groups: Groups, *, rule: Rule, seed: int) -> dict[str, Any]:
        """Return parts of `result.Judgement` that this kind of answer has beyond those of all, by name."""
        return {}

    def right_at(self, truth: Truth) -> IntArray:
        """Return which of an answer's numbers `decide` should name, int [rows]; the first where that cannot be said."""
        return np.zeros(len(truth), dtype=np.int64)

    def facts(self) -> dict[str, Any]:
        """Return JSON values that say in files what is predicted (see `telling`), by name."""
        return {"target": {"kind": self.kind, **self.target.facts()}}

    def answered_by(self, table: pd.DataFrame) -> FloatArray:
        """Return answers, float64 [rows, width], from the columns that a table of predictions keeps of them.

        Raises:
            KeyError: If the table lacks one.
        """
        return table[[f"p({name})" for name in self.target.names]].to_numpy(np.float64)

    def shown_loss(self, loss: float, size: float | None = None) -> str:
        """Return a loss in plain characters, as finely as one of some size asks for; default: that of the labels."""
        return f"{loss:.3f}"

    @classmethod
    def named(cls, values: Any) -> Any:
        """Return JSON values of tables with score and loss under their own names, in place of `accuracy` and `nll`."""
        words = {
            "accuracy": cls.score, "nll": cls.loss, "valid_nll": f"valid_{cls.loss}",
            "p_nll": f"p_{cls.loss}", "p_nll_holm": f"p_{cls.loss}_holm", "nll_area": f"{cls.loss}_area",
            "laziness_nll": f"laziness_{cls.loss}",
        }  # fmt: skip
        if isinstance(values, dict):
            return {words.get(name, name): cls.named(value) for name, value in values.items()}
        return [cls.named(value) for value in values] if isinstance(values, list) else values

    @abstractmethod
    def mistakes(self, p: FloatArray, truth: Truth, rule: Rule) -> list[int]:
        """Return the rows whose answers are wrong, the worst first."""

    @abstractmethod
    def telling(self, p: FloatArray, truth: Truth, rule: Rule) -> dict[str, int]:
        """Return a few rows that show what answers are like, by what they are."""

    def counts(self, truth: Truth) -> list[int]:
        """Return how many rows have each of the names."""
        return [len(truth)]

    def shown(self, answer: Any) -> str:
        """Return an answer as a page shows it."""
        return str(answer)

    def kept(self, answers: list[Any]) -> list[Any]:
        """Return answers as a table keeps them in one column."""
        return [str(answer) for answer in answers]

    def shares(self, p: FloatArray) -> pd.DataFrame:
        """Return every number of answers as columns, p(<name>)."""
        return pd.DataFrame(p, columns=[f"p({name})" for name in self.target.names])

    def beside(self, p: FloatArray, decided: IntArray) -> dict[str, Any]:
        """Return columns beside what `answers` returns, by name."""
        return {}

    def check_coverage(self, coverage: float, sets: Conformal, reaches: Reaches) -> None:
        """Refuse a coverage that cannot be promised.

        Raises:
            UserError: Naming it.
        """
        raise UserError(f"sets that hold the truth with a stated probability are not known where it is {self.rule}")

    def held(
        self, coverage: float, p: FloatArray, pattern: NDArray[np.str_], sets: Conformal, reaches: Reaches
    ) -> dict[str, Any]:
        """Return columns of what holds the truth with this probability, by name; errors are those of the check."""
        self.check_coverage(coverage, sets, reaches)
        return {}

    def score_means(
        self, columns: FloatArray, truth: Truth, groups: Groups, *, perfect: float = 1.0, **how: int
    ) -> list[Interval]:
        """Return the score for each column of `right_rows` of the same rows, float [rows, columns], with intervals.

        Args:
            columns: Of `right_rows`, or of sums and differences of these.
            truth: Labels.
            groups: The group of each row.
            perfect: The score of perfect answers; 0 of a difference.
            how: Bootstrap samples and their seed.
        """
        return means(columns, groups, **how)

    def trained_score(
        self, rows: FloatArray, truth: Truth, groups: ArrayLike | None, *, perfect: float = 1.0, **how: int
    ) -> Interval:
        """Return the score of several trainings, from their `right_rows`, float [seeds, rows]; see `evaluate.seeds`.

        Args:
            rows: Of `right_rows`, or of differences of these.
            truth: Labels.
            groups: The group of each row.
            perfect: The score of perfect answers; 0 of a difference.
            how: Bootstrap samples and their seed.
        """
        return crossed_mean(rows, groups, **how)

    def pairs(
        self, answers: Sequence[FloatArray], truth: Truth, groups: Groups, **how: int
    ) -> list[tuple[Interval, Interval]]:
        """Return score and loss of several answers to the same rows, with intervals from the same resamples."""
        right = self.score_means(np.stack([self.right_rows(p, truth) for p in answers], axis=1), truth, groups, **how)
        lost = means(np.stack([self.lost_rows(p, truth) for p in answers], axis=1), groups, **how)
        return list(zip(right, lost, strict=True))

    def difference(
        self, p: FloatArray, q: FloatArray, truth: Truth, groups: Groups, **how: int
    ) -> tuple[Interval, Interval]:
        """Return score and loss of p minus those of q, with bootstrap intervals."""
        right, lost = ((each(p, truth) - each(q, truth))[:, None] for each in (self.right_rows, self.lost_rows))
        (score,) = self.score_means(right, truth, groups, perfect=0.0, **how)
        (loss,) = means(lost, groups, **how)
        return score, loss
