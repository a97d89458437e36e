"""How a model fares when each modality of each row is missing with some probability, from 0 to 0.9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from fusetune.evaluate.diagnosis.curves import Curve, curves
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import IntArray
from fusetune.evaluate.modalities import RATES, Masked, missing_rows
from fusetune.targets import Truth


def missing_curves(
    methods: Mapping[str, Masked],
    names: Sequence[str],
    labels: Truth,
    keys: IntArray,
    groups: ArrayLike | None,
    measure: Measure[Any] = CLASSES,
    *,
    resamples: int,
    seed: int,
) -> list[Curve]:
    """Return one curve per method over the missing rates; what is missing is the same for all of them.

    Masks are a function of the rows' keys and the seed (`missing_masks`), drawn five times and averaged.

    Args:
        methods: Functions from what is present to answers, by name.
        names: The modalities.
        labels: Of the rows.
        keys: Row keys, ``int64 [rows]``.
        groups: The group of each row, or None.
        measure: How answers are judged.
        resamples: Bootstrap samples behind each interval.
        seed: Of masks and resamples.
    """
    right, lost = missing_rows(methods, names, labels, keys, measure, seed=seed)
    return curves(RATES, right, lost, labels, groups, measure, resamples=resamples, seed=seed)
