"""Neighbours across the split: do test rows have a near twin in training that tells their label?

The label of a test row's nearest training row is compared with the truth, once among all training rows and once among
those of other groups. Frames of a video make the first number nearly perfect, whatever the pictures show. Where rows of
a group are numbered (frames), the nearest training row is the one with the nearest number; otherwise it is the one with
the most similar cheap features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.neighbours import nearest_numbers
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import Finding
from fusetune.doctor.groups import majority_accuracy
from fusetune.doctor.sketch import Features

# Test rows whose neighbours are looked for: the standard error of a share is below 1.2 %.
_QUERIES = 2_000
_BATCH = 256
# A leak is shown where same-group rows help more often than they harm by three standard errors of that difference,
# and by two points, below which nobody would change a split.
_ERRORS, _POINTS = 3.0, 0.02
# Fewer rows per group than this are not a sequence, whatever their numbers look like.
_SEQUENCE = 5
Shares = npt.NDArray[np.float64]


class Agreement(NamedTuple):
    """How often the nearest training row has the same label, 0 to 1 per judged row, and what else is known of it.

    `other` leaves out training rows of the same group; it is None where there is no other group.
    """

    rows: Codes
    same: Shares
    other: Shares | None
    evidence: dict[str, Any]


def neighbour_findings(examined: Examined, features: Features) -> list[Finding]:
    """Return the finding about nearest training rows: an error where rows of the same group tell the label."""
    parts, labels = examined.parts, examined.labels
    if parts is None or labels is None or not (parts == 0).any() or not (parts == 2).any():
        return []
    alike = _by_features(examined, parts, labels, features) if features.shape[1] else None
    numbered = _by_number(examined, parts, labels)
    other = None if alike is None or alike.other is None else float(alike.other.mean())
    both = [agreement for agreement in (alike, numbered) if agreement is not None]
    return [_judged(examined, max(both, key=lambda it: it.same.mean()), other)] if both else []


def _judged(examined: Examined, nearest: Agreement, other: float | None) -> Finding:
    """Return an error where rows of the same group tell the label of test rows, else the numbers."""
    assert examined.labels is not None
    agreement, count = float(nearest.same.mean()), len(nearest.rows)
    what = f"the nearest training row has the label of {agreement:.1%} of {count:,} test rows"
    what += "" if other is None else f", and of {other:.1%} if rows of the same group do not count"
    evidence = {
        "agreement": round(agreement, 4),
        "agreement_other_groups": None if other is None else round(other, 4),
        "majority": majority_accuracy(examined.labels),
        "count": count,
        **nearest.evidence,
    }
    column, other = examined.column_of("label"), agreement if other is None else other
    error = _ERRORS * np.sqrt((agreement * (1 - agreement) + other * (1 - other)) / count)
    if agreement - other > max(float(error), _POINTS):
        remedy = "split by group: rows of one group on both sides make every score too good"
        kind = "neighbours_across_parts"
        return examined.finding(kind, "error", what, remedy, nearest.rows, column, **evidence)
    remedy = "nothing: a score to compare the model with"
    return examined.finding("neighbour_agreement", "info", what, remedy, (), column, **evidence)


def _by_features(examined: Examined, parts: Codes, labels: Codes, features: Features) -> Agreement | None:
    sample = examined.sample
    train = np.flatnonzero((labels[sample] >= 0) & (parts[sample] == 0))
    test = np.flatnonzero((labels[sample] >= 0) & (parts[sample] == 2))[:_QUERIES]
    if not len(train) or not len(test):
        return None
    groups = None if examined.groups is None else examined.units[sample]
    same, other = nearest_agreement(features, labels[sample], test, train, groups)
    rows, evidence = sample[test], {"nearest_by": "cheap features"}
    if other is None or np.isnan(other).all():
        return Agreement(rows, same, None, evidence)
    both = ~np.isnan(other)
    return Agreement(rows[both], same[both], other[both], evidence)


def nearest_agreement(
    features: Features, labels: Codes, test: Codes, train: Codes, groups: Codes | None
) -> tuple[Shares, Shares | None]:
    """Return how far each test row's nearest training rows share its label.

    Where several training rows are equally near, it is the share of them. The second result leaves out rows of the same
    group: NaN where there is no other. It is None without groups.

    Features are float32 [rows, width], labels and groups numbers per row, `test` and `train` positions of rows.
    """
    same, apart = np.empty(len(test)), np.empty(len(test))
    half = (features[train] ** 2).sum(1) / 2
    for start in range(0, len(test), _BATCH):
        some = test[start : start + _BATCH]
        distance = half - features[some] @ features[train].T
        right = labels[some][:, None] == labels[train][None, :]
        same[start : start + len(some)] = _nearest_share(distance, right)
        if groups is not None:
            distance[groups[some][:, None] == groups[train][None, :]] = np.inf
            apart[start : start + len(some)] = _nearest_share(distance, right)
    return same, None if groups is None else apart


def _nearest_share(distance: Features, right: npt.NDArray[np.bool_]) -> Shares:
    # Rounding makes equal rows differ by about 1e-6 of features that have unit variance.
    nearest = distance <= distance.min(1, keepdims=True) + 1e-5
    share = (nearest & right).sum(1) / nearest.sum(1)
    return np.where(np.isinf(distance).all(1), np.nan, share)


def _by_number(examined: Examined, parts: Codes, labels: Codes) -> Agreement | None:
    """Judge by the row number within the group; only test rows that have a training row in their group count."""
    if examined.groups is None or (numbers := _row_numbers(examined)) is None:
        return None
    name, order = numbers
    usable = (examined.groups >= 0) & (labels >= 0) & np.isfinite(order)
    train, test = np.flatnonzero(usable & (parts == 0)), np.flatnonzero(usable & (parts == 2))
    test = test[np.isin(examined.groups[test], examined.groups[train])]
    if not len(test):
        return None
    nearest, distance = nearest_numbers(examined.groups, order, test, train)
    evidence = {
        "nearest_by": f"'{name}' within the group",
        "mean_distance": round(float(distance.mean()), 3),
        "next_to_it": round(float((distance <= 1).mean()), 4),
    }
    return Agreement(test, (labels[nearest] == labels[test]).astype(np.float64), None, evidence)


def _row_numbers(examined: Examined) -> tuple[str, npt.NDArray[np.float64]] | None:
    """Return the column of whole numbers that counts the rows within each group, if there is one: frames, slices."""
    assert examined.groups is not None
    sizes = np.bincount(examined.groups[examined.groups >= 0])
    if sizes.sum() < _SEQUENCE * max(1, len(sizes)):
        return None
    for column in examined.schema.columns:
        series = examined.table.column(column.name)
        if column.role in ("label", "group", "split", "weight") or not pd.api.types.is_integer_dtype(series):
            continue
        values = series.to_numpy(dtype=np.int64, na_value=0)
        order = np.lexsort([values, examined.groups])
        steps = np.diff(values[order])[np.diff(examined.groups[order]) == 0]
        if len(steps) and (steps > 0).all() and np.median(steps) <= _SEQUENCE:
            return column.name, values.astype(np.float64)
    return None
