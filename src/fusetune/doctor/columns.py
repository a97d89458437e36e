"""Columns: constant ones, those that only name rows, and those that give the label away, alone or together.

A column's score is the accuracy of predicting, for each of its values (numbers: for each of 64 quantile bins), the
label that was most frequent there in the other folds. Folds keep groups together, so that a column that merely names
the group gives nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from fusetune.data.cells import CellInput
from fusetune.data.choices import Kind
from fusetune.data.infer import column_notes, spelling_notes
from fusetune.data.schema import Column
from fusetune.data.spelling import as_words
from fusetune.data.words import day_order, days, finite_numbers
from fusetune.doctor.examined import FOLDS, Codes, Examined, Names
from fusetune.doctor.findings import CERTAINTIES, Certainty, Finding, Severity
from fusetune.doctor.groups import constant_accuracy, majority_accuracy
from fusetune.process import without_warnings

_BINS = 64
# Values that are rarer than the 1,000 most frequent ones count as one.
_VALUES = 1_000
# The share of the rows that the majority class gets wrong, and the column right. Honest columns stay far below: the
# position of the probe, almost an answer to what a scan shows, reaches .67 on 15,113 ultrasound frames.
_SUSPICIOUS, _CERTAIN = 0.9, 0.98
_ASK = "ask when the column is filled in: if after the label is known, leave it out"
# Of a column that names rows, nearly every value differs.
_DISTINCT = 0.95
# So few rows differ in many columns.
_FEW = 20
_USELESS = {
    "column_constant": ("the same in every row, or empty", "leave them out"),
    "column_like_id": ("another value in almost every row", "leave them out, or name one as --id"),
}
_ROLES: tuple[tuple[str, Severity, str], ...] = (
    ("input", "warn", ""), ("unused", "info", "; no input, so nothing to do")
)  # fmt: skip
# Rows for the model on all columns together: its trees need about a second per 10,000 rows and column.
_ROWS = 10_000
_TREES = 40


@dataclass(frozen=True)
class Score:
    """How well one column predicts the label: cross-validated accuracy, and that on the same rows, an upper bound."""

    column: str
    accuracy: float
    fitted: float


def column_findings(examined: Examined) -> list[Finding]:
    """Return findings about columns that hold nothing or only name rows."""
    findings, kinds = [], {column.name: _useless(examined, column) for column in examined.schema.columns}
    for kind, (what, remedy) in _USELESS.items():
        for role, severity, more in _ROLES:
            names = tuple(c.name for c in examined.schema.columns if c.role == role and kinds[c.name] == kind)
            if names:
                text = f"{len(names)} column(s) with {what}{more}"
                findings.append(examined.finding(kind, severity, text, remedy, (), names, count=len(names)))
    notes = [*spelling_notes(examined.table, examined.schema), *column_notes(examined.table, examined.schema)]
    return findings + [examined.finding(n.kind, "warn", n.what, n.remedy, (), (n.column,)) for n in notes]


def _useless(examined: Examined, column: Column) -> str | None:
    """Return the kind of finding that a column belongs to, if any; one number of a vector may say nothing."""
    if column.role not in ("input", "unused") or column.reason == "part of a vector":
        return None
    series = examined.table.column(column.name)
    distinct = _distinct(series)
    if distinct <= 1:
        return "column_constant"
    names = column.kind is Kind.CATEGORY and distinct > _DISTINCT * len(series)
    counts = column.kind is Kind.NUMBER and column.role == "input" and _counts_rows(series)
    return "column_like_id" if len(series) > _FEW and (names or counts) else None


def _distinct(series: pd.Series) -> int:
    values = series.dropna()
    try:
        return int(values.nunique())
    except TypeError:  # lists cannot be hashed
        return int(values.map(str).nunique())


def _counts_rows(series: pd.Series) -> bool:
    """Return whether a column of whole numbers only goes up, one by one or nearly so."""
    if not pd.api.types.is_integer_dtype(series):
        return False
    steps = np.diff(series.to_numpy(dtype=np.int64, na_value=0))
    return bool((steps > 0).all() or (steps < 0).all())


def score_columns(examined: Examined) -> list[Score]:
    """Return the score of every cell column, the best first."""
    if examined.labels is None or len(examined.classes) < 2:
        return []
    some = examined.labels >= 0
    labels, folds, scores = examined.labels[some], examined.folds[some], []
    for name in examined.cells:
        codes = _binned(examined.table.column(name), examined.schema.kind_of(name))[some]
        scores.append(Score(name, crossed_accuracy(codes, labels, folds), constant_accuracy(codes, labels)))
    return sorted(scores, key=lambda score: -round(score.accuracy, 4))


def _binned(series: pd.Series, kind: Kind) -> Codes:
    """Return a code per cell; missing cells are a value of their own."""
    if kind in (Kind.NUMBER, Kind.DATE):
        numbers = pd.Series(days(series, day_order(series) or "month") if kind is Kind.DATE else finite_numbers(series))
        if numbers.nunique() > _BINS:
            edges = np.unique(numbers.quantile(np.linspace(0, 1, _BINS + 1)[1:-1]).to_numpy())
            codes = np.searchsorted(edges, numbers.to_numpy(np.float64, na_value=np.nan), "right")
            return np.where(numbers.isna(), len(edges) + 1, codes).astype(np.int64)
        series = numbers
    codes, names = pd.factorize(series.astype("str").where(series.notna(), "\0"))
    rank = np.argsort(np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable"))
    return np.minimum(rank[codes], _VALUES).astype(np.int64)


def crossed_accuracy(codes: Codes, labels: Codes, folds: Codes) -> float:
    """Return how often the label that is most frequent for a code in the other folds is right.

    A code that no other fold has gets the label that is most frequent there over all.
    """
    sizes = int(codes.max()) + 1, int(labels.max()) + 1
    flat = (folds * sizes[0] + codes) * sizes[1] + labels
    counts = np.bincount(flat, minlength=FOLDS * sizes[0] * sizes[1]).reshape(FOLDS, *sizes)
    total, right = counts.sum(0), 0
    for fold in range(FOLDS):
        others = total - counts[fold]
        guess = np.where(others.sum(1) > 0, others.argmax(1), others.sum(0).argmax())
        right += int(counts[fold][np.arange(sizes[0]), guess].sum())
    return right / len(labels)


def leak_findings(examined: Examined, scores: Sequence[Score]) -> list[Finding]:
    """Return findings about columns that give the label away, and the scores of all."""
    if examined.labels is None or len(examined.classes) < 2:
        return []
    findings = [it for score in scores for it in _giving(examined, (score.column,), score.accuracy)]
    findings += _beginnings(examined)
    telling = {name for finding in findings for name in finding.columns}
    rest = tuple(name for name in examined.cells if name not in telling)
    together = _together(examined, rest) if len(rest) > 1 else None
    findings += [] if together is None else _giving(examined, rest, together)
    if not scores:
        return findings
    best, majority = scores[0], majority_accuracy(examined.labels)
    said = "the label" if examined.numbers is None else "the tenth that the number lies in"
    what = f"{best.column} predicts {said} best of all columns alone: {round(best.accuracy, 4):.1%} cross-validated, "
    what += f"{best.fitted:.1%} on the same rows (always the same: {majority:.1%})"
    evidence: dict[str, Any] = {
        "majority": majority,
        "columns": {s.column: {"cross_validated": round(s.accuracy, 4), "fitted": s.fitted} for s in scores},
        "together": None if together is None else round(together, 4),
    }
    remedy = "nothing: the scores of the columns without picture and text, to compare the model with"
    columns = tuple(score.column for score in scores)
    return [*findings, examined.finding("column_scores", "info", what, remedy, (), columns, **evidence)]


def _beginnings(examined: Examined) -> list[Finding]:
    """Return findings about texts and categories whose first or last word is nearly the label."""
    assert examined.labels is not None
    some, findings = examined.labels >= 0, []
    labels, folds, majority = examined.labels[some], examined.folds[some], majority_accuracy(examined.labels)
    for name in examined.columns(Kind.TEXT, Kind.CATEGORY):
        words = as_words(examined.table.column(name)).fillna("").str.lower().str.split()
        if not words.map(len).gt(1).any():
            continue  # such a column is scored as it is
        for which, place in (("first", 0), ("last", -1)):
            codes = _binned(words.str[place].astype("str"), Kind.CATEGORY)[some]
            accuracy = crossed_accuracy(codes, labels, folds)
            lift = round((accuracy - majority) / max(1 - majority, 1e-9), 4)
            if lift >= _SUSPICIOUS:
                what = f"the {which} word of '{name}' alone predicts {accuracy:.1%} of the labels "
                what += f"(always the same: {majority:.1%})"
                evidence: dict[str, Any] = {"accuracy": round(accuracy, 4), "majority": majority, "lift": lift}
                severity: Severity = "error" if lift >= _CERTAIN else "warn"
                sure: Certainty = "very likely" if lift >= _CERTAIN else "likely"
                found = ("text_gives_label", severity, what, _ASK, (), (name,))
                findings.append(examined.finding(*found, certainty=sure, **evidence))
                break
    return findings


def _giving(examined: Examined, columns: Names, accuracy: float) -> list[Finding]:
    """Return the finding about columns that are right where the majority class is wrong, nearly always."""
    assert examined.labels is not None
    majority = majority_accuracy(examined.labels)
    lift, one = round((accuracy - majority) / max(1 - majority, 1e-9), 4), len(columns) == 1
    if lift < _SUSPICIOUS:
        return []
    who = f"'{columns[0]}' alone predicts" if one else f"{len(columns)} columns together predict"
    what = f"{who} {round(accuracy, 4):.1%} of the labels (always the same: {majority:.1%})"
    remedy = _ASK
    kind = "column_gives_label" if one else "columns_give_label"
    severity: Severity = "error" if lift >= _CERTAIN else "warn"
    # Many honest columns together may tell what none of them was made to tell.
    sure: Certainty = tuple(CERTAINTIES)[(1 if one else 2) + (lift < _CERTAIN)]
    evidence: dict[str, Any] = {"accuracy": round(accuracy, 4), "majority": majority, "lift": lift}
    return [examined.finding(kind, severity, what, remedy, (), columns, certainty=sure, **evidence)]


def _together(examined: Examined, names: Sequence[str]) -> float | None:
    """Return the cross-validated accuracy of trees on all cell columns, on at most 10,000 rows of the sample.

    It is None where one fold holds all rows.
    """
    assert examined.labels is not None
    rows = examined.sample[examined.labels[examined.sample] >= 0][:_ROWS]
    labels, folds = examined.labels[rows], examined.folds[rows]
    if (folds == folds[0]).all():
        return None
    return trees_accuracy(cell_matrix(examined, names, rows), labels, folds)


def trees_accuracy(cells: npt.NDArray[np.float32], labels: Codes, folds: Codes) -> float:
    """Return the cross-validated accuracy of trees on cells [rows, width]."""
    model = ExtraTreesClassifier(_TREES, min_samples_leaf=2, random_state=0, n_jobs=1)
    with without_warnings(UserWarning):  # that labels which nearly all differ may be numbers
        guesses = cross_val_predict(model, cells, labels, cv=PredefinedSplit(folds))
    return float((guesses == labels).mean())


def cell_matrix(examined: Examined, names: Sequence[str], rows: Codes) -> npt.NDArray[np.float32]:
    """Return cells as standardised numbers (0 where missing) and one-hot categories, float32 [rows, width]."""
    part = examined.part(rows)
    cells = CellInput.fit(part, {name: examined.schema.kind_of(name) for name in names}, np.arange(len(rows)))
    source = cells.bind(part)
    blocks = [source.numbers, source.missing.astype(np.float32)]
    for place, width in enumerate(cells.cardinalities):
        # The 50 most frequent categories; the rest share the last column.
        codes = np.minimum(source.codes[:, place], 51)
        blocks.append(np.eye(min(width, 52), dtype=np.float32)[np.minimum(codes, min(width, 52) - 1)])
    return np.concatenate(blocks, axis=1).astype(np.float32)
