"""Labels, groups and parts: missing or unknown ones, groups on both sides of the split, classes that are too small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusetune.data.split import PARTS
from fusetune.doctor.case import Case, Codes
from fusetune.doctor.findings import Finding, Severity
from fusetune.errors import listed

# Train, validation and test part each need a row, or a whole group, of every class.
_FEWEST = len(PARTS)


def group_findings(case: Case) -> list[Finding]:
    """Return findings about empty group cells and about labels, whatever the split."""
    found = []
    if case.groups is not None:
        remedy = "fill in the group, with a value of its own where a row belongs to no other"
        found += _rows(case, case.groups < 0, "group_missing", "group", "error", "have an empty group cell", remedy)
    if case.labels is not None:
        remedy = "fill in the labels, or drop these rows"
        found += _rows(case, case.labels < 0, "label_missing", "label", "error", "have no label", remedy)
        found += _class_findings(case, case.labels)
    return found


def group_findings_across(case: Case) -> list[Finding]:
    """Return findings about the split: unknown parts, shared groups, classes without a training row."""
    parts, labels = case.parts, case.labels
    assert parts is not None  # callers ask only where there is a split
    found = []
    if case.schema.named("split") is not None:
        remedy = "write train, valid (or val, dev) or test"
        found += _rows(case, parts < 0, "part_unknown", "split", "error", "are in no known part", remedy)
    if case.groups is not None:
        found += _shared_groups(case, case.groups, parts)
    if labels is not None and (parts == 0).any():
        lost = np.setdiff1d(labels[(parts > 0) & (labels >= 0)], labels[parts == 0])
        what = f"are of {listed(case.classes[k] for k in lost)}, a class without any training row"
        remedy = "move rows of the class to the training part, or drop it"
        found += _rows(
            case, np.isin(labels, lost) & (parts >= 0), "class_not_in_training", "label", "error", what, remedy
        )
    return found


def _rows(
    case: Case, which: npt.NDArray[np.bool_], kind: str, role: str, severity: Severity, what: str, remedy: str
) -> list[Finding]:
    rows = np.flatnonzero(which)
    if not len(rows):
        return []
    column = str(case.schema.named(role))  # type: ignore[arg-type]
    evidence = {"what": f"{len(rows):,} of {len(case.ids):,} rows {what}", "count": len(rows)}
    return [Finding(kind, severity, case.names(rows), (column,), evidence, remedy)]


def _class_findings(case: Case, labels: Codes) -> list[Finding]:
    label = str(case.schema.named("label"))
    rows = np.bincount(labels[labels >= 0], minlength=len(case.classes))
    if len(case.classes) < 2:
        evidence = {"what": f"'{label}' has {len(case.classes)} value(s): there is nothing to learn"}
        remedy = "name the column that holds the classes"
        return [Finding("class_too_small", "error", (), (label,), evidence, remedy)]
    pairs = np.unique(np.stack([labels, case.units], 1)[labels >= 0], axis=0)
    units = np.bincount(pairs[:, 0], minlength=len(case.classes))
    single = np.flatnonzero(rows == 1)
    remedy = "merge the class with another, or drop it"
    what = f"are the only one of their class ({listed(case.classes[k] for k in single)})"
    found = _rows(case, np.isin(labels, single), "class_single_row", "label", "error", what, remedy)
    small = np.flatnonzero((rows > 1) & (units < _FEWEST))
    kind = "rows" if case.groups is None else "groups"
    few = listed(f"{case.classes[k]}: {units[k]}" for k in small)
    what = f"are of classes with fewer than {_FEWEST} {kind} ({few}), which cannot be in train, valid and test"
    return found + _rows(case, np.isin(labels, small), "class_too_small", "label", "warn", what, remedy)


def _shared_groups(case: Case, groups: Codes, parts: Codes) -> list[Finding]:
    known = (groups >= 0) & (parts >= 0)
    pairs = np.unique(np.stack([groups, parts], 1)[known], axis=0)
    names, count = np.unique(pairs[:, 0], return_counts=True)
    shared = names[count > 1]
    rows = known & np.isin(groups, shared)
    what = f"belong to {len(shared):,} groups (of {len(names):,}) that are in more than one part"
    remedy = "split by group: leave out the split column and keep --group, or correct the column"
    found = _rows(case, rows, "group_across_parts", "group", "error", what, remedy)
    for finding in found:
        finding.evidence.update(groups=len(shared), all_groups=len(names))
        if case.labels is not None and (case.labels[known] >= 0).any():
            # What a model scores that only recognises the group: the upper bound of what the shared groups give away.
            finding.evidence["constant_per_group"] = constant_accuracy(groups[known], case.labels[known])
            finding.evidence["majority"] = constant_accuracy(np.zeros_like(groups[known]), case.labels[known])
    return found


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
