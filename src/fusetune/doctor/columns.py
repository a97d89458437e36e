"""Columns: constant ones, those that only name rows, and those that give the label away, alone or together.

A column's score is the accuracy of predicting, for each of its values (numbers: for each of 64 quantile bins), the
label that was most frequent there in the other folds. Folds keep groups together, so that a column that merely names
the group gives nothing away.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier

from fusetune.data.cells import CellInput
from fusetune.data.kinds import Kind
from fusetune.data.schema import Column
from fusetune.data.table import Table, first_is_day, parse_dates
from fusetune.doctor.case import FOLDS, Case, Codes
from fusetune.doctor.findings import Finding, Severity
from fusetune.doctor.groups import constant_accuracy

_BINS = 64
# Values that are rarer than the 1,000 most frequent ones count as one.
_VALUES = 1_000
# The share of the rows that the majority class gets wrong, and the column right. Honest columns stay far below: the
# position of the probe, almost an answer to what a scan shows, reaches .67 on 15,113 ultrasound frames.
_SUSPICIOUS, _CERTAIN = 0.9, 0.98
# Of a column that names rows, nearly every value differs.
_DISTINCT = 0.95
# Rows for the model on all columns together: its trees need about a second per 10,000 rows and column.
_ROWS = 10_000
_TREES = 40


@dataclass(frozen=True)
class Score:
    """How well one column predicts the label.

    Attributes:
        column: The column.
        accuracy: Cross-validated.
        fitted: On the same rows: an upper bound.
        lift: Share of the rows that the majority class gets wrong, and the column right, cross-validated.
    """

    column: str
    accuracy: float
    fitted: float
    lift: float


def column_findings(case: Case) -> list[Finding]:
    """Return findings about columns that hold nothing or only name rows."""
    constant, naming = [], []
    for column in case.schema.columns:
        if column.role not in ("input", "unused") or column.reason == "part of a vector":
            continue
        series = case.table.column(column.name)
        distinct = _distinct(series)
        if distinct <= 1:
            constant.append(column)
        elif (column.kind is Kind.CATEGORY and distinct > _DISTINCT * len(series) and len(series) > 20) or (
            column.kind is Kind.NUMBER and column.role == "input" and _counts_rows(series)
        ):
            naming.append(column)
    return [
        *_named(constant, "column_constant", "the same in every row, or empty", "leave them out"),
        *_named(naming, "column_like_id", "another value in almost every row", "leave them out, or name one as --id"),
    ]


def _named(columns: Sequence[Column], kind: str, what: str, remedy: str) -> list[Finding]:
    found = []
    for role, severity, more in (("input", "warn", ""), ("unused", "info", "; no input, so nothing to do")):
        names = tuple(c.name for c in columns if c.role == role)
        if names:
            text = f"{len(names)} column(s) with {what}{more}"
            level: Severity = "warn" if severity == "warn" else "info"
            found.append(Finding(kind, level, (), names, {"what": text, "count": len(names)}, remedy))
    return found


def _distinct(series: pd.Series) -> int:
    values = series.dropna()
    try:
        return int(values.nunique())
    except TypeError:  # lists cannot be hashed
        return int(values.map(str).nunique())


def _counts_rows(series: pd.Series) -> bool:
    """Return whether a column of whole numbers only goes up, one by one or nearly so."""
    if len(series) <= 20 or not pd.api.types.is_integer_dtype(series):
        return False
    steps = np.diff(series.to_numpy(dtype=np.int64, na_value=0))
    return bool((steps > 0).all() or (steps < 0).all())


def score_columns(case: Case) -> list[Score]:
    """Return the score of every cell column, the best first."""
    if case.labels is None or len(case.classes) < 2:
        return []
    known = case.labels >= 0
    labels, folds = case.labels[known], case.folds[known]
    majority = constant_accuracy(np.zeros_like(labels), labels)
    scores = []
    for name in case.cells:
        codes = _binned(case.table.column(name), case.schema.kind_of(name))[known]
        accuracy = crossed_accuracy(codes, labels, folds)
        lift = (accuracy - majority) / max(1 - majority, 1e-9)
        scores.append(Score(name, round(accuracy, 4), constant_accuracy(codes, labels), round(lift, 4)))
    return sorted(scores, key=lambda score: -score.accuracy)


def _binned(series: pd.Series, kind: Kind) -> Codes:
    """Return a code per cell; missing cells are a value of their own."""
    if kind is Kind.DATE:
        series = (parse_dates(series, first_is_day(series)) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
    if kind in (Kind.NUMBER, Kind.DATE):
        numbers = pd.to_numeric(series, errors="coerce")
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


def leak_findings(case: Case, scores: Sequence[Score]) -> list[Finding]:
    """Return findings about columns that give the label away, and the scores of all."""
    if case.labels is None or not scores:
        return []
    known = case.labels[case.labels >= 0]
    majority = constant_accuracy(np.zeros_like(known), known)
    found = []
    for score in scores:
        if score.lift >= _SUSPICIOUS:
            what = (
                f"'{score.column}' alone predicts {score.accuracy:.1%} of the labels (always the same: {majority:.1%})"
            )
            found.append(_giving("column_gives_label", (score.column,), what, score.accuracy, score.lift, majority))
    rest = [name for name in case.cells if name not in {c for finding in found for c in finding.columns}]
    together = _together(case, rest) if len(rest) > 1 else None
    if together is not None and (lift := (together - majority) / max(1 - majority, 1e-9)) >= _SUSPICIOUS:
        what = f"{len(rest)} columns together predict {together:.1%} of the labels (always the same: {majority:.1%})"
        found.append(_giving("columns_give_label", tuple(rest), what, together, lift, majority))
    evidence = {
        "what": f"{scores[0].column} predicts the label best of all columns alone: {scores[0].accuracy:.1%} "
        f"cross-validated, {scores[0].fitted:.1%} on the same rows (always the same: {majority:.1%})",
        "majority": majority,
        "columns": {s.column: {"cross_validated": s.accuracy, "fitted": s.fitted} for s in scores},
        "together": None if together is None else round(together, 4),
    }
    remedy = "nothing: the scores of the columns without picture and text, to compare the model with"
    return [*found, Finding("column_scores", "info", (), tuple(s.column for s in scores), evidence, remedy)]


def _giving(kind: str, columns: tuple[str, ...], what: str, accuracy: float, lift: float, majority: float) -> Finding:
    severity: Severity = "error" if lift >= _CERTAIN else "warn"
    evidence = {"what": what, "accuracy": round(accuracy, 4), "majority": majority, "lift": round(lift, 4)}
    remedy = "ask when the column is filled in: if after the label is known, leave it out"
    return Finding(kind, severity, (), columns, evidence, remedy)


def _together(case: Case, names: Sequence[str]) -> float | None:
    """Return the cross-validated accuracy of trees on all cell columns, on at most 10,000 rows of the sample.

    It is None where one fold holds all rows.
    """
    assert case.labels is not None
    rows = case.sample[case.labels[case.sample] >= 0][:_ROWS]
    matrix = cell_matrix(case, names, rows)
    labels, folds = case.labels[rows], case.folds[rows]
    right = 0
    for fold in np.unique(folds):
        inside = folds == fold
        if inside.all():
            return None
        model = ExtraTreesClassifier(_TREES, min_samples_leaf=2, random_state=0, n_jobs=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that labels which nearly all differ may be numbers
            model.fit(matrix[~inside], labels[~inside])
        right += int((model.predict(matrix[inside]) == labels[inside]).sum())
    return right / len(rows)


def cell_matrix(case: Case, names: Sequence[str], rows: Codes) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return cells as standardised numbers (0 where missing) and one-hot categories, float32 [rows, width]."""
    part = Table(case.table.frame.iloc[rows].reset_index(drop=True), case.table.name, case.table.root)
    cells = CellInput.fit(part, {name: case.schema.kind_of(name) for name in names}, np.arange(len(rows)))
    source = cells.bind(part)
    blocks = [source.numbers, source.missing.astype(np.float32)]
    for place, width in enumerate(cells.cardinalities):
        # The 50 most frequent categories; the rest share the last column.
        codes = np.minimum(source.codes[:, place], 51)
        blocks.append(np.eye(min(width, 52), dtype=np.float32)[np.minimum(codes, min(width, 52) - 1)])
    return np.concatenate(blocks, axis=1).astype(np.float32)
