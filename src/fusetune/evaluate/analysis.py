"""Everything that is asked of one model on one set of judged rows, from stored outputs: no encoder runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fusetune.evaluate import modalities
from fusetune.evaluate.calibration import Calibration, Judged, TemperatureScore
from fusetune.evaluate.conformal import Sets
from fusetune.evaluate.intervals import plain
from fusetune.evaluate.measures.labels import LabelScore
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import MOST, Masked, MisledScore, MissingScore, Probe, Share, SubsetScore
from fusetune.evaluate.reach import ReachScore
from fusetune.evaluate.selective import RiskCoverage, Worst
from fusetune.evaluate.threshold import ThresholdScore, judge_threshold
from fusetune.networks import Network


@dataclass(frozen=True)
class Analysis:
    """What is asked of a model beyond its scores; None where it cannot be answered.

    Attributes:
        subsets: Every subset of the modalities; None with more than 8 of them, as their shares.
        shapley: Each modality's share of what all add.
        missing: Each method at missing rates 0 to 0.9.
        interference: Each modality saying something false, in five ways.
        conformal: Prediction sets; None where no thresholds were learnt.
        risk_coverage: Error rates when the least sure rows are not answered.
        worst_group: The class and the group where it is worst.
        threshold: The threshold for the aim of two classes; None without an aim.
        calibration: What the temperature changes; None where the rows are not those of the run that learnt it.
        intervals: Of numbers: how often theirs hold the true one.
        each: Of labels: how each of them fares.
        together: Of labels: of the rows that have one (outer list), the share of which each is said; None: no row.
    """

    subsets: list[SubsetScore] | None = None
    shapley: list[Share] | None = None
    missing: list[MissingScore] = field(default_factory=list)
    interference: list[MisledScore] = field(default_factory=list)
    conformal: Sets | None = None
    risk_coverage: RiskCoverage | None = None
    worst_group: Worst | None = None
    threshold: ThresholdScore | None = None
    calibration: TemperatureScore | None = None
    intervals: ReachScore | None = None
    each: list[LabelScore] = field(default_factory=list)
    together: list[list[float | None]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values as `metrics.json` holds them: an interval is ``{"value", "low", "high"}``."""
        values: dict[str, Any] = plain(self)
        if values["threshold"]:
            values["threshold"] |= values["threshold"].pop("rates") or {}
        for name in ("calibration", "intervals", "each", "together"):
            if not values[name]:
                del values[name]
        if not values.get("calibration", {}).get("each", True):
            del values["calibration"]["each"]
        return values


def analyse(
    network: Network,
    name: str,
    calibration: Calibration,
    rows: Judged,
    classes: Sequence[Any],
    rivals: Mapping[str, Masked],
    *,
    resamples: int,
    seed: int,
    said: dict[bytes, Tensor] | None = None,
) -> Analysis:
    """Return everything but what the temperature changes.

    Args:
        network: The network.
        name: What its method is called among the rivals.
        calibration: What was learnt on other rows.
        rows: The judged rows.
        classes: Class names.
        rivals: Other methods, as functions from what is present to probabilities, for the missing rates.
        resamples: Bootstrap samples behind each interval.
        seed: Seed of resamples and masks.
        said: What the network said of these rows with less present (`Probe.said`); more is added.
    """
    measure = rows.measure
    probe = Probe(network, rows.outputs, calibration.temperature, measure=measure, said={} if said is None else said)
    p, y, groups, names = probe.p, rows.labels, rows.sampling, list(rows.outputs.present)
    how = {"resamples": resamples, "seed": seed}
    few = modalities.subset_probabilities(probe) if len(names) <= MOST else None
    sets, reaches, rule = calibration.conformal, calibration.reaches, calibration.rule(classes, measure=measure)
    return Analysis(
        subsets=None if few is None else modalities.subset_table(few, y, groups, measure, **how),
        shapley=None if few is None else modalities.shapley_table(few, y, groups, measure, **how),
        missing=modalities.missing_table({name: probe.again, **rivals}, names, y, rows.keys, groups, measure, **how),
        interference=modalities.interference_table(probe, y, groups, **how),
        threshold=_threshold(calibration, p, rows, classes),
        **measure.further(rows.answered(p), sets, reaches, rule=rule, **how),
    )


def row_shares(probe: Probe) -> dict[str, FloatArray]:
    """Return each modality's share of each row's decision, ``float [rows]``, exact Shapley values.

    The value of a subset is the probability of the class that all modalities together decide for, so that a row's
    shares sum to that probability less what it is without any input. With more than 8 modalities: an empty mapping.
    """
    if len(probe.outputs.present) > MOST:
        return {}
    few = modalities.subset_probabilities(probe)
    decided = probe.decide(few[frozenset(probe.outputs.present)])
    return modalities.shapley({kept: p[np.arange(len(p)), decided] for kept, p in few.items()})


def without_inputs(probe: Probe) -> FloatArray:
    """Return the probabilities that the model gives when it sees nothing, ``float [rows, classes]``."""
    return probe.again(modalities.keep_only(probe.outputs, frozenset()))


def _threshold(calibration: Calibration, p: FloatArray, rows: Judged, classes: Sequence[Any]) -> ThresholdScore | None:
    aim, at, limit = calibration.aim, calibration.positive, calibration.threshold
    if aim is None or at is None:
        return None
    rates = None if limit is None else judge_threshold(limit, p[:, at], rows.labels == at, rows.sampling)
    return ThresholdScore(aim, str(classes[at]), limit, rates)
