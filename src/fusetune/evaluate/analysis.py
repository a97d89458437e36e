"""Everything that is asked of one model on one set of judged rows, from stored outputs: no encoder runs here.

Results are plain JSON values, as `metrics.json` holds them: an interval is ``{"value", "low", "high"}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusetune.evaluate.calibration import Calibration, Judged
from fusetune.evaluate.conformal import CAVEAT, Conformal, coverage
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import (
    MOST,
    Masked,
    Subset,
    interference_table,
    keep_only,
    missing_table,
    shapley,
    shapley_table,
    subset_probabilities,
    subset_table,
)
from fusetune.evaluate.selective import risk_coverage, worst
from fusetune.evaluate.temperature import softmax
from fusetune.evaluate.threshold import judge_threshold
from fusetune.networks import Network, Outputs


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
) -> dict[str, Any]:
    """Return subsets, shapley, missing, interference, conformal, risk_coverage, worst_group and threshold.

    Args:
        network: The network.
        name: What its method is called among the rivals.
        calibration: What was learnt on other rows.
        rows: The judged rows.
        classes: Class names.
        rivals: Other methods, as functions from what is present to probabilities, for the missing rates.
        resamples: Bootstrap samples behind each interval.
        seed: Seed of resamples and masks.
    """
    heat, y, groups = calibration.temperature, rows.labels, rows.groups
    how = {"resamples": resamples, "seed": seed}
    p = softmax(rows.outputs.f.numpy(), heat)
    names = list(rows.outputs.present)
    few = subset_probabilities(network, rows.outputs, heat) if len(names) <= MOST else None

    def masked(present: Mapping[str, Any]) -> FloatArray:
        return softmax(network.again(rows.outputs, present).f.cpu().numpy(), heat)

    return {
        "subsets": few and subset_table(few, y, groups, **how),
        "shapley": few and shapley_table(few, y, groups, **how),
        "missing": missing_table({name: masked, **rivals}, names, y, rows.keys, groups, **how),
        "interference": interference_table(network, rows.outputs, y, heat, groups, **how),
        "conformal": _sets(calibration.conformal, p, rows),
        "risk_coverage": risk_coverage(p, y, groups, **how),
        "worst_group": worst(p, y, [str(name) for name in classes], groups),
        "threshold": _threshold(calibration, p, rows, classes),
    }


def row_shares(network: Network, outputs: Outputs, temperature: float) -> dict[str, FloatArray]:
    """Return each modality's share of each row's decision, ``float [rows]``, exact Shapley values.

    The value of a subset is the probability of the class that all modalities together decide for, so that a row's
    shares sum to that probability less what it is without any input. With more than 8 modalities: an empty mapping.
    """
    if len(outputs.present) > MOST:
        return {}
    few = subset_probabilities(network, outputs, temperature)
    decided = few[frozenset(outputs.present)].argmax(axis=1)
    return shapley({kept: p[np.arange(len(p)), decided] for kept, p in few.items()})


def without_inputs(network: Network, outputs: Outputs, temperature: float) -> FloatArray:
    """Return the probabilities that the model gives when it sees nothing, ``float [rows, classes]``."""
    nothing: Subset = frozenset()
    return softmax(network.again(outputs, keep_only(outputs, nothing)).f.cpu().numpy(), temperature)


def _sets(conformal: Conformal, p: FloatArray, rows: Judged) -> dict[str, Any] | None:
    if not conformal.pooled:
        return None
    found = coverage(conformal, p, rows.labels, rows.keys, rows.pattern, rows.groups)
    return {"sets": found, "caveat": None if rows.groups is None else CAVEAT}


def _threshold(calibration: Calibration, p: FloatArray, rows: Judged, classes: Sequence[Any]) -> dict[str, Any] | None:
    if calibration.aim is None or calibration.positive is None:
        return None
    found: dict[str, Any] = {
        "aim": calibration.aim,
        "positive": str(classes[calibration.positive]),
        "threshold": calibration.threshold,
    }
    if calibration.threshold is None:
        return found
    chance, positive = p[:, calibration.positive], rows.labels == calibration.positive
    return found | judge_threshold(calibration.threshold, chance, positive, rows.groups)
