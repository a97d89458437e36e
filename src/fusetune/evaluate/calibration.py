"""What is learnt about a finished model on validation rows and goes with it: temperature, set sizes, threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fusetune.data.choices import By
from fusetune.data.weights import Weights
from fusetune.errors import listed
from fusetune.evaluate.bootstrap import Groups, sampling
from fusetune.evaluate.conformal import Conformal, patterns
from fusetune.evaluate.decision import Rule
from fusetune.evaluate.intervals import Interval, plain
from fusetune.evaluate.measures import CLASSES, Answered, Measure
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.temperature import Heat, Temperature, crossfit
from fusetune.evaluate.threshold import OVER, Limit
from fusetune.networks import Outputs
from fusetune.targets import Truth


@dataclass(frozen=True)
class Judged:
    """Rows that a model is judged on or calibrated with.

    Attributes:
        outputs: What the model says about them.
        labels: As the target has them: class indices, int64 [rows].
        keys: Row keys, int64 [rows].
        groups: The group of each row, or None.
        measure: How answers are judged.
        sample_weight: What each row counts, float64 [rows]; None: all alike.
    """

    outputs: Outputs
    labels: Truth
    keys: IntArray
    groups: NDArray[Any] | None
    measure: Measure[Any] = CLASSES
    sample_weight: Weights | None = None

    @property
    def sampling(self) -> Groups:
        """Groups, and what rows count: what all that is said of them rests on."""
        return sampling(self.groups, self.sample_weight)

    @property
    def pattern(self) -> NDArray[np.str_]:
        """Which modalities each row has, in words."""
        return patterns({name: bits.numpy() for name, bits in self.outputs.present.items()})

    def answered(self, p: FloatArray, folds: IntArray | None = None) -> Answered:
        """Return the rows with answers about them, float64 [rows, width], and the folds of rows to be learnt from."""
        return Answered(p, self.labels, self.keys, self.pattern, self.sampling, folds)


@dataclass(frozen=True)
class Calibration:
    """What was learnt on validation rows.

    Attributes:
        temperature: Logits are divided by it; of labels it may be one each.
        conformal: Thresholds of prediction sets.
        aim: What the threshold of two classes was chosen for, such as "sensitivity >= 0.9".
        positive: Index of the positive class.
        threshold: Probability of the positive class from which a row counts as positive; None: no aim, or out of reach.
        reaches: Of the intervals around a number.
        limits: Of each label, the probability from which it is said; empty: more probable than not.
    """

    temperature: Heat = 1.0
    conformal: Conformal = field(default_factory=Conformal)
    aim: str | None = None
    positive: int | None = None
    threshold: float | None = None
    reaches: Reaches = field(default_factory=Reaches)
    limits: list[Limit] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return JSON values; an infinite threshold (every class is in the set) becomes None."""
        facts = dict(plain(self))
        if not self.reaches.levels:
            del facts["reaches"]
        if not self.limits:
            del facts["limits"]
        return facts

    @classmethod
    def read(cls, description: Mapping[str, Any]) -> Calibration:
        """Read what `describe` returned.

        Raises:
            ValueError: Naming what is wrong in it.
        """
        return TypeAdapter(cls).validate_python(description)

    def check(self, classes: int) -> None:
        """Refuse what cannot have been learnt for so many classes.

        Raises:
            ValueError: Naming it.
        """
        heats = self.temperature if isinstance(self.temperature, list) else [self.temperature] * classes
        if len(heats) != classes or not all(0 < heat < math.inf for heat in heats):
            raise ValueError(f"a temperature of {self.temperature}")
        if self.positive is not None and not 0 <= self.positive < classes:
            raise ValueError(f"the positive class is number {self.positive} of {classes}")
        if self.threshold is not None:
            known = classes == 2 and self.aim is not None and self.positive is not None
            if not known or not 0 <= self.threshold <= OVER:
                raise ValueError(f"a threshold of {self.threshold} for {self.aim} of {classes} classes")
        if self.limits and (len(self.limits) != classes or not all(0 <= one.at <= OVER for one in self.limits)):
            raise ValueError(f"thresholds of {[one.threshold for one in self.limits]} for {classes} labels")
        self.conformal.check()
        self.reaches.check()

    def rule(self, classes: Sequence[Any], by: By = "judged", measure: Measure[Any] = CLASSES) -> Rule:
        """Return how rows are decided, with the threshold or thresholds that were learnt, or `by` the simplest rule."""
        return measure.rule_of(classes, self, by)

    def unreached(self, classes: Sequence[Any]) -> list[str]:
        """Return in a sentence each aim that no threshold reaches on the validation part."""
        told = []
        if self.positive is not None and self.threshold is None:
            told.append(f"no threshold reaches '{self.aim}' on the validation part; none is given")
        for aim in dict.fromkeys(one.aim for one in self.limits if one.threshold is None):
            names = [name for name, one in zip(classes, self.limits, strict=True) if one == Limit(aim, None)]
            told.append(
                f"no threshold is chosen for '{aim}' of {listed(names, 12)}: it is out of reach on the validation "
                "part, or too few of its rows have the label or lack it; it is said where it is more probable than not"
            )
        return told


@dataclass(frozen=True)
class Scaled:
    """Held-out rows under the one rule by which every method's certainty is corrected.

    Attributes:
        heat: The temperature, and whether it is used.
        p: Answers for the rows, such as probabilities, each at the temperature that the other folds gave,
            ``float [rows, classes]``.
        crossfitted: Was what is said of these rows chosen without them?
        folds: The fold of each row, int [rows].
    """

    heat: Temperature
    p: FloatArray
    crossfitted: bool
    folds: IntArray


@dataclass(frozen=True)
class TemperatureScore:
    """What a temperature changes (see `Temperature` and `Scaled`).

    Attributes:
        valid_nll: NLL on validation rows by `before`, `after` (cross-validated) and `standard_error` of the difference.
        test: `before` and `after` it -> metric -> interval on the judged rows.
        each: Of several labels: the temperature of each, in their order, and whether it is its own.
    """

    temperature: float
    applied: bool
    rows: int
    crossfitted: bool
    valid_nll: dict[str, float]
    test: dict[str, dict[str, Interval]]
    each: list[tuple[float, bool]] = field(default_factory=list)


def judge_temperature(
    scaled: Scaled, rows: Judged, used: Mapping[str, Interval], **how: int
) -> TemperatureScore | None:
    """Compare judged rows with and without the temperature; `used` are the scores by what the model does.

    None where answers have no certainty that a temperature could change.
    """
    heat, measure = scaled.heat, rows.measure
    if not measure.changed:
        return None
    acts = heat.applied or heat.own
    other = measure.say(rows.outputs.f.numpy(), 1.0 if acts else heat.fitted)
    unused = measure.scores(other, rows.labels, rows.sampling, **how)
    pair = (unused, used) if acts else (used, unused)
    test = {
        when: {key: scores[key] for key in measure.changed}
        for when, scores in zip(("before", "after"), pair, strict=True)
    }
    nll = {"before": heat.before, "after": heat.after, "standard_error": heat.error}
    each = [(one.common, one.applied) for one in heat.each]
    return TemperatureScore(heat.fitted, heat.applied, heat.rows, scaled.crossfitted, nll, test, each)


def scale(rows: Judged, tried: Sequence[FloatArray], folds: IntArray, *, chosen_elsewhere: bool) -> Scaled:
    """Fit a temperature on held-out rows, used only where it helps rows that it was not fitted on.

    Args:
        rows: The rows, with the outputs of the finished network.
        tried: Their logits by each candidate that it was chosen from on these rows (``temperature.crossfit``); empty
            where they are not known.
        folds: The fold of each row; rows of a group share one.
        chosen_elsewhere: Was the network chosen without these rows, so that candidates are not needed?
    """
    crossfitted = len(tried) > 0 and len(np.unique(folds)) > 1
    measure, logits = rows.measure, rows.outputs.f.double().numpy()
    if crossfitted:
        logits = crossfit(tried, rows.labels, folds, measure.losses_of, rows.sampling)
    heat, heats = measure.calibrate(logits, rows.labels, folds, rows.sampling)
    return Scaled(heat, measure.say(logits / heats), crossfitted or chosen_elsewhere, folds)


def learn(
    rows: Judged, scaled: Scaled, *, aim: str | Mapping[str, str] | None, positive: str | None, seed: int
) -> Calibration:
    """Learn from validation rows what goes with the model.

    Args:
        rows: The validation rows.
        scaled: Their probabilities, each by a temperature from other folds.
        aim: What thresholds are for, as `evaluate.aim` says.
        positive: The positive class of two, where there is an aim; None: the second.
        seed: Seed of the random share of APS.

    Raises:
        ConfigError: If the aim does not fit what is predicted.
    """
    held = rows.answered(scaled.p, scaled.folds)
    sets, reaches = rows.measure.promise(held, seed)
    decides = rows.measure.thresholds(held, aim, positive)
    return Calibration(scaled.heat.value, sets, reaches=reaches, **decides)
