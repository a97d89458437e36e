"""The report as one HTML file that needs nothing else: no network, no fonts, one small script that it can do without.

This module turns the facts into the rows that ``page.html`` prints; drawings come from ``plots``, words from ``prose``,
what was measured beyond the scores from ``panels``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fusetune.evaluate import metrics
from fusetune.evaluate.metrics import IntArray
from fusetune.files import write_text
from fusetune.report import panels, plots, prose
from fusetune.report.facts import Facts
from fusetune.report.template import environment, script, style

MANY_CLASSES = 20  # more do not fit a matrix on a page: the most frequent confusions are listed instead
_SHOWN_FIRST = 15

_SCORES = {
    "accuracy": ("Accuracy", "share of rows decided correctly"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes: each class counts the same"),
    "macro_f1": ("Macro F1", "mean F1 of the classes"),
    "auroc": ("AUROC", "how well probabilities rank a class against the rest; 0.5 is chance"),
    "auprc": ("AUPRC", "the same from precision and recall; chance is the share of the class"),
    "nll": ("NLL", "negative log-likelihood in nats; lower is better, certain errors cost most"),
    "brier": ("Brier score", "squared distance of the probabilities to the label, 0 to 2; lower is better"),
    "ece": ("ECE", "mean distance between stated certainty and accuracy; lower is better"),
    "classwise_ece": ("Class-wise ECE", "the same for the probabilities of every class; lower is better"),
}
_SHARES = {"accuracy", "balanced_accuracy"}

_STAGES = {
    "stage_u": "Fine-tuning each encoder alone",
    "encode": "Encoding augmented views, once",
    "stage_m": "Fitting the head on the combination",
    "baselines": "Models to compare with",
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


def write_report(path: Path, facts: Facts) -> None:
    """Write the report of a run; a file that is already there is replaced in one step.

    Args:
        path: The HTML file to write.
        facts: What to report. The same facts give the same bytes.
    """
    write_text(path, render(facts))


def render(facts: Facts) -> str:
    """Return the report as HTML."""
    code = script()
    seal = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = environment().get_template("page.html")
    return page.render(css=style(), script=code, script_hash=seal, facts=facts, **_context(facts))


def _context(facts: Facts) -> dict[str, Any]:
    table = metrics.confusion(facts.probabilities, facts.labels)
    bins = metrics.reliability(facts.probabilities, facts.labels)
    few = len(facts.classes) <= MANY_CLASSES
    classes = class_rows(facts.classes, table)
    subsets = facts.analysis.get("subsets") or []
    return {
        "answer": prose.answer(facts),
        "axis": panels.accuracy_axis(row.accuracy for row in facts.gain),
        "subset_axis": panels.accuracy_axis(prose.interval(row["accuracy"]) for row in subsets),
        "missing": panels.missing(facts),
        "selective": panels.selective(facts),
        "selective_words": panels.selective_words(facts),
        "limits": panels.limits(facts),
        "names": {key: name for key, (name, _) in _SCORES.items()},
        "scores": _scores(facts),
        "classes": classes if few else sorted(classes, key=_hardest_first),
        "shown_first": len(classes) if few else _SHOWN_FIRST,
        "confusion": table.tolist() if few else None,
        "confused": confused_pairs(facts.classes, table)[:_SHOWN_FIRST],
        "bins": bins,
        "reliability": plots.reliability_plot(bins),
        "curves": {
            name: plots.learning_plot(name, epochs, facts.best_epochs.get(name))
            for name, epochs in facts.curves.items()
            if epochs
        },
        "stages": [(_STAGES.get(key, key), value) for key, value in facts.seconds.items() if key != "total"],
        "config": yaml.safe_dump(
            json.loads(json.dumps(facts.config, default=str)), sort_keys=False, allow_unicode=True
        ),
    }


def class_rows(names: list[str], table: IntArray) -> list[ClassRow]:
    """Return recall, precision and F1 per class from the confusion matrix ``int [classes, classes]``."""
    hits, actual, decided = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return [
        ClassRow(
            name,
            int(actual[k]),
            _share(hits[k], actual[k]),
            _share(hits[k], decided[k]),
            _share(2 * hits[k], actual[k] + decided[k]),
        )
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


def _hardest_first(row: ClassRow) -> tuple[bool, float, str]:
    return (row.rows == 0, row.f1, row.name)


def _scores(facts: Facts) -> list[dict[str, Any]]:
    """Return the score table: name, meaning, and value with bounds on the test and validation parts."""
    rows = []
    for key, interval in facts.test.items():
        top = key.removeprefix("top_")
        others = (f"Top {top}", f"share of rows whose label is among the {top} likeliest classes")
        name, meaning = _SCORES.get(key, others)
        rows.append(
            {
                "name": name,
                "meaning": meaning,
                "share": key in _SHARES or key not in _SCORES,
                "test": interval,
                "valid": facts.valid.get(key),
            }
        )
    return rows
