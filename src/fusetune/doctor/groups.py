"""Labels, groups and parts: missing or unknown ones, groups on both sides of the split, classes that are too small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusetune.data.schema import Role
from fusetune.data.split import PARTS
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import Finding, Severity
from fusetune.errors import listed

# Train, validation and test part each need a row, or a whole group, of every class.
_FEWEST = len(PARTS)
Mask = npt.NDArray[np.bool_]


def group_findings(examined: Examined) -> list[Finding]:
    """Return findings about empty group cells and about labels, whatever the split."""
    findings = []
    if examined.groups is not None:
        remedy = "fill in the group, with a value of its own where a row belongs to no other"
        findings += _about(examined, examined.groups < 0, "group_missing", "group", "have an empty group cell", remedy)
    if examined.labels is not None:
        remedy = "fill in the labels, or drop these rows"
        findings += _about(examined, examined.labels < 0, "label_missing", "label", "have no label", remedy)
        findings += _class_findings(examined, examined.labels)
    return findings


def group_findings_across(examined: Examined) -> list[Finding]:
    """Return findings about the split: unknown parts, shared groups, classes without a training row."""
    parts, labels = examined.parts, examined.labels
    assert parts is not None  # callers ask only where there is a split
    findings = []
    if examined.column_of("split"):
        remedy = "write train, valid (or val, dev) or test"
        findings += _about(examined, parts < 0, "part_unknown", "split", "are in no known part", remedy)
    if examined.groups is not None:
        findings += _shared_groups(examined, examined.groups, parts)
    if labels is not None and (parts == 0).any():
        lost = np.setdiff1d(labels[(parts > 0) & (labels >= 0)], labels[parts == 0])
        what = f"are of {listed(examined.classes[k] for k in lost)}, a class without any training row"
        remedy = "move rows of the class to the training part, or drop it"
        rows = np.isin(labels, lost) & (parts >= 0)
        findings += _about(examined, rows, "class_not_in_training", "label", what, remedy)
    return findings


def _about(
    examined: Examined, which: Mask, kind: str, role: Role, what: str, remedy: str, severity: Severity = "error"
) -> list[Finding]:
    what = f"of {len(examined.ids):,} rows {what}"
    return examined.about(kind, severity, what, remedy, np.flatnonzero(which), examined.column_of(role))


def _class_findings(examined: Examined, labels: Codes) -> list[Finding]:
    classes, column = examined.classes, examined.column_of("label")
    if len(classes) < 2:
        what = f"'{column[0]}' has {len(classes)} value(s): there is nothing to learn"
        remedy = "name the column that holds the classes"
        return [examined.finding("class_too_small", "error", what, remedy, (), column)]
    rows = np.bincount(labels[labels >= 0], minlength=len(classes))
    pairs = np.unique(np.stack([labels, examined.units], 1)[labels >= 0], axis=0)
    units = np.bincount(pairs[:, 0], minlength=len(classes))
    remedy = "merge the class with another, or drop it"
    single, small = np.flatnonzero(rows == 1), np.flatnonzero((rows > 1) & (units < _FEWEST))
    only = f"are the only one of their class ({listed(classes[k] for k in single)})"
    kind = "rows" if examined.groups is None else "groups"
    few = f"are of classes with fewer than {_FEWEST} {kind} ({listed(f'{classes[k]}: {units[k]}' for k in small)}), "
    few += "which cannot be in train, valid and test"
    return [
        *_about(examined, np.isin(labels, single), "class_single_row", "label", only, remedy),
        *_about(examined, np.isin(labels, small), "class_too_small", "label", few, remedy, "warn"),
    ]


def _shared_groups(examined: Examined, groups: Codes, parts: Codes) -> list[Finding]:
    some = (groups >= 0) & (parts >= 0)
    pairs = np.unique(np.stack([groups, parts], 1)[some], axis=0)
    names, count = np.unique(pairs[:, 0], return_counts=True)
    shared = names[count > 1]
    what = f"belong to {len(shared):,} groups (of {len(names):,}) that are in more than one part"
    remedy = "split by group: leave out the split column and keep --group, or correct the column"
    findings = _about(examined, some & np.isin(groups, shared), "group_across_parts", "group", what, remedy)
    for finding in findings:
        finding.evidence.update(groups=len(shared), all_groups=len(names))
        if examined.labels is not None and (labels := examined.labels[some]).max() >= 0:
            # What a model scores that only recognises the group: the upper bound of what the shared groups give away.
            finding.evidence["constant_per_group"] = constant_accuracy(groups[some], labels)
            finding.evidence["majority"] = majority_accuracy(labels)
    return findings


def constant_accuracy(codes: Codes, labels: Codes) -> float:
    """Return how often the most frequent label per code is right, on the same rows: an upper bound."""
    some = (codes >= 0) & (labels >= 0)
    if not some.any():
        return float("nan")
    _, place = np.unique(codes[some], return_inverse=True)
    pairs, count = np.unique(np.stack([place, labels[some]], 1), axis=0, return_counts=True)
    best = np.zeros(int(place.max()) + 1, dtype=np.int64)
    np.maximum.at(best, pairs[:, 0], count)
    return round(float(best.sum() / some.sum()), 4)


def majority_accuracy(labels: Codes) -> float:
    """Return how often the most frequent label is right."""
    return constant_accuracy(np.zeros_like(labels), labels)
