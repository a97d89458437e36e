"""Whether stated certainty, prediction sets and intervals keep their promise, after the loss of each modality too.

A modality is lost in all rows at once, and nothing is learnt anew: temperature, thresholds of sets and reaches of
intervals are those that the model brings from its validation rows. Mondrian ones have thresholds of their own for what
is then missing, where enough validation rows lacked the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusetune.evaluate.conformal import COVERAGE, METHODS, OTHER, Conformal, patterns
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, plain_answers
from fusetune.evaluate.intervals import Interval, means, proportion
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.reach import Reaches
from fusetune.progress import track

INTERVAL = "interval"
_NONE = Reaches()


@dataclass(frozen=True)
class ClassCoverage:
    """The rows of one class: how many hold their label in their set, and how large these are."""

    name: str
    rows: int
    groups: int | None
    coverage: Interval
    size: Interval


@dataclass(frozen=True)
class Coverage:
    """Prediction sets of one method, or intervals, pooled or Mondrian, against the promised coverage.

    `size` is the mean number of classes, or the mean width in the number's unit.
    """

    method: str
    mondrian: bool
    target: float
    coverage: Interval
    size: Interval
    by_class: list[ClassCoverage]


@dataclass(frozen=True)
class Certainty:
    """Calibration and prediction sets with all modalities, or without one.

    Attributes:
        lost: The modality that is taken away; None: none.
        rows: All judged rows, those that lacked it anyway included.
        groups: Their groups; None where rows are not grouped.
        scores: Metrics that say how certainty fares (`Measure.certain`): of classes accuracy, NLL, Brier score and
            calibration errors, by name.
        sets: Coverage of the prediction sets or intervals; empty where the model brings none.
    """

    lost: str | None
    rows: int
    groups: int | None
    scores: dict[str, Interval]
    sets: list[Coverage]


def certainty(
    model: Diagnosed,
    asked: Asked,
    conformal: Conformal,
    classes: list[str],
    reaches: Reaches = _NONE,
    *,
    resamples: int,
    seed: int,
) -> list[Certainty]:
    """Judge the certainty of some rows as they are, and without each modality that the network reads.

    Args:
        model: The saved model.
        asked: The rows.
        conformal: The thresholds that it brings.
        classes: Names of the classes.
        reaches: Of the intervals that it brings.
        resamples: Bootstrap samples behind each interval.
        seed: Of the resamples.
    """
    how = {"resamples": resamples, "seed": seed}
    probe, told = model.probe(asked), asked.judged
    found = []
    for lost in track([None, *model.modalities], "judging certainty"):
        present = dict(told.outputs.present)
        if lost is not None:
            present[lost] = torch.zeros_like(present[lost])
        p = plain_answers(probe) if lost is None else probe.again(present)
        scores = told.measure.scores(p, told.labels, told.groups, **how)
        pattern = patterns({name: bits.numpy() for name, bits in present.items()})
        sets = coverages(conformal, p, asked, pattern, classes, **how)
        sets += interval_coverages(reaches, p, asked, pattern, **how)
        kept = {name: scores[name] for name in told.measure.certain}
        found.append(Certainty(lost, len(asked), asked.group_count, kept, sets))
    return found


def coverages(
    conformal: Conformal, p: FloatArray, asked: Asked, pattern: NDArray[np.str_], classes: list[str], **how: int
) -> list[Coverage]:
    """Return how often the sets of every method hold the label, over all rows and by class.

    Args:
        conformal: The thresholds; none: an empty list.
        p: Probabilities of the rows, ``float [rows, classes]``.
        asked: The rows.
        pattern: Which modalities each has, in words.
        classes: Names of the classes.
        how: `resamples` and `seed`.
    """
    if not conformal.pooled:
        return []
    y, groups = asked.judged.labels, asked.judged.groups
    found = []
    for method, mondrian in product(METHODS, (False, True)):
        sets = conformal.sets(method, p, asked.judged.keys, pattern if mondrian else None)
        held, size = sets[np.arange(len(y)), y], sets.sum(axis=1)
        by_class = []
        for at, name in enumerate(classes):
            here: Any = y == at
            own = None if groups is None else groups[here]
            if here.any():
                mean = means(size[here, None], own, **how)[0]
                count = asked.some(here).group_count
                by_class.append(ClassCoverage(name, int(here.sum()), count, proportion(held[here], own), mean))
        whole = proportion(held, groups), means(size[:, None], groups, **how)[0]
        found.append(Coverage(method, mondrian, COVERAGE, *whole, by_class))
    return found


def interval_coverages(
    reaches: Reaches, p: FloatArray, asked: Asked, pattern: NDArray[np.str_], **how: int
) -> list[Coverage]:
    """Return how often the intervals hold the number: as the model states them, by pattern, and with one reach for all.

    Args:
        reaches: Of the intervals; none: an empty list.
        p: Numbers of the rows, ``float [rows, 1]``.
        asked: The rows.
        pattern: Which modalities each has, in words.
        how: `resamples` and `seed`.
    """
    if not reaches.levels:
        return []
    told, found = asked.judged, []
    y = np.asarray(told.measure.truths(told.labels), dtype=np.float64)
    for mondrian, names in ((True, pattern), (False, np.full(len(y), OTHER))):
        ends = told.measure.held(COVERAGE, p, names, Conformal(), reaches)
        held, width = (ends["low"] <= y) & (y <= ends["high"]), ends["high"] - ends["low"]
        whole = proportion(held, told.groups), means(width[:, None], told.groups, **how)[0]
        found.append(Coverage(INTERVAL, mondrian, COVERAGE, *whole, []))
    return found
