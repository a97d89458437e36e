"""The report as one HTML file that needs nothing else: no network, no fonts, one small script that it can do without.

This module turns the result into the rows that ``page.html`` prints; drawings come from ``plots``, words from
``prose``, what was measured beyond the scores from ``panels``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fusetune.data.schema import free_name
from fusetune.evaluate import metrics
from fusetune.evaluate.metrics import IntArray
from fusetune.files import write_text
from fusetune.report import panels, plots, prose
from fusetune.report.found import found
from fusetune.report.template import page, script, style
from fusetune.report.terms import SCORES, TERMS
from fusetune.result import Result
from fusetune.strategies import WHOLE

MANY_CLASSES = 20  # more do not fit a matrix on a page: the most frequent confusions are listed instead
_FIRST = 15

_SHARES = {"accuracy", "balanced_accuracy"}

_STAGES = {
    "stage_u": "Fine-tuning each encoder alone",
    "encode": "Encoding augmented views, once",
    "stage_m": "Fitting the head on the combination",
    "baselines": "Models to compare with",
    "guide": "What kind of fusion the data ask for",
    "judge": "Judging on validation and test rows",
}


@dataclass(frozen=True)
class ClassRow:
    """Test rows of one class and how they were decided; NaN where a ratio has no rows."""

    name: str
    rows: int
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another."""

    actual: str
    decided: str
    rows: int
    share: float


def write_report(path: Path, result: Result) -> None:
    """Write the report of a run; a file that is already there is replaced in one step. Same result, same bytes."""
    write_text(path, render(result))


def render(result: Result) -> str:
    """Return the report as HTML."""
    code = script()
    seal = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    sections = {field.name: getattr(result, field.name) for field in fields(result)}
    values = {**sections, **_context(result)}
    return page("page.html", css=style(), script=code, script_hash=seal, title=result.title, **values)


def _context(result: Result) -> dict[str, Any]:
    method, judged, training, names = result.method, result.judged, result.training, result.data.classes
    rule = judged.rule(names)
    table = metrics.confusion(rule.called(judged.probabilities["test"]), judged.labels["test"])
    bins = metrics.reliability(judged.probabilities["test"], judged.labels["test"])
    few = len(names) <= MANY_CLASSES
    classes = class_rows(names, table)
    inputs = {column.modality for column in result.data.inputs}
    together = {free_name(f"strategy {method.name}", inputs): "all encoders and the head together"}
    first, (recalls, more) = panels.first_rows(result), panels.first_recalls(result)
    levels = plots.losses_axis(training.curves.values())
    stages = _STAGES | {method.name: "Training all encoders and the head together"}
    return {
        "analysis": judged.analysis,
        "rule": rule if judged.acted else None,
        "answer": prose.answer(result),
        "verdict": prose.verdict(result),
        "certainty": prose.certainty(result),
        "found": found(result.data.findings),
        "first": first,
        "first_axis": panels.accuracy_axis(row.accuracy for row in first),
        "recalls": recalls,
        "more_recalls": more,
        "recall_axis": panels.accuracy_axis(row.share for row in recalls),
        "matrix_of": table.tolist() if len(names) <= panels.FEW_CLASSES else None,
        "axis": panels.accuracy_axis(row.accuracy for row in judged.gain),
        "subset_axis": panels.accuracy_axis(row.accuracy for row in judged.analysis.subsets or []),
        "missing": panels.missing(result),
        "selective": panels.selective(judged.analysis.risk_coverage),
        "selective_words": panels.selective_words(judged.analysis.risk_coverage),
        "limits": panels.limits(result),
        "names": {key: name for key, (name, _) in SCORES.items()},
        "scores": _scores(result),
        "classes": classes if few else sorted(classes, key=lambda row: (row.rows == 0, row.f1, row.name)),
        "first_classes": len(classes) if few else _FIRST,
        "confusion": table.tolist() if few else None,
        "confused": confused_pairs(names, table)[:_FIRST],
        "bins": bins,
        "reliability": plots.reliability_plot(bins),
        "curves": [
            (
                together.get(name, name),
                plots.learning_plot(together.get(name, name), epochs, best, levels),
                epochs,
                best,
            )
            for name, epochs in training.curves.items()
            if epochs
            for best in (training.best_epochs.get(name),)
        ],
        "whole": WHOLE,
        "terms": TERMS,
        "stage_names": stages,
        "stages": [(stages.get(key, key), value) for key, value in training.seconds.items() if key != "total"],
        "config": _yaml(result.origin.config),
        "settings": _yaml(method.settings) if method.settings else "",
    }


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(values, default=str)), sort_keys=False, allow_unicode=True)


def class_rows(names: list[str], table: IntArray) -> list[ClassRow]:
    """Return recall, precision and F1 per class from the confusion matrix ``int [classes, classes]``."""
    hits, actual, decided = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    ratios = ((hits, actual), (hits, decided), (2 * hits, actual + decided))
    return [
        ClassRow(name, int(actual[k]), *(_share(above[k], below[k]) for above, below in ratios))
        for k, name in enumerate(names)
    ]


def confused_pairs(names: list[str], table: IntArray) -> list[Confusion]:
    """Return the confusions that occur, the most frequent first, from the matrix ``int [classes, classes]``."""
    mistakes = table - np.diag(np.diag(table))
    pairs = [(int(a), int(d)) for a, d in np.argwhere(mistakes)]
    pairs.sort(key=lambda pair: (-mistakes[pair], pair))
    return [
        Confusion(names[a], names[d], int(mistakes[a, d]), _share(mistakes[a, d], table[a].sum())) for a, d in pairs
    ]


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _scores(result: Result) -> list[dict[str, Any]]:
    """Return the score table: name, meaning, and value with bounds on the test and validation parts."""
    rows = []
    for key, interval in result.judged.test.items():
        top = key.removeprefix("top_")
        others = (f"Top {top}", f"share of rows whose label is among the {top} likeliest classes")
        name, meaning = SCORES.get(key, others)
        share, valid = key in _SHARES or key not in SCORES, result.judged.valid.get(key)
        rows.append({"name": name, "meaning": meaning, "share": share, "test": interval, "valid": valid})
    return rows
